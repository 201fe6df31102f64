"""How a tensor's difference is told apart: what rounding does to a change, and what a merge forgot."""

from __future__ import annotations

import numpy as np
import pytest

from ggufio.ggml import BF16, F16
from ggufio.ggml_reader import Array, rounded_to
from pipeline.certificate.tensors.compare import TensorError, tensor_error

ROWS, WIDTH = 64, 256


def compared(found: Array, base: Array, change: Array, kind: int) -> TensorError:
    wanted = base + change
    return tensor_error(
        "w", wanted, change, lambda first, count: found[first : first + count], lambda v: rounded_to(v, kind)
    )


@pytest.mark.parametrize("kind", [F16, BF16])
@pytest.mark.parametrize("steps", [0.3, 1.0, 30.0])
def test_a_change_that_the_type_rounds_away_is_no_fault_of_the_file(kind: int, steps: float) -> None:
    rng = np.random.default_rng(1)
    base = rounded_to(
        rng.uniform(0.5, 1.0, (ROWS, WIDTH)).astype(np.float32), kind
    )  # numbers that it can hold
    step = {F16: 2.0**-11, BF16: 2.0**-8}[kind]
    change = (steps * step * rng.standard_normal((ROWS, WIDTH))).astype(np.float32)
    sound = compared(rounded_to(base + change, kind), base, change, kind)
    assert sound.share == pytest.approx(1, abs=1e-6) and sound.kept is not None
    assert (sound.kept < 0.8) == (steps < 1)  # the bias: what is below half a step goes back to the base

    missing = compared(base, base, change, kind)
    twice = compared(rounded_to(base + 2 * change, kind), base, change, kind)
    assert missing.share is not None and twice.share is not None
    assert missing.share < 0.7 and twice.share > 1.3
