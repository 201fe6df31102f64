"""Quantized rows equal llama.cpp's byte for byte, with and without weights, typical rows and odd ones."""

from __future__ import annotations

import numpy as np
import pytest

from ggufio.ggml import library
from pipeline.quantize.k_quant_search import Floats
from pipeline.quantize.k_quants import TooSmall, exact_quantizer, exact_weighted_quantizer

_TYPES = {"Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "IQ4_NL": 20, "IQ4_XS": 23}
_WEIGHTED = {"Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q2_K": 10, "Q3_K": 11, **_TYPES}
_WIDTH = 768


def rows(count: int, seed: int = 1) -> Floats:
    return np.random.default_rng(seed).standard_normal((count, _WIDTH)).astype(np.float32)


def by_llama_cpp(number: int, x: Floats, importance: Floats | None = None) -> bytes:
    out = np.empty(len(x) * library().ggml_row_size(number, _WIDTH), np.uint8)
    weights = None if importance is None else importance.ctypes.data
    library().ggml_quantize_chunk(number, x.ctypes.data, out.ctypes.data, 0, len(x), _WIDTH, weights)
    return out.tobytes()


def by_us(number: int, x: Floats) -> bytes:
    ours = exact_quantizer(number)
    assert ours is not None, "the trial failed on this CPU"
    return ours(x).tobytes()


def weighted_by_us(number: int, x: Floats, importance: Floats) -> bytes:
    ours = exact_weighted_quantizer(number)
    assert ours is not None, "the trial failed on this CPU"
    return ours(x, importance).tobytes()


def column_weights(seed: int = 2) -> Floats:
    """Return weights of several magnitudes, some columns and whole blocks of which count nothing."""
    random = np.random.default_rng(seed)
    weights = np.exp(random.standard_normal(_WIDTH) * 2).astype(np.float32)
    weights[random.integers(0, _WIDTH, 60)] = 0
    weights[256:288] = 0
    return weights


_ODD = {
    "zeros": lambda x: x * 0,
    "minus zeros": lambda x: x * np.float32(-0.0),
    "one number": lambda x: x * 0 + np.float32(0.37),
    "one negative number": lambda x: x * 0 - np.float32(2),
    "a single number among zeros": lambda x: np.where(np.arange(_WIDTH) == 300, x, np.float32(0)),
    "one block of zeros": lambda x: np.where(np.arange(_WIDTH) // 16 == 5, np.float32(0), x),
    "positive": np.abs,
    "negative": lambda x: -np.abs(x),
    "far outliers": lambda x: np.where(np.arange(_WIDTH) % 97 == 0, x * 1000, x),
    "ties": lambda x: np.round(x * 4) / 4,
    "of float16": lambda x: x.astype(np.float16).astype(np.float32),
    "large": lambda x: x * np.float32(1e4),
    "small": lambda x: x * np.float32(1e-7),
    "smaller than float16": lambda x: x * np.float32(1e-12),
    "at the limit of nothing": lambda x: x * np.float32(1e-15),
}


@pytest.mark.parametrize("quant", _TYPES)
@pytest.mark.parametrize("odd", _ODD)
def test_odd_rows(quant: str, odd: str) -> None:
    x = np.ascontiguousarray(_ODD[odd](rows(7)), np.float32)
    assert by_us(_TYPES[quant], x) == by_llama_cpp(_TYPES[quant], x)


@pytest.mark.parametrize("quant", _TYPES)
def test_many_rows(quant: str) -> None:
    x = rows(999) * np.float32(0.02)
    assert by_us(_TYPES[quant], x) == by_llama_cpp(_TYPES[quant], x)


@pytest.mark.parametrize("quant", _WEIGHTED)
@pytest.mark.parametrize("odd", _ODD)
def test_odd_rows_with_weights(quant: str, odd: str) -> None:
    x, weights = np.ascontiguousarray(_ODD[odd](rows(7)), np.float32), column_weights()
    assert weighted_by_us(_WEIGHTED[quant], x, weights) == by_llama_cpp(_WEIGHTED[quant], x, weights)


@pytest.mark.parametrize("quant", _WEIGHTED)
def test_many_rows_with_weights(quant: str) -> None:
    x = rows(999) * np.float32(0.02)
    for weights in (column_weights(), np.zeros(_WIDTH, np.float32), np.full(_WIDTH, 1e-20, np.float32)):
        assert weighted_by_us(_WEIGHTED[quant], x, weights) == by_llama_cpp(_WEIGHTED[quant], x, weights)


@pytest.mark.parametrize("quant", ["Q4_K", "Q5_K"])
def test_numbers_whose_reciprocal_overflows_are_left_to_llama_cpp(quant: str) -> None:
    with pytest.raises(TooSmall):
        by_us(_TYPES[quant], rows(1) * np.float32(1e-38))


def test_other_types_are_left_to_llama_cpp() -> None:
    assert exact_quantizer(8) is None and exact_weighted_quantizer(8) is None  # Q8_0
