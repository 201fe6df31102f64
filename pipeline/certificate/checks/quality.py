"""Checks 4 and 5: divergence of each quantized file, survival of the tuning, and speed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from common.certificate import Finding, Status, worst_status
from common.text import nan_to_none
from engine.errors import EngineError
from ggufio.shards import size
from pipeline.certificate.scoring.file_scores import lora_of, measure_file
from pipeline.certificate.scoring.grid_snap import GridSnap, find_snap
from pipeline.certificate.scoring.metrics import (
    BAD_KL,
    BAD_SURVIVAL,
    GOOD_KL,
    GOOD_SURVIVAL,
    KL_REASON,
    SURVIVAL_REASON,
    Divergence,
    Share,
    TokenScores,
    gain_kept,
    summarize,
    survival,
)
from pipeline.certificate.scoring.quant_diagnosis import diagnose_quantization
from pipeline.certificate.scoring.reference import Reference, make_reference
from pipeline.certificate.scoring.scorer import Speed, choose_backend, has_template, open_scorer
from pipeline.certificate.subject import Subject
from pipeline.progress import StepProgress

_CLEARLY_WORSE = 1.3  # ratio of two files' divergences that is no chance on the 96 tokens of `fast`
SnapOf = Callable[[str], GridSnap | None]
"""Returns what snapping to the base's grid costs in a file, by its name."""

_MAX_WORST_PROMPTS = 3
_MAX_SHOWN = 200  # characters of a prompt


@dataclass(frozen=True)
class Quality:
    """The measurements of one file of `size` bytes.

    `survival` and `gain` are None without a base; `gain` also without held-out answers.
    """

    size: int
    divergence: Divergence
    survival: Share | None
    gain: Share | None
    scores: Sequence[TokenScores]
    speed: Speed


