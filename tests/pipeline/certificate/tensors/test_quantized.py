"""A quantized tensor is held against what its type's own rounding makes of the reference."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ggufio.ggml import dequantize, ggml_type, quantize
from ggufio.ggml_reader import Array
from pipeline.certificate.tensors.compare import _compare, max_nmse, rounding_error

Q4_1, Q5_1, Q4_K, IQ2_XXS = 3, 7, 12, 16
SHAPE = (64, 256)


def rounded(values: Array, number: int) -> Array:
    kind = ggml_type(number)
    assert kind is not None
    return dequantize(kind, quantize(kind, values)).reshape(values.shape)


@pytest.fixture
def on_a_grid() -> Array:
    """Return weights as a base has them that was dequantized from Q4_1."""
    drawn = np.random.default_rng(0).normal(0, 0.03, SHAPE).astype(np.float32)
    return rounded(drawn, Q4_1)


def fits(expected: Array, actual: Array, number: int) -> bool:
    layout: Any = SimpleNamespace(converted=lambda _, value: value, known_mistakes=lambda *_: [])
    location: Any = SimpleNamespace(tensor="t", expert=None)
    tensors: Any = SimpleNamespace(
        tensors={"t": SimpleNamespace(type=number, width=SHAPE[1], rows=SHAPE[0])},
        read=lambda _, first, count: actual[first : first + count],
    )
    return _compare(layout, location, (expected, None, ""), tensors).fits


def test_a_type_that_rounds_another_grid_badly_is_no_damage(on_a_grid: Array) -> None:
    file = rounded(on_a_grid, Q5_1)
    nmse = float(np.square(file - on_a_grid).sum() / np.square(on_a_grid).sum())
    assert nmse > max_nmse(Q5_1), "else the table's limit would do"
    assert rounding_error(on_a_grid, Q5_1) == pytest.approx(nmse, rel=1e-4)
    assert fits(on_a_grid, file, Q5_1)


def test_damage_is_told_from_rounding(on_a_grid: Array) -> None:
    file = rounded(on_a_grid, Q5_1)
    noise = np.random.default_rng(1).normal(0, 0.03, SHAPE).astype(np.float32)
    for actual in (file[::-1], file * 1.1, file + 0.1 * noise, np.zeros_like(file)):
        assert not fits(on_a_grid, actual, Q5_1)


def test_types_that_need_an_importance_matrix_have_the_tables_limit(on_a_grid: Array) -> None:
    assert rounding_error(on_a_grid, IQ2_XXS) == 0.0
    assert rounding_error(np.zeros(SHAPE, np.float32), Q4_K) == 0.0
