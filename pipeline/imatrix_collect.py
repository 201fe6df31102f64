"""What goes into each matrix product of a model, squared and summed: llama.cpp's importance matrix.

The sums are those of llama.cpp's tools/imatrix/imatrix.cpp, in its order and in float32, so that the same
text gives the same bytes. llama.cpp's scheduler calls `Collector.on_tensor` before and after each step.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.ggml import F32
from pipeline.ggml_tensor import GgmlTensor, check_layout, ggml
from pipeline.imatrix_file import Sums

_LEAST_ROWS = 16  # llama.cpp leaves out smaller batches
Squares = NDArray[np.float32]


class Collector:
    """Sums by the name of the weight. What fails in a callback waits in `error`, for C cannot raise it."""

    def __init__(self) -> None:
        """Raises PipelineError when the installed llama.cpp keeps its tensors in an unknown way."""
        check_layout()
        self.sums: dict[str, Sums] = {}
        self.error: Exception | None = None

    def on_tensor(self, address: int, ask: bool, _: Any) -> bool:
        """llama.cpp's `cb_eval`: whether a tensor is wanted, and later, what it was computed from."""
        tensor = GgmlTensor.from_address(address)
        try:
            return self._wants(tensor) if ask else self._take(tensor)
        except Exception as error:  # noqa: BLE001 - C stands between here and whoever may catch it
            self.error = error
            return False

    def _wants(self, tensor: GgmlTensor) -> bool:
        if tensor.op == self._indirect:
            return True
        if tensor.op != self._direct:
            return False
        weight, inputs = tensor.source(0), tensor.source(1)
        return inputs.ne[1] >= _LEAST_ROWS and inputs.type == F32 and _name(weight).startswith("blk.")

    def _take(self, tensor: GgmlTensor) -> bool:
        weight, inputs = tensor.source(0), tensor.source(1)
        if not ggml().ggml_backend_buffer_is_host(inputs.buffer):
            raise PipelineError(f"the inputs of {_name(weight)} are not in the CPU's memory")
        values = inputs.array(np.float32)
        if tensor.op == self._indirect:
            self._add_experts(weight, values, tensor.source(2).array(np.int32)[0, 0])
        else:
            self._add(weight, values)
        if not np.isfinite(self.sums[_name(weight)].values).all():
            raise PipelineError(f"the inputs of {_name(weight)} are not finite: the model is damaged")
        return True

    def _add(self, weight: GgmlTensor, values: Squares) -> None:
        """values: [ne3, ne2, rows, width] of a plain product; with several matrices each has its own sums."""
        deep, high = weight.ne[3], weight.ne[2]
        sums = self._sums(weight, deep * high, 1)
        for third in range(values.shape[0]):
            for second in range(values.shape[1]):
                matrix = (third % deep) * high + second % high
                sums.values[matrix] = _added(sums.values[matrix], values[third, second])
        sums.counts += values.shape[0] * values.shape[1] * values.shape[2] // (deep * high)

    def _add_experts(self, weight: GgmlTensor, values: Squares, ids: NDArray[np.int32]) -> None:
        """values: [1, tokens, used or 1, width]; ids: [tokens, used], the experts of each token."""
        sums = self._sums(weight, weight.ne[2], weight.ne[2])
        ranked = ids.T  # llama.cpp takes every token's first expert before any second one
        for expert in np.unique(ids):
            rank, token = np.nonzero(ranked == expert)
            sums.values[expert] = _added(sums.values[expert], values[0, token, rank % values.shape[2]])
            sums.counts[expert] += len(token)

    def _sums(self, weight: GgmlTensor, matrices: int, counts: int) -> Sums:
        empty = Sums(np.zeros((matrices, weight.ne[0]), np.float32), np.zeros(counts, np.int64))
        return self.sums.setdefault(_name(weight), empty)

    @cached_property
    def _direct(self) -> int:
        return _operation(b"MUL_MAT")

    @cached_property
    def _indirect(self) -> int:
        return _operation(b"MUL_MAT_ID")


def _operation(name: bytes) -> int:
    """The number of an operation in `enum ggml_op`, which changes from version to version."""
    return next(number for number in range(256) if ggml().ggml_op_name(number) == name)


def _name(weight: GgmlTensor) -> str:
    """A weight's name; one that was copied to another device is called `CUDA0#blk.0.attn_k.weight#0`."""
    name: str = weight.name.decode()
    return name.split("#")[1] if "#" in name else name


def _added(sums: Squares, rows: Squares) -> Squares:
    """The sums and each row's squares, added row after row: numpy reduces the first axis in that order."""
    stacked = np.empty((len(rows) + 1, len(sums)), np.float32)
    stacked[0] = sums
    np.square(rows, out=stacked[1:])
    total: Squares = np.add.reduce(stacked, axis=0)
    return total
