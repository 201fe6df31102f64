"""Rounding by a merge in bfloat16 is distinguished from another adapter's change."""

from __future__ import annotations

import numpy as np
import pytest

from ggufio.ggml import BF16, F16
from ggufio.ggml_reader import Array, rounded_to
from pipeline.certificate.tensors.rounding import is_bfloat16, is_rounding, steps

SHAPE = (512, 256)


def made(seed: int, size: float) -> Array:
    """Return an adapter's change of rank 8 with the given standard deviation."""
    rng = np.random.default_rng(seed)
    change = rng.normal(0, 1, (SHAPE[0], 8)) @ rng.normal(0, 1, (8, SHAPE[1]))
    return (change * (size / change.std())).astype(np.float32)


def merged_in_bfloat16(base: Array, delta: Array) -> Array:
    return rounded_to(rounded_to(base, BF16) + rounded_to(delta, BF16), BF16)


def explains(expected: Array, actual: Array) -> bool:
    return is_rounding(expected, lambda first, count: actual[first : first + count], BF16)


@pytest.mark.parametrize("size", [1e-4, 1e-3, 1e-2, 1e-1])
def test_two_roundings_are_told_from_another_adapter(size: float) -> None:
    """`size` is the change's, relative to the weights'."""
    base = np.random.default_rng(0).normal(0, 0.03, SHAPE).astype(np.float32)
    delta, other = made(1, size * 0.03), made(2, size * 0.03)
    file = rounded_to(base + delta, F16)
    assert explains(merged_in_bfloat16(base, delta), file)
    if size >= 1e-3:  # less is below what f16 itself rounds off
        assert not explains(merged_in_bfloat16(base, other), file)
        assert not explains(merged_in_bfloat16(base, 0 * delta), file)
        assert not explains(merged_in_bfloat16(base, 2 * delta), file)


def test_the_steps_are_those_of_the_types() -> None:
    values = np.array([1.0, 1.99, -2.0, 0.0], np.float32)
    assert steps(values, BF16).tolist() == [2**-7, 2**-7, 2**-6, 2**-133]
    assert steps(values, F16).tolist() == [2**-10, 2**-10, 2**-9, 2**-24]


def test_numbers_of_bfloat16_are_known_by_their_bits() -> None:
    values = np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32)
    narrow = rounded_to(values, BF16)
    assert is_bfloat16(SHAPE[0], lambda first, count: narrow[first : first + count], SHAPE[1])
    assert not is_bfloat16(SHAPE[0], lambda first, count: values[first : first + count], SHAPE[1])
