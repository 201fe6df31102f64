"""Model cards (README.md) for the Hub: the card of a trained adapter, and the front matter of all cards."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.report.context import ReportContext, ReportedFile
from pipeline.sources.model_source import HUB_ID

CARD = "README.md"
_MARK = "made_with: gguf-chat"


def own_card(folder: Path) -> str | None:
    """Read the README.md that the user wrote; None when there is none, or when we wrote it."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    return None if is_our_card(text) else text


def is_our_card(text: str) -> bool:
    """Return whether this program wrote a card."""
    return _MARK in text


def front_matter(known: Mapping[str, Any]) -> str:
    """Return the lines of a card's YAML; values are written as JSON, which is YAML and quotes any name."""
    lines = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in known.items()]
    return "\n".join([*lines, _MARK])


@dataclass(frozen=True)
class Publication:
    """Where a card is published, and what only its publisher knows.

    `bases` are the repositories that the model was made from, `known` further entries of the front matter.
    """

    repository: str
    bases: tuple[str, ...] = ()
    known: Mapping[str, Any] = field(default_factory=dict)


def export_metadata(context: ReportContext, publication: Publication | None = None) -> dict[str, Any]:
    """Return the front matter of an export's card."""
    bases = publication.bases if publication else bases_on_hub(context.base, context.adapters)
    known: dict[str, Any] = {
        **(publication.known if publication else {}),
        "pipeline_tag": "text-generation",
        "library_name": "gguf",
        "tags": ["gguf", *(["lora"] if context.adapters else []), "llama.cpp", "gguf-chat"],
    }
    if bases:
        # One name as a text: programs that know no list read it too.
        known |= {"base_model": bases[0] if len(bases) == 1 else list(bases)}
        known |= {"base_model_relation": "adapter" if context.is_adapter else "quantized"}
    if index := model_index(context):
        known["model-index"] = index
    return known


def bases_on_hub(base: Mapping[str, Any], adapters: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Return the repositories of a manifest's base and adapters, without those that were folders."""
    names = [base.get("model"), *(entry["source"] for entry in (base, *adapters) if entry.get("revision"))]
    return tuple(dict.fromkeys(name for name in names if name and HUB_ID.fullmatch(name)))


def model_index(context: ReportContext) -> list[dict[str, Any]]:
    """Return the certificate's table as the Hub's `model-index`; empty when nothing was measured."""
    results = [
        {
            "task": {"type": "text-generation"},
            "dataset": {"type": "certificate", "name": "The certificate's prompts", "config": file.name},
            "metrics": metrics,
        }
        for file in context.files
        if (metrics := _metrics(file))
    ]
    return [{"name": context.name, "results": results}] if results else []


def _metrics(file: ReportedFile) -> list[dict[str, Any]]:
    measured = (
        ("survival", "Share of the tuning that survives", file.survival and file.survival[0]),
        ("kl_divergence", "KL divergence from the unquantized model, nats a token", file.kl),
        ("next_token_agreement", "Share of places with the same next token", file.agreement),
    )
    return [
        {"type": kind, "name": name, "value": round(value, 4)}
        for kind, name, value in measured
        if value is not None
    ]


def adapter_card(
    name: str, options: Mapping[str, Any], report: Mapping[str, Any], *, curve: str | None = None
) -> str:
    """Return the card of a tuned model, from the options and the report in training.json.

    `curve` is the file of the loss curve beside the card.
    """
    full = options.get("full")
    known: dict[str, Any] = {
        **({} if full else {"library_name": "peft"}),
        "pipeline_tag": "text-generation",
        "tags": ["sft"] if full else ["lora", "sft"],
    }
    if HUB_ID.fullmatch(options["base"]):
        known["base_model"] = options["base"]
    losses = [("trained rows", report["train_loss_before"], report["train_loss"])]
    if report["held_out_loss"] is not None:
        losses.append(("held-out rows", report["held_out_loss_before"], report["held_out_loss"]))
    rows = "\n".join(f"| {chats} | {before:.3f} | {after:.3f} |" for chats, before, after in losses)
    whole = "All weights, which are ternary, of" if options.get("ternary") else "All weights of"
    what = whole if full else f"{_article(_kind(options))} adapter for"
    return f"""---
{front_matter(known)}
---

# {name}

{what} `{options["base"]}`, trained with GGUF Chat.

- data: `{options["data"]}`, {report["train_chats"]} trained on, {report["held_out_chats"]} held out
{_adapter_line(options)}- training: steps {report["steps"]}, batch size {_batch(options)}, learning rate \
{options["learning_rate"]:g} ({options["schedule"]}), {options["precision"]}, seed {options["seed"]}

| loss, nats a token | before | after |
|---|---|---|
{rows}
{_paired_line(report)}{f"{chr(10)}![The loss of each step]({curve}){chr(10)}" if curve else ""}
`training.json` has all options, the data's SHA-256 and the versions.
"""


def _kind(options: Mapping[str, Any]) -> str:
    name = "rsLoRA" if options.get("rslora") else "LoRA"
    return f"{'Q' if options.get('qlora') else ''}{name}{' + DoRA' if options.get('dora') else ''}"


def _article(kind: str) -> str:
    return f"{'An' if kind.startswith('rs') else 'A'} {kind}"


def _adapter_line(options: Mapping[str, Any]) -> str:
    if options.get("full"):
        return ""
    base = f"; the base rounded to {options['qlora']['quant_type']}" if options.get("qlora") else ""
    return (
        f"- adapter: rank {options['rank']}, alpha {options['alpha']:g}, dropout {options['dropout']:g}, "
        f"on {', '.join(options['targets'])}{base}\n"
    )


def _batch(options: Mapping[str, Any]) -> str:
    size, times = options["batch_size"], options.get("accumulate", 1)
    return f"{size} x {times}" if times > 1 else str(size)


def _paired_line(report: Mapping[str, Any]) -> str:
    paired = (report.get("evaluation") or {}).get("paired")
    if not paired:
        return ""
    return (
        f"\nThe wanted answer became likelier in {paired['better']} of {paired['rows']} held-out rows "
        f"({paired['share']:.0%}, 95 % interval {paired['low']:.0%} to {paired['high']:.0%}).\n"
    )


_FRONT = re.compile(r"\A---\r?\n(?P<lines>.*?)^---\r?\n", re.DOTALL | re.MULTILINE)


def with_metadata(card: str, known: Mapping[str, Any], *, override: bool = False) -> str:
    """Return the card with entries in its front matter that it lacks; `override`: also those it has.

    What is there stays as it was written, line by line.
    """
    match = _FRONT.match(card)
    lines = match["lines"].splitlines() if match else []
    body = card[match.end() :] if match else f"\n{card.lstrip()}"
    added = [f"{key}: {json.dumps(value, ensure_ascii=False)}" for key, value in known.items()]
    for key, line in zip(known, added, strict=True):
        place = next((n for n, old in enumerate(lines) if old.startswith(f"{key}:")), None)
        if place is None:
            lines.append(line)
        elif override:
            end = place + 1
            while end < len(lines) and lines[end][:1] in (" ", "-", "\t"):  # the rest of a list or a mapping
                end += 1
            lines[place:end] = [line]
    return "\n".join(["---", *lines, "---", ""]) + body
