"""llama.cpp's tensors while it computes: a mirror of `struct ggml_tensor` (ggml.h), checked before use."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.errors import PipelineError
from pipeline.ggml import F32, library

_DIMENSIONS, _SOURCES = 4, 10  # GGML_MAX_DIMS, GGML_MAX_SRC
_OBJECT_SIZE = 32  # of struct ggml_object, which stands before each tensor in a context
_ROOM = 1 << 16  # bytes; some tensors without data


class GgmlTensor(ctypes.Structure):
    """struct ggml_tensor. `ne` are its sizes, the width of a row first, `nb` its strides in bytes."""

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
        """The tensor that it is computed from; there must be one."""
        return GgmlTensor.from_address(self.src[number])

    def array(self, kind: Any) -> NDArray[Any]:
        """Its numbers where they are, [ne[3], ne[2], ne[1], ne[0]], as long as llama.cpp keeps them."""
        last = sum((size - 1) * step for size, step in zip(self.ne, self.nb, strict=True))
        memory = (ctypes.c_char * (last + np.dtype(kind).itemsize)).from_address(self.data)
        found: NDArray[Any] = np.ndarray(tuple(self.ne)[::-1], kind, memory, strides=tuple(self.nb)[::-1])
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
    """ggml's functions about tensors, with their types."""
    found = library()
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(found, name)
        function.restype, function.argtypes = result, arguments
    return found


def check_layout() -> None:
    """Raise PipelineError unless the mirror fits the library that is installed.

    Two tensors and their product are made by ggml itself, and every field that is read later is compared.
    """
    lib = ggml()
    context = lib.ggml_init(_Parameters(_ROOM, None, True))
    try:
        first = lib.ggml_new_tensor_3d(context, F32, 5, 7, 3)
        second = lib.ggml_new_tensor_3d(context, F32, 5, 11, 3)
        lib.ggml_set_name(first, b"blk.0.probe.weight")
        product = lib.ggml_mul_mat(context, first, second).contents
        fits = ctypes.sizeof(GgmlTensor) + _OBJECT_SIZE == lib.ggml_tensor_overhead()
        if not (fits and _is_as_made(first.contents, second.contents, product)):
            raise PipelineError(
                "this llama-cpp-python keeps its tensors in another way than the version this project knows: "
                "pip install -r requirements.txt"
            )
    finally:
        lib.ggml_free(context)


def _is_as_made(first: GgmlTensor, second: GgmlTensor, product: GgmlTensor) -> bool:
    return (
        (first.type, tuple(first.ne), tuple(first.nb)) == (F32, (5, 7, 3, 1), (4, 20, 140, 420))
        and tuple(second.ne) == (5, 11, 3, 1)
        and first.name == b"blk.0.probe.weight"
        and not (first.buffer or first.data or first.view_src or any(first.src))
        and tuple(product.ne) == (7, 11, 3, 1)
        and ggml().ggml_op_name(product.op) == b"MUL_MAT"
        and tuple(product.src)[:3] == (ctypes.addressof(first), ctypes.addressof(second), None)
    )
