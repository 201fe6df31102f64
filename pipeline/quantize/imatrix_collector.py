"""Collects llama.cpp's importance matrix: the squared inputs of each matrix product, summed.

The sums are those of llama.cpp's tools/imatrix/imatrix.cpp, in its order and in float32, so that the same
text gives the same bytes. llama.cpp's scheduler calls `Collector.on_tensor` before and after each operation.
"""

from __future__ import annotations

import ctypes
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufio.ggml import F32, library
from pipeline.errors import PipelineError
from pipeline.quantize.imatrix_file import Sums

_DIMENSIONS, _SOURCES = 4, 10  # GGML_MAX_DIMS, GGML_MAX_SRC
_OBJECT_SIZE = 32  # bytes of struct ggml_object, which precedes each tensor in a context
_CONTEXT_SIZE = 1 << 16  # bytes; a few tensors without data


class GgmlTensor(ctypes.Structure):
    """struct ggml_tensor. `ne` are its dimensions, row length first, `nb` its strides in bytes."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * _DIMENSIONS),
        ("nb", ctypes.c_size_t * _DIMENSIONS),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * _SOURCES),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
        ("extra", ctypes.c_void_p),
        ("padding", ctypes.c_char * 8),
    )

    def source(self, number: int) -> GgmlTensor:
        """Return source tensor `number`, which must exist."""
        return GgmlTensor.from_address(self.src[number])

    def array(self, dtype: Any) -> NDArray[Any]:
        """Return a view of its data, [ne[3], ne[2], ne[1], ne[0]], valid as long as llama.cpp keeps it."""
        last = sum((size - 1) * step for size, step in zip(self.ne, self.nb, strict=True))
        memory = (ctypes.c_char * (last + np.dtype(dtype).itemsize)).from_address(self.data)
        found: NDArray[Any] = np.ndarray(tuple(self.ne)[::-1], dtype, memory, strides=tuple(self.nb)[::-1])
        return found


class _Parameters(ctypes.Structure):
    """struct ggml_init_params."""

    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


_Tensor = ctypes.POINTER(GgmlTensor)
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "ggml_init": (ctypes.c_void_p, (_Parameters,)),
    "ggml_mul_mat": (_Tensor, (ctypes.c_void_p, _Tensor, _Tensor)),
    "ggml_new_tensor_3d": (
        _Tensor,
        (ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64),
    ),
    "ggml_op_name": (ctypes.c_char_p, (ctypes.c_int,)),
    "ggml_set_name": (_Tensor, (_Tensor, ctypes.c_char_p)),
    "ggml_tensor_overhead": (ctypes.c_size_t, ()),
    "ggml_backend_buffer_is_host": (ctypes.c_bool, (ctypes.c_void_p,)),
}


def ggml() -> Any:
    """Return ggml's library with the signatures of its tensor functions set."""
    found = library()
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def check_layout() -> None:
    """Raise PipelineError unless GgmlTensor has the installed library's layout.

    ggml makes two tensors and their product, and every field that is read later is compared.
    """
    lib = ggml()
    context = lib.ggml_init(_Parameters(_CONTEXT_SIZE, None, True))
    try:
        first = lib.ggml_new_tensor_3d(context, F32, 5, 7, 3)
        second = lib.ggml_new_tensor_3d(context, F32, 5, 11, 3)
        lib.ggml_set_name(first, b"blk.0.probe.weight")
        product = lib.ggml_mul_mat(context, first, second).contents
        fits = ctypes.sizeof(GgmlTensor) + _OBJECT_SIZE == lib.ggml_tensor_overhead()
        if not (fits and _fields_match(first.contents, second.contents, product)):
            raise PipelineError(
                "this llama-cpp-python keeps its tensors in another way than the version this project knows: "
                "pip install -r requirements.txt"
            )
    finally:
        lib.ggml_free(context)


def _fields_match(first: GgmlTensor, second: GgmlTensor, product: GgmlTensor) -> bool:
    return (
        (first.type, tuple(first.ne), tuple(first.nb)) == (F32, (5, 7, 3, 1), (4, 20, 140, 420))
        and tuple(second.ne) == (5, 11, 3, 1)
        and first.name == b"blk.0.probe.weight"
        and not (first.buffer or first.data or first.view_src or any(first.src))
        and tuple(product.ne) == (7, 11, 3, 1)
        and ggml().ggml_op_name(product.op) == b"MUL_MAT"
        and tuple(product.src)[:3] == (ctypes.addressof(first), ctypes.addressof(second), None)
    )


