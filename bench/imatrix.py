"""Measures the gain of an importance matrix: each type with and without it, on held-out chats.

The measures are those of the certificate (docs/survival.md), on the same answers for all files.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.certificate.scoring.file_scores import Scores, score_file
from pipeline.certificate.scoring.metrics import (
    Floats,
    Share,
    TokenScores,
    gain_kept,
    survival,
    survival_gain,
)
from pipeline.certificate.scoring.reference import Reference, make_reference
from pipeline.certificate.scoring.scorer import choose_backend
from pipeline.certificate.subject import Subject
from pipeline.data.dataset import Chat, read_chats, split_chats
from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import export
from pipeline.progress import NoProgress, StepProgress
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from pipeline.tokenizers.select import stage_checkpoint
from pipeline.training.config import FinetuneConfig

QUANTS = ("Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M")
_WITHOUT, _WITH = "without", "with"  # folders, and prefixes of the file names in them


@dataclass(frozen=True)
class ImatrixConfig:
    """Settings of a comparison. Without `evaluation`, the chats that training holds out by default are used.

    Files in `scratch` from an earlier run on the same inputs are reused.
    """

    base: Path
    adapter: Path
    calibrate: Path
    scratch: Path
    threads: int
    evaluation: Path | None = None
    quants: tuple[str, ...] = QUANTS


@dataclass(frozen=True)
class FileQuality:
    """One file: size in bytes, mean KL in nats per token, survival of the tuning, share of its gain kept."""

    size: int
    mean_kl: float
    survival: Share
    gain: Share


@dataclass(frozen=True)
class TypeComparison:
    """One type without and with the matrix, and the difference in survival (`won`)."""

    quant: str
    without: FileQuality
    weighed: FileQuality
    won: Share


@dataclass(frozen=True)
class ImatrixResult:
    """All types, the numbers of chats, and the tokens measured: those of the tuned model's own answers."""

    calibrated: int
    held_out: int
    tokens: int
    types: tuple[TypeComparison, ...]


def compare_imatrix(config: ImatrixConfig, progress: StepProgress | None = None) -> ImatrixResult:
    """Export with and without the matrix and measure all files on the held-out chats. Raises InputError."""
    progress = progress or NoProgress()
    calibrating, held = split_chat_files(config.calibrate, config.evaluation)
    config.scratch.mkdir(parents=True, exist_ok=True)
    chats, questions = config.scratch / "calibrate.jsonl", config.scratch / "held-out.jsonl"
    _write(chats, calibrating)
    _write(questions, held)
    with progress.step("Export without and with the matrix", 2) as advance:
        _export(config, _WITHOUT)
        advance(1)
        _export(config, _WITH, chats)
        advance(2)
    reference, scores = _score_files(config, questions, progress)
    tokens = sum(len(sample.answer) for sample in reference.samples if sample.own)
    types = tuple(_compare_type(quant, config, reference, scores) for quant in config.quants)
    return ImatrixResult(len(calibrating), len(held), tokens, types)


def split_chat_files(calibrate: Path, evaluation: Path | None) -> tuple[list[Chat], list[Chat]]:
    """Return the calibration and the evaluation chats. Raises InputError when a chat is in both."""
    chats = read_chats(calibrate)
    if evaluation is None:
        return split_chats(chats, FinetuneConfig.held_out, FinetuneConfig.seed)
    held = read_chats(evaluation)
    known = {chat.turns for chat in chats}
    for chat in held:
        if chat.turns in known:
            raise InputError(
                f"--eval {evaluation}, line {chat.line} is also in --calibrate {calibrate}: what the matrix "
                "was gathered from proves nothing, so give other chats"
            )
    return chats, held


def _write(path: Path, chats: Sequence[Chat]) -> None:
    lines = [json.dumps({"messages": chat.messages()}, ensure_ascii=False) + "\n" for chat in chats]
    path.write_text("".join(lines), encoding="utf-8")


def _export(config: ImatrixConfig, out: str, calibrate: Path | None = None) -> None:
    export_config = ExportConfig(
        str(config.base),
        config.scratch / out,
        (str(config.adapter),),
        config.quants,
        keep_f16=True,
        calibrate=calibrate,
        threads=config.threads,
    )
    export(export_config, NoProgress())


def _file(config: ImatrixConfig, out: str, quant: str) -> Path:
    return config.scratch / out / f"{out}-{quant}.gguf"


def _subject(config: ImatrixConfig, questions: Path) -> Subject:
    """Return the tuned model as the certificate's subject; an earlier reference is removed."""
    base, scratch = base_source(str(config.base)), config.scratch / "measured"
    adapters = (read_adapter(adapter_source(str(config.adapter))),)
    shutil.rmtree(scratch / "reference", ignore_errors=True)
    (scratch / "reference").mkdir(parents=True)
    return Subject(
        reference=stage_checkpoint(base, adapters, {}, scratch / "reference").folder,
        full=_file(config, _WITHOUT, "F16"),
        scratch=scratch,
        threads=config.threads,
        base=base,
        adapters=adapters,
        evaluation=questions,
        depth="full",
    )


def _score_files(
    config: ImatrixConfig, questions: Path, progress: StepProgress
) -> tuple[Reference, dict[Path, Scores]]:
    """Generate the tuned model's reference answers, and return them with each file's scores on them."""
    subject = _subject(config, questions)
    choice = choose_backend(subject)
    files = [_file(config, out, quant) for quant in config.quants for out in (_WITHOUT, _WITH)]
    with progress.step("Ask the tuned model", None):
        reference = make_reference(subject, choice)
    scores = {}
    with progress.step("Compare the files' answers", len(files)) as advance:
        for done, path in enumerate(files, 1):
            scores[path] = score_file(path, reference, subject, choice)
            advance(done)
    return reference, scores


def _compare_type(
    quant: str, config: ImatrixConfig, reference: Reference, scores: Mapping[Path, Scores]
) -> TypeComparison:
    paths = [_file(config, out, quant) for out in (_WITHOUT, _WITH)]
    without, weighed = (_measure_file(path, reference, scores[path]) for path in paths)
    before, after = (_kl(reference, scores[path]) for path in paths)
    won = survival_gain(before, after, _kl(reference, _base(reference)))
    return TypeComparison(quant, without, weighed, won)


def _measure_file(path: Path, reference: Reference, scored: Scores) -> FileQuality:
    theirs = [place for place, sample in enumerate(reference.samples) if not sample.own]
    kl = _kl(reference, scored)
    q, t, b = (
        [scores[place].log_p for place in theirs] for scores in (scored, reference.tuned, _base(reference))
    )
    kept = survival(kl, _kl(reference, _base(reference)))
    return FileQuality(path.stat().st_size, float(np.concatenate(kl).mean()), kept, gain_kept(q, t, b))


def _kl(reference: Reference, scores: Sequence[TokenScores]) -> list[Floats]:
    """Return the KL per token of the tuned model's own answers, one array per answer."""
    pairs = zip(reference.samples, scores, strict=True)
    return [score.kl for sample, score in pairs if sample.own]


def _base(reference: Reference) -> Sequence[TokenScores]:
    if reference.base is None:
        raise InputError(f"nothing can be said of survival: {reference.no_base}")
    return reference.base
