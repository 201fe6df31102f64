"""Model cards (README.md) for the Hub: the card of a trained adapter, and the front matter of all cards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.sources.model_source import HUB_ID

CARD = "README.md"
_MARK = "made_with: gguf-chat"


def own_card(folder: Path) -> str | None:
    """Read the README.md that the user wrote; None when there is none, or when we wrote it."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    return None if _MARK in text else text


def front_matter(known: Mapping[str, Any]) -> str:
    """Return the lines of a card's YAML; values are written as JSON, which is YAML and quotes any name."""
    lines = [f"{key}: {json.dumps(value)}" for key, value in known.items()]
    return "\n".join([*lines, _MARK])


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
