"""A base that lies on the type's grid takes the tuning back; other types and bases do not."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.certificate.scoring.grid_snap import find_snap
from pipeline.certificate.subject import Subject
from pipeline.progress import NoProgress
from pipeline.quantize.job import Quantization, QuantizeJob, Quantizer
from pipeline.quantize.types import quant_type


@pytest.fixture(scope="module")
def files(real: Subject, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The tuned model, whose base is a dequantized Q4_1 file, in several types."""
    folder = tmp_path_factory.mktemp("quantized")
    made = {}
    with Quantizer(folder / "log") as quantizer:
        for name in ("Q4_1", "Q4_0", "Q8_0"):
            made[name] = folder / f"{name}.gguf"
            wanted = Quantization(real.full, quant_type(name))
            quantizer.quantize(QuantizeJob(wanted, made[name], 2), quantizer.plan(wanted), NoProgress())
    return made


def test_tuning_that_snaps_back_is_told_with_a_remedy(real: Subject, files: dict[str, Path]) -> None:
    snap = find_snap(files["Q4_1"], real)
    assert snap is not None and snap.type == "Q4_1" and 0 <= snap.kept < 0.8
    assert "snaps the tuning back" in snap.explain() and "Q8_0" in snap.explain()
    assert find_snap(files["Q4_0"], real) is None
    assert find_snap(files["Q8_0"], real) is None
