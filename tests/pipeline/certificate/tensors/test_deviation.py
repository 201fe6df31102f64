"""tensor_error: a change that the type rounds away differs from one that a merge left out."""

from __future__ import annotations

import numpy as np
import pytest

from ggufio.ggml import BF16, F16
from ggufio.ggml_reader import Array, rounded_to
from pipeline.certificate.tensors.compare import TensorError, tensor_error

ROWS, WIDTH = 64, 256


def compared(actual: Array, base: Array, delta: Array, dtype: int) -> TensorError:
    return tensor_error(
        "w",
        base + delta,
        delta,
        lambda first, count: actual[first : first + count],
        lambda values: rounded_to(values, dtype),
    )


@pytest.mark.parametrize("dtype", [F16, BF16])
@pytest.mark.parametrize("steps", [0.3, 1.0, 30.0])
def test_a_change_that_the_type_rounds_away_is_no_fault_of_the_file(dtype: int, steps: float) -> None:
    rng = np.random.default_rng(1)
    base = rounded_to(rng.uniform(0.5, 1.0, (ROWS, WIDTH)).astype(np.float32), dtype)  # representable
    step = {F16: 2.0**-11, BF16: 2.0**-8}[dtype]
    delta = (steps * step * rng.standard_normal((ROWS, WIDTH))).astype(np.float32)
    sound = compared(rounded_to(base + delta, dtype), base, delta, dtype)
    assert sound.delta_ratio == pytest.approx(1, abs=1e-6) and sound.delta_ratio_raw is not None
    assert (sound.delta_ratio_raw < 0.8) == (steps < 1)  # less than half a step rounds back to the base

    missing = compared(base, base, delta, dtype)
    twice = compared(rounded_to(base + 2 * delta, dtype), base, delta, dtype)
    assert missing.delta_ratio is not None and twice.delta_ratio is not None
    assert missing.delta_ratio < 0.7 and twice.delta_ratio > 1.3