_MIN_ROWS = 16  # llama.cpp ignores smaller batches
Squares = NDArray[np.float32]


class Collector:
    """Sums by weight name. An error in the callback is kept in `error`, as it cannot pass through C."""

    def __init__(self) -> None:
        """Raise PipelineError when the installed llama.cpp has an unknown tensor layout."""
        check_layout()
        self.sums: dict[str, Sums] = {}
        self.error: Exception | None = None

    def on_tensor(self, address: int, ask: bool, _: Any) -> bool:
        """Return, as llama.cpp's `cb_eval`, whether a tensor is wanted; once computed, add its inputs."""
        tensor = GgmlTensor.from_address(address)
        try:
            return self._wants(tensor) if ask else self._add_inputs(tensor)
        except Exception as error:  # noqa: BLE001 - it cannot pass through C
            self.error = error
            return False

    def _wants(self, tensor: GgmlTensor) -> bool:
        if tensor.op == self._mul_mat_id:
            return True
        if tensor.op != self._mul_mat:
            return False
        weight, inputs = tensor.source(0), tensor.source(1)
        return inputs.ne[1] >= _MIN_ROWS and inputs.type == F32 and _name(weight).startswith("blk.")

    def _add_inputs(self, tensor: GgmlTensor) -> bool:
        weight, inputs = tensor.source(0), tensor.source(1)
        if not ggml().ggml_backend_buffer_is_host(inputs.buffer):
            raise PipelineError(f"the inputs of {_name(weight)} are not in the CPU's memory")
        values = inputs.array(np.float32)
        if tensor.op == self._mul_mat_id:
            self._add_experts(weight, values, tensor.source(2).array(np.int32)[0, 0])
        else:
            self._add(weight, values)
        if not np.isfinite(self.sums[_name(weight)].values).all():
            raise PipelineError(f"the inputs of {_name(weight)} are not finite: the model is damaged")
        return True

    def _add(self, weight: GgmlTensor, values: Squares) -> None:
        """Add values [ne3, ne2, rows, width] of a plain product; sums are separate for each matrix."""
        deep, high = weight.ne[3], weight.ne[2]
        sums = self._sums(weight, deep * high, 1)
        for third in range(values.shape[0]):
            for second in range(values.shape[1]):
                matrix = (third % deep) * high + second % high
                sums.values[matrix] = _add_squares(sums.values[matrix], values[third, second])
        sums.counts += values.shape[0] * values.shape[1] * values.shape[2] // (deep * high)

    def _add_experts(self, weight: GgmlTensor, values: Squares, ids: NDArray[np.int32]) -> None:
        """Add values [1, tokens, used or 1, width]; ids [tokens, used] are the experts of each token."""
        sums = self._sums(weight, weight.ne[2], weight.ne[2])
        ranked = ids.T  # llama.cpp adds every token's first expert before any second one
        for expert in np.unique(ids):
            rank, token = np.nonzero(ranked == expert)
            sums.values[expert] = _add_squares(sums.values[expert], values[0, token, rank % values.shape[2]])
            sums.counts[expert] += len(token)

    def _sums(self, weight: GgmlTensor, matrices: int, counts: int) -> Sums:
        empty = Sums(np.zeros((matrices, weight.ne[0]), np.float32), np.zeros(counts, np.int64))
        return self.sums.setdefault(_name(weight), empty)

    @cached_property
    def _mul_mat(self) -> int:
        return _operation(b"MUL_MAT")

    @cached_property
    def _mul_mat_id(self) -> int:
        return _operation(b"MUL_MAT_ID")


def _operation(name: bytes) -> int:
    """Return an operation's value in `enum ggml_op`, which changes between versions."""
    return next(number for number in range(256) if ggml().ggml_op_name(number) == name)


def _name(weight: GgmlTensor) -> str:
    """Return a weight's name; a copy on another device is called `CUDA0#blk.0.attn_k.weight#0`."""
    name: str = weight.name.decode()
    return name.split("#")[1] if "#" in name else name


def _add_squares(sums: Squares, rows: Squares) -> Squares:
    """Return sums [width] plus the squares of rows [n, width], added row by row, numpy's order for axis 0."""
    stacked = np.empty((len(rows) + 1, len(sums)), np.float32)
    stacked[0] = sums
    np.square(rows, out=stacked[1:])
    total: Squares = np.add.reduce(stacked, axis=0)
    return total
