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


def adapter_card(name: str, options: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """Return the card of the adapter `name`, from the options and the report in training.json."""
    known: dict[str, Any] = {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "sft"],
    }
    if HUB_ID.fullmatch(options["base"]):
        known["base_model"] = options["base"]
    losses = [("trained chats", report["train_loss_before"], report["train_loss"])]
    if report["held_out_loss"] is not None:
        losses.append(("held-out chats", report["held_out_loss_before"], report["held_out_loss"]))
    rows = "\n".join(f"| {chats} | {before:.3f} | {after:.3f} |" for chats, before, after in losses)
    return f"""---
{front_matter(known)}
---

# {name}

A LoRA adapter for `{options["base"]}`, trained with GGUF Chat.

- data: `{options["data"]}`, {report["train_chats"]} trained on, {report["held_out_chats"]} held out
- adapter: rank {options["rank"]}, alpha {options["alpha"]:g}, dropout {options["dropout"]:g}, \
on {", ".join(options["targets"])}
- training: steps {report["steps"]}, batch size {options["batch_size"]}, learning rate \
{options["learning_rate"]:g} ({options["schedule"]}), {options["precision"]}, seed {options["seed"]}

| loss, nats a token | before | after |
|---|---|---|
{rows}

`training.json` has all options, the data's SHA-256 and the versions.
"""
