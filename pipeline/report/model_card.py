"""README.md beside a trained adapter: the Hub's model card of it, in PEFT's form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.sources.model_source import HUB_ID

CARD = "README.md"
_OURS = "made_with: gguf-chat"


def own_card(folder: Path) -> str | None:
    """The README.md of the user's own in a folder; None where there is none, or one of ours."""
    try:
        text = (folder / CARD).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    return None if _OURS in text else text


def front_matter(known: Mapping[str, Any]) -> str:
    """The lines of a card's YAML; JSON is YAML, and quotes whatever a name may hold."""
    lines = [f"{key}: {json.dumps(value)}" for key, value in known.items()]
    return "\n".join([*lines, _OURS])


def adapter_card(name: str, options: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """The card of the adapter `name`, out of the two that training.json holds."""
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
    rows = "\n".join(f"| {what} | {before:.3f} | {after:.3f} |" for what, before, after in losses)
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
