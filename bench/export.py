"""Our export and the usual way, on the same model, in one run."""

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
    """How both did."""

    ours: Usage
    usual: Usage

    @property
    def ratios(self) -> dict[str, float]:
        """Ours over the usual way; smaller is better."""
        return {
            "time": self.ours.seconds / self.usual.seconds,
            "peak_memory": self.ours.peak_bytes / self.usual.peak_bytes,
            "bytes_written": self.ours.written_bytes / max(1, self.usual.written_bytes),
        }


def compare_exports(base: Path, adapter: Path, quants: list[str], scratch: Path) -> Comparison:
    """Export base + adapter to `quants` both ways under `scratch`; what they write is removed again."""
    ensure_toolchain()  # neither has to fetch it
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
    """Our export of the same shape with so many layers: memory that is bounded by a tensor stays flat."""
    ensure_toolchain()
    found = {}
    for count in layers:
        base, adapter = shape_in_child(shape, scratch / "shapes", count, dora)
        found[count] = _ours(base, adapter, quants, scratch)
    return found


def _ours(base: Path, adapter: Path, quants: Sequence[str], scratch: Path) -> Usage:
    words = ["scripts/export_gguf.py", "--base", str(base), "--adapter", str(adapter)]
    for quant in quants:
        words += ["--quant", quant]
    return _run(scratch / "ours", [*words, "--out", str(scratch / "ours")])


def _run(out: Path, words: list[str]) -> Usage:
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    try:
        return measure([sys.executable, *words], out.with_suffix(".log"))
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _warm(path: Path) -> None:
    """Read a file once, so that neither way pays for a cold disk."""
    with path.open("rb") as file:
        while file.read(2**24):
            pass
