"""The Hub's model card of what is made here: its YAML, and whose README.md stands in a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
