"""Measures `--quant auto --max-size`: our file and llama.cpp's best type that fits, at several sizes.

The measure is the certificate's KL divergence (docs/survival.md), on the same answers for all files.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.certificate.scoring.file_scores import Scores, score_file
from pipeline.certificate.scoring.reference import Reference, make_reference
from pipeline.certificate.scoring.scorer import choose_backend
from pipeline.certificate.subject import Subject
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import export
from pipeline.progress import NoProgress, StepProgress
from pipeline.quantize.types import ready_types
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from pipeline.tokenizers.select import stage_checkpoint

MAX_RATIO = 0.85
"""Our KL over the best ready-made type's is meant to be at most this at most sizes, and never above 1."""
_LEFT_OUT = ("IQ1_S", "IQ1_M")  # noise on small models, and slow to make


@dataclass(frozen=True)
class SizesConfig:
    """Settings of a comparison at the sizes `max_sizes` ("900M"); `chats` calibrate, `evaluation` asks.

    Files in `scratch` from an earlier run on the same inputs are reused.
    """

    base: Path
    adapter: Path | None
    max_sizes: tuple[str, ...]
    scratch: Path
    threads: int
    chats: Path | None = None
    evaluation: Path | None = None


@dataclass(frozen=True)
class MeasuredFile:
    """One file: its type, its size in bytes, its mean KL in nats a token."""

    type: str
    size: int
    mean_kl: float


@dataclass(frozen=True)
class SizeComparison:
    """The file of `auto` for a size, and llama.cpp's best of at most that size; None when none fits."""

    max_size: str
    ours: MeasuredFile
    ready: MeasuredFile | None

    @property
    def ratio(self) -> float | None:
        """Our KL over the ready-made type's."""
        return None if self.ready is None else self.ours.mean_kl / self.ready.mean_kl


def compare_sizes(config: SizesConfig, progress: StepProgress | None = None) -> tuple[SizeComparison, ...]:
    """Export llama.cpp's types and one file for each size, and measure them all. Raises InputError."""
    progress = progress or NoProgress()
    names = tuple(
        quant.name
        for quant in ready_types(with_imatrix=config.chats is not None)
        if quant.name not in _LEFT_OUT
    )
    ready = export(_export_config(config, names), progress)
    kept = {output.type: path for output, path in zip(ready.outputs, ready.paths, strict=True)}
    ours: dict[str, Path] = {}
    for size in config.max_sizes:
        auto = export(_export_config(config, ("auto",), size), progress)
        chosen = next(note.split()[2].rstrip(":") for note in auto.notes if note.startswith("auto chose "))
        found = {output.type: path for output, path in zip(auto.outputs, auto.paths, strict=True)}
        ours[size] = found[chosen]
    paths = dict.fromkeys([*(kept[name] for name in names), *ours.values()])
    measured = _measure(config, kept["F16"], list(paths), progress)
    limits = {size: export_limit(size) for size in config.max_sizes}
    fitting = {
        size: [measured[kept[name]] for name in names if measured[kept[name]].size <= limit]
        for size, limit in limits.items()
    }
    return tuple(
        SizeComparison(size, measured[path], min(fitting[size], key=lambda one: one.mean_kl, default=None))
        for size, path in ours.items()
    )


def export_limit(size: str) -> int:
    """Return the bytes of a --max-size. Raises InputError."""
    goal = ExportConfig("base", Path("out"), quants=("auto",), max_size=size).goal
    assert goal is not None and goal.size is not None
    return goal.size


def _export_config(config: SizesConfig, quants: tuple[str, ...], size: str | None = None) -> ExportConfig:
    return ExportConfig(
        str(config.base),
        config.scratch / "sizes",
        () if config.adapter is None else (str(config.adapter),),
        quants,
        keep_f16=True,
        calibrate=config.chats,
        evaluation=config.evaluation if size else None,
        max_size=size,
        threads=config.threads,
    )


def _measure(
    config: SizesConfig, full: Path, files: Sequence[Path], progress: StepProgress
) -> dict[Path, MeasuredFile]:
    subject = _subject(config, full)
    choice = choose_backend(subject)
    with progress.step("Ask the tuned model", None):
        reference = make_reference(subject, choice)
    measured = {}
    with progress.step("Compare the files' answers", len(files)) as advance:
        for done, path in enumerate(files, 1):
            kind = path.stem.removeprefix("sizes-")
            kl = _mean_kl(reference, score_file(path, reference, subject, choice))
            measured[path] = MeasuredFile(kind, path.stat().st_size, kl)
            advance(done)
    return measured


def _mean_kl(reference: Reference, scores: Scores) -> float:
    pairs = zip(reference.samples, scores, strict=True)
    return float(np.concatenate([score.kl for sample, score in pairs if sample.own]).mean())


def _subject(config: SizesConfig, full: Path) -> Subject:
    base, scratch = base_source(str(config.base)), config.scratch / "measured"
    adapters = () if config.adapter is None else (read_adapter(adapter_source(str(config.adapter))),)
    shutil.rmtree(scratch / "reference", ignore_errors=True)
    (scratch / "reference").mkdir(parents=True)
    return Subject(
        reference=stage_checkpoint(base, adapters, {}, scratch / "reference").folder,
        full=full,
        scratch=scratch,
        threads=config.threads,
        base=base,
        adapters=adapters,
        evaluation=config.evaluation,
        depth="full",
    )
