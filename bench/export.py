"""Compares our export with the baseline (bench.baseline_export) on the same model, in one run."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Usage, measure
from bench.random_models import shape_in_child
from pipeline.convert.toolchain import ensure_toolchain


@dataclass(frozen=True)
class Comparison:
    """The usage of our export and of the usual way."""

    ours: Usage
    usual: Usage

    @property
    def ratios(self) -> dict[str, float]:
        """Return ours over the usual way's; smaller is better."""
        return {
            "time": self.ours.seconds / self.usual.seconds,
            "peak_memory": self.ours.peak_bytes / self.usual.peak_bytes,
            "bytes_written": self.ours.written_bytes / max(1, self.usual.written_bytes),
        }


def compare_exports(base: Path, adapter: Path, quants: list[str], scratch: Path) -> Comparison:
    """Export base + adapter to `quants` both ways under `scratch`; the files are removed afterwards.

    Raises PipelineError when one fails.
    """
    ensure_toolchain()  # so that the download is not part of either measurement
    for path in sorted(base.glob("*.safetensors")):
        _warm(path)
    usual = _run(
        scratch / "usual",
        ["-m", "bench.baseline_export", str(base), str(adapter), str(scratch / "usual"), *quants],
    )
    return Comparison(_ours(base, adapter, quants, scratch), usual)


def memory_by_layers(
    shape: str, layers: Sequence[int], quants: Sequence[str], scratch: Path, dora: bool = False
) -> dict[int, Usage]:
    """Measure our export of one shape with each number of layers.

    Peak memory should not grow with the layers: it is bounded by the largest tensor. Raises PipelineError.
    """
    ensure_toolchain()
    found = {}
    for count in layers:
        base, adapter = shape_in_child(shape, scratch / "shapes", count, dora)
        found[count] = _ours(base, adapter, quants, scratch)
    return found


def _ours(base: Path, adapter: Path, quants: Sequence[str], scratch: Path) -> Usage:
    arguments = ["scripts/export_gguf.py", "--base", str(base), "--adapter", str(adapter)]
    for quant in quants:
        arguments += ["--quant", quant]
    return _run(scratch / "ours", [*arguments, "--out", str(scratch / "ours")])


def _run(out: Path, arguments: list[str]) -> Usage:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    try:
        return measure([sys.executable, *arguments], out.with_suffix(".log"))
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _warm(path: Path) -> None:
    """Read a file once, so that both exports find it in the page cache."""
    with path.open("rb") as file:
        while file.read(2**24):
            pass
