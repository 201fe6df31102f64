"""Numbers that lie on a type's grid are written without any error; all others as llama.cpp writes them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from ggufio.ggml import BF16, F16, F32, Floats, dequantize, ggml_type_named, quantize
from ggufio.ggml_reader import rounded_to
from pipeline.quantize.packing import Bytes
from pipeline.quantize.rounding import quantize_rows

_TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "IQ4_NL", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
_STORED = {"F32": F32, "F16": F16, "BF16": BF16}
_SHAPE = (24, 768)


def weights(seed: int = 0) -> Floats:
    return (np.random.default_rng(seed).standard_normal(_SHAPE) * 0.02).astype(np.float32)


def values_of(data: Bytes | bytes, name: str) -> Floats:
    return dequantize(ggml_type_named(name), bytes(data)).reshape(_SHAPE)


def on_grid(name: str, seed: int = 0) -> Floats:
    """Rows that ggml quantized to the type, dequantized."""
    return values_of(quantize(ggml_type_named(name), weights(seed)), name)


def by_us(rows: Floats, name: str, importance: Floats | None = None) -> Bytes:
    return quantize_rows(rows, ggml_type_named(name).number, importance)


class Case(NamedTuple):
    """Random bytes: no block has to have the level that ggml builds on. Scales and minimums are given."""

    scale: tuple[float, float]
    minimum: tuple[float, float] | None = None
    negative: bool = False


_RANDOM = {
    "Q4_0": Case((0.0005, 0.01), negative=True),
    "Q4_1": Case((0.0005, 0.01), (-0.05, 0.02)),
    "Q5_0": Case((0.0005, 0.01), negative=True),
    "Q5_1": Case((0.0005, 0.01), (-0.05, 0.02)),
    "Q8_0": Case((0.0001, 0.001)),
    "IQ4_NL": Case((0.0001, 0.001), negative=True),
}


def random_blocks(name: str) -> Floats:
    """Rows of random blocks of the type, of which codes, scales and minimums are all drawn."""
    rng, kind, case = np.random.default_rng(3), ggml_type_named(name), _RANDOM[name]
    blocks = rng.integers(0, 256, (_SHAPE[0] * _SHAPE[1] // kind.block, kind.size), dtype=np.uint8)
    scales = rng.uniform(*case.scale, len(blocks)) * (
        rng.choice([-1, 1], len(blocks)) if case.negative else 1
    )
    blocks[:, :2] = scales.astype(np.float16).view(np.uint8).reshape(-1, 2)
    if case.minimum:
        minimums = rng.uniform(*case.minimum, len(blocks)).astype(np.float16)
        blocks[:, 2:4] = minimums.view(np.uint8).reshape(-1, 2)
    return values_of(blocks.tobytes(), name)


@pytest.mark.parametrize("stored", _STORED)
@pytest.mark.parametrize("name", _TYPES)
def test_a_dequantized_tensor_is_quantized_again_without_any_difference(name: str, stored: str) -> None:
    rows = rounded_to(on_grid(name), _STORED[stored])
    again = rounded_to(values_of(by_us(rows, name), name), _STORED[stored])
    assert np.count_nonzero(again != rows) == 0
    assert len(np.unique(rows)) > 100


@pytest.mark.parametrize("stored", _STORED)
@pytest.mark.parametrize("name", _RANDOM)
def test_so_is_one_whose_blocks_lack_the_levels_that_llama_cpp_builds_on(name: str, stored: str) -> None:
    rows = rounded_to(random_blocks(name), _STORED[stored])
    ours, theirs = by_us(rows, name), quantize(ggml_type_named(name), rows)
    again, by_ggml = (rounded_to(values_of(one, name), _STORED[stored]) for one in (ours, theirs))
    assert np.count_nonzero(again != rows) == 0
    assert np.mean(by_ggml != rows) > 0.05


@pytest.mark.parametrize("name", _TYPES)
def test_other_weights_keep_llama_cpps_bytes(name: str) -> None:
    for stored in _STORED.values():
        rows = rounded_to(weights(1), stored)
        assert by_us(rows, name).tobytes() == quantize(ggml_type_named(name), rows)


@pytest.mark.parametrize("source", ["Q4_0", "Q4_1", "Q5_0", "Q4_K", "Q6_K"])
@pytest.mark.parametrize("target", _TYPES)
def test_no_block_gets_a_larger_error_than_llama_cpps(source: str, target: str) -> None:
    kind, rows = ggml_type_named(target), rounded_to(on_grid(source), F16)

    def errors(data: Bytes | bytes) -> Floats:
        values = rounded_to(values_of(data, target), F16).reshape(-1, kind.block)
        return np.asarray(np.square(values.astype(np.float64) - rows.reshape(-1, kind.block)).sum(axis=1))

    assert (errors(by_us(rows, target)) <= errors(quantize(kind, rows))).all()


@pytest.mark.parametrize(("source", "target"), [("Q4_0", "Q8_0"), ("Q4_0", "Q5_1"), ("Q4_1", "Q5_1")])
def test_a_grid_within_a_finer_one_loses_nothing_either(source: str, target: str) -> None:
    rows = rounded_to(on_grid(source), BF16)
    theirs = values_of(quantize(ggml_type_named(target), rows), target)
    assert np.array_equal(rounded_to(values_of(by_us(rows, target), target), BF16), rows)
    assert not np.array_equal(rounded_to(theirs, BF16), rows)


@pytest.mark.parametrize("target", ["Q4_0", "Q8_0", "Q2_K", "Q3_K", "Q6_K"])
def test_three_values_stay_three(target: str) -> None:
    """Ternary weights with a scale for the whole tensor, as BitNet's."""
    codes = np.random.default_rng(2).integers(-1, 2, _SHAPE)
    rows = rounded_to((codes * 0.0371).astype(np.float32), BF16)
    again = rounded_to(values_of(by_us(rows, target), target), BF16)
    assert np.array_equal(again, rows) and len(np.unique(rows)) == 3


def test_importance_does_not_move_numbers_off_their_grid() -> None:
    importance = np.random.default_rng(4).uniform(0.01, 9, _SHAPE[1]).astype(np.float32)
    for name in ("Q4_0", "Q5_1", "Q4_K", "Q6_K"):
        rows = rounded_to(on_grid(name), BF16)
        assert np.array_equal(rounded_to(values_of(by_us(rows, name, importance), name), BF16), rows)


def test_a_row_is_rounded_the_same_by_itself_and_among_others() -> None:
    rows = np.concatenate((weights(5)[:12], rounded_to(random_blocks("Q4_0"), F16)[:12]))
    whole = by_us(rows, "Q4_0")
    assert all(np.array_equal(by_us(rows[i : i + 1], "Q4_0")[0], whole[i]) for i in range(len(rows)))


def test_odd_rows_are_left_to_llama_cpp() -> None:
    rows = np.zeros(_SHAPE, np.float32)
    rows[1], rows[2], rows[3], rows[4] = 1, -3, 1e-7, 60000
    rows[5, ::40], rows[6] = 0.3, np.float32(1e-30)
    for name in _TYPES:
        kind = ggml_type_named(name)
        theirs, ours = values_of(quantize(kind, rows), name), values_of(by_us(rows, name), name)
        assert (np.abs(ours - rows) <= np.abs(theirs - rows)).all(), name
