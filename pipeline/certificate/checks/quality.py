"""What quantization did to the model, what is left of the tuning, and how fast each file is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.text import nan_to_none
from engine.errors import EngineError
from ggufio.shards import size
from pipeline.certificate.finding import Finding, Status, worst_status
from pipeline.certificate.scoring.file_scores import measure_file
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

_WORSE = 1.3  # a larger file's divergence over a smaller one's: more than chance on the 96 tokens of `fast`
_WORST_PROMPTS = 3
_SHOWN = 200  # characters of a prompt


@dataclass(frozen=True)
class Quality:
    """What one file is worth. `gain` is None without held-out answers, both shares are without a base."""

    size: int
    divergence: Divergence
    kept: Share | None
    gain: Share | None
    scores: Sequence[TokenScores]
    speed: Speed


def check_quality(subject: Subject, progress: StepProgress) -> Iterator[Finding]:
    """Findings `quantization` and `survival` for each quantized file, and `speed` for the full one too."""
    if not has_template(subject.full):
        yield Finding(
            "quantization", "skipped", "The model has no chat template, so there is no chat to measure."
        )
        return
    choice = choose_backend(subject)
    if not subject.files:  # one file alone, with nothing to compare it with
        with open_scorer(subject.full, choice) as alone:
            yield _speed(subject.full_name, alone.speed(subject))
        return
    with progress.step("Compare the files' answers", len(subject.files) + 1) as advance:
        reference = make_reference(subject, choice)
        advance(1)
        found: dict[str, Quality] = {}
        for done, (name, path) in enumerate(subject.files.items(), 2):
            try:
                scores, speed = measure_file(path, reference, subject, choice)
                found[name] = _quality(path, reference, scores, speed)
            except EngineError as error:
                yield Finding("quantization", "fail", f"{name} does not run: {error}.", file=name)
            advance(done)
    for name, quality in found.items():
        yield _quantization(name, found, subject, reference)
        yield _survival(name, quality, reference)
        yield _speed(name, quality.speed)
    if reference.speed is not None:
        yield _speed(subject.full_name, reference.speed)


def _quality(path: Path, reference: Reference, scores: Sequence[TokenScores], speed: Speed) -> Quality:
    samples, tuned, base = reference.samples, reference.tuned, reference.base
    own = [place for place, sample in enumerate(samples) if sample.own]
    theirs = [place for place, sample in enumerate(samples) if not sample.own]
    lost = np.concatenate([tuned[place].log_p - scores[place].log_p for place in theirs or own])
    kept = gain = None
    if base is not None:
        kept = survival([scores[place].kl for place in own], [base[place].kl for place in own])
    if base is not None and theirs:
        q, t, b = ([one[n].log_p for n in theirs] for one in (scores, tuned, base))
        gain = gain_kept(q, t, b)
    divergence = summarize([scores[place] for place in own], lost)
    return Quality(size(path), divergence, kept, gain, scores, speed)


def _quantization(name: str, found: Mapping[str, Quality], subject: Subject, reference: Reference) -> Finding:
    quality = found[name]
    divergence, better = quality.divergence, _smaller_and_better(name, found)
    status = _grade(divergence.mean_kl, GOOD_KL, BAD_KL)
    cause = ""
    if status != "pass" or better:
        cause = _cause(subject.files[name], subject.full, reference.levels, better)
    if better:
        status = worst_status([status, "warn"])
    summary = (
        f"{name} differs from the unquantized model by {divergence.mean_kl:.3f} nats a token and finds the "
        f"same next token in {divergence.agreement:.0%} of places."
    )
    figures = {**_figures(divergence), **_texts(reference), "worst": _worst(quality.scores, reference)}
    return Finding("quantization", status, summary, figures, KL_REASON, cause, name)


def _texts(reference: Reference) -> dict[str, Any]:
    """What the figures are of: KL and agreement of the model's own answers, the perplexities of the user's.

    Without those, of its own too. Of answers of the user's that were left out, the first reason is told.
    """
    own = [sample for sample in reference.samples if sample.own]
    theirs = [sample for sample in reference.samples if not sample.own]
    refused = [sample.refused for sample in own if sample.refused]
    return {
        "answers": len(own),
        "perplexity_of": "the answers in --eval" if theirs else "the model's own answers",
        "perplexity_tokens": sum(len(sample.answer) for sample in theirs or own),
        "left_out": len(refused),
        "left_out_because": refused[0] if refused else "",
    }


def _grade(value: float, good: float, bad: float) -> Status:
    """Pass up to `good`, fail above `bad`; NaN fails."""
    if value <= good:
        return "pass"
    return "warn" if value <= bad else "fail"


def _smaller_and_better(name: str, found: Mapping[str, Quality]) -> str:
    """The best file that is smaller and clearly nearer to the model; empty when there is none."""
    mine = found[name]
    better = [
        (other.divergence.mean_kl, file)
        for file, other in found.items()
        if other.size < mine.size and other.divergence.mean_kl * _WORSE < mine.divergence.mean_kl
    ]
    return min(better)[1] if better else ""


def _cause(path: Path, full: Path, levels: int, better: str) -> str:
    rounding = diagnose_quantization(path, full).explain(levels)
    if better:
        return f"{rounding}{better} is smaller and nearer to the model: use that, or Q6_K or Q8_0."
    return f"{rounding}So few bits lose much: use a larger type, or --calibrate with your own chats."


def _worst(scores: Sequence[TokenScores], reference: Reference) -> list[dict[str, Any]]:
    """The prompts whose answers suffer most."""
    pairs = zip(reference.samples, scores, strict=True)
    found = [(float(score.kl.mean()), sample.text[:_SHOWN]) for sample, score in pairs if sample.own]
    return [{"prompt": text, "mean_kl": kl} for kl, text in sorted(found, reverse=True)[:_WORST_PROMPTS]]


def _survival(name: str, quality: Quality, reference: Reference) -> Finding:
    kept, gain = quality.kept, quality.gain
    if kept is None:
        return Finding("survival", "skipped", f"No tuning to compare with: {reference.no_base}.", file=name)
    figures = {"kept": _figures(kept), "gain": _figures(gain) if gain else None}
    if not kept.reliable:
        summary = f"How much of the tuning survives in {name} cannot be told: {kept.doubt}."
        return Finding("survival", "skipped", summary, figures, SURVIVAL_REASON, file=name)
    summary = f"{name} keeps {_range(kept)} of what the adapter changed"
    if gain and gain.reliable:
        summary += f", and {_range(gain)} of what it gained on the held-out answers"
    status = _grade(-kept.value, -GOOD_SURVIVAL, -BAD_SURVIVAL)
    cause = (
        "" if status == "pass" else "Quantization moved the model where the adapter had: see `quantization`."
    )
    return Finding("survival", status, f"{summary}.", figures, SURVIVAL_REASON, cause, name)


def _figures(measured: Divergence | Share | Speed) -> dict[str, Any]:
    """A measurement as JSON has it: None stands for what has no value."""
    figures: dict[str, Any] = nan_to_none(asdict(measured))
    return figures


def _range(share: Share) -> str:
    return f"{share.value:.1%} ({share.low:.1%} to {share.high:.1%})"


def _speed(name: str, speed: Speed) -> Finding:
    summary = f"{name} reads {speed.prefill:.0f} and writes {speed.decode:.0f} tokens/s here"
    summary += f", in {speed.memory / 1e6:.0f} MB." if speed.memory else "."
    return Finding("speed", "pass", summary, _figures(speed), "None: a matter of the machine.", file=name)