def check_quality(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Yield `quantization`, `survival` and `speed` for each quantized file, and `speed` for the full one."""
    if not has_template(subject.full):
        yield Finding(
            "quantization", "skipped", "The model has no chat template, so there is no chat to measure."
        )
        return
    choice = choose_backend(subject)
    if not subject.files:  # nothing to compare the file with
        with open_scorer(subject.full, choice) as full:
            yield _speed(subject.full_name, full.speed(subject))
        return
    with progress.step("Compare the files' answers", len(subject.files) + 1) as advance:
        reference = make_reference(subject, choice)
        advance(1)
        measured: dict[str, Quality] = {}
        for done, (name, path) in enumerate(subject.files.items(), 2):
            try:
                scores, speed = measure_file(path, reference, subject, choice)
                measured[name] = _quality(_total_size(path, subject), reference, scores, speed)
            except EngineError as error:
                yield Finding("quantization", "fail", f"{name} does not run: {error}.", file=name)
            advance(done)
    snap_of: SnapOf = cache(partial(_snap, subject))  # two findings ask for it
    for name, quality in measured.items():
        yield _quantization(name, measured, subject, reference, snap_of)
        yield _survival(name, quality, reference, snap_of)
        yield _speed(name, quality.speed)
    if reference.speed is not None:
        yield _speed(subject.full_name, reference.speed)


def _snap(subject: Subject, name: str) -> GridSnap | None:
    """Return what snapping costs in a file, which cannot touch an adapter beside it."""
    return None if name in subject.loras else find_snap(subject.files[name], subject)


def _total_size(path: Path, subject: Subject) -> int:
    """Return the bytes of a file, and of the adapter that is loaded on it."""
    lora = lora_of(path, subject)
    return size(path) + (size(lora) if lora else 0)


def _quality(total: int, reference: Reference, scores: Sequence[TokenScores], speed: Speed) -> Quality:
    """Compute the measurements from the scores, which are in the order of the reference's samples."""
    samples, tuned, base = reference.samples, reference.tuned, reference.base
    own = [index for index, sample in enumerate(samples) if sample.own]
    held_out = [index for index, sample in enumerate(samples) if not sample.own]
    lost = np.concatenate([tuned[index].log_p - scores[index].log_p for index in held_out or own])
    survived = gain = None
    if base is not None:
        survived = survival([scores[index].kl for index in own], [base[index].kl for index in own])
    if base is not None and held_out:
        q, t, b = ([one[index].log_p for index in held_out] for one in (scores, tuned, base))
        gain = gain_kept(q, t, b)
    divergence = summarize([scores[index] for index in own], lost)
    return Quality(total, divergence, survived, gain, scores, speed)


def _quantization(
    name: str, measured: Mapping[str, Quality], subject: Subject, reference: Reference, snap_of: SnapOf
) -> Finding:
    quality = measured[name]
    divergence, better = quality.divergence, _smaller_and_better(name, measured)
    status = _grade(divergence.mean_kl, GOOD_KL, BAD_KL)
    cause = ""
    if status != "pass" or better:
        cause = _cause(name, subject, reference.levels, better, snap_of(name))
    if better:
        status = worst_status([status, "warn"])
    summary = (
        f"{name} differs from the unquantized model by {divergence.mean_kl:.3f} nats a token and finds the "
        f"same next token in {divergence.agreement:.0%} of places."
    )
    worst = _worst_prompts(quality.scores, reference)
    figures = {**_figures(divergence), **_describe_samples(reference), "worst": worst}
    return Finding("quantization", status, summary, figures, KL_REASON, cause, name)


def _describe_samples(reference: Reference) -> dict[str, Any]:
    """Return which answers the figures are measured on.

    KL and agreement are of the model's own answers, perplexities of the user's, or of the model's without
    any. Of the user's answers that were left out, only the first reason is given.
    """
    own = [sample for sample in reference.samples if sample.own]
    held_out = [sample for sample in reference.samples if not sample.own]
    refused = [sample.refused for sample in own if sample.refused]
    return {
        "answers": len(own),
        "perplexity_of": "the answers in --eval" if held_out else "the model's own answers",
        "perplexity_tokens": sum(len(sample.answer) for sample in held_out or own),
        "left_out": len(refused),
        "left_out_because": refused[0] if refused else "",
    }


def _grade(value: float, good: float, bad: float) -> Status:
    """Return "pass" up to `good`, "warn" up to `bad`, else "fail", as for NaN."""
    if value <= good:
        return "pass"
    return "warn" if value <= bad else "fail"


def _smaller_and_better(name: str, measured: Mapping[str, Quality]) -> str:
    """Return the best file that is smaller and clearly nearer to the model; empty when there is none."""
    this = measured[name]
    better = [
        (other.divergence.mean_kl, file)
        for file, other in measured.items()
        if other.size < this.size and other.divergence.mean_kl * _CLEARLY_WORSE < this.divergence.mean_kl
    ]
    return min(better)[1] if better else ""


def _cause(name: str, subject: Subject, levels: int, better: str, snap: GridSnap | None) -> str:
    if snap is not None:
        return snap.explain()
    rounding = ""
    if name not in subject.loras:  # the tuned model's weights are nowhere in such a file
        rounding = diagnose_quantization(subject.files[name], subject.full).explain(levels)
    if better:
        return f"{rounding}{better} is smaller and nearer to the model: use that, or Q6_K or Q8_0."
    return f"{rounding}So few bits lose much: use a larger type, or --calibrate with your own chats."


def _worst_prompts(scores: Sequence[TokenScores], reference: Reference) -> list[dict[str, Any]]:
    """Return the prompts whose answers diverge most."""
    pairs = zip(reference.samples, scores, strict=True)
    ranked = sorted(
        ((float(score.kl.mean()), sample.text[:_MAX_SHOWN]) for sample, score in pairs if sample.own),
        reverse=True,
    )
    return [{"prompt": text, "mean_kl": kl} for kl, text in ranked[:_MAX_WORST_PROMPTS]]


def _survival(name: str, quality: Quality, reference: Reference, snap_of: SnapOf) -> Finding:
    survived, gain = quality.survival, quality.gain
    if survived is None:
        return Finding("survival", "skipped", f"No tuning to compare with: {reference.no_base}.", file=name)
    figures = {"kept": _figures(survived), "gain": _figures(gain) if gain else None}
    if not survived.reliable:
        summary = f"How much of the tuning survives in {name} cannot be told: {survived.doubt}."
        return Finding("survival", "skipped", summary, figures, SURVIVAL_REASON, file=name)
    summary = f"{name} keeps {_range(survived)} of what the adapter changed"
    if gain and gain.reliable:
        summary += f", and {_range(gain)} of what it gained on the held-out answers"
    status = _grade(-survived.value, -GOOD_SURVIVAL, -BAD_SURVIVAL)
    cause = ""
    if status != "pass":
        snap = snap_of(name)
        moved = "Quantization moved the model where the adapter had: see `quantization`."
        cause = snap.explain() if snap is not None else moved
    return Finding("survival", status, f"{summary}.", figures, SURVIVAL_REASON, cause, name)


def _figures(measured: Divergence | Share | Speed) -> dict[str, Any]:
    """Return a measurement for JSON, with None in place of NaN."""
    figures: dict[str, Any] = nan_to_none(asdict(measured))
    return figures


def _range(share: Share) -> str:
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"


def _speed(name: str, speed: Speed) -> Finding:
    summary = f"{name} reads {speed.prefill:.0f} and writes {speed.decode:.0f} tokens/s here"
    summary += f", in {speed.memory / 1e6:.0f} MB." if speed.memory else "."
    return Finding("speed", "pass", summary, _figures(speed), "None: a matter of the machine.", file=name)
