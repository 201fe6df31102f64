"""What files make of the samples, kept in the scratch folder as JSON: computed once for all that ask."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.certificate.divergence import TokenScores
from pipeline.manifest import write_atomically


def keep(path: Path, key: str, content: dict[str, Any]) -> None:
    """Write it down for `recall` with the same key."""
    write_atomically(path, json.dumps({"key": key, **content}))


def recall(path: Path, key: str) -> dict[str, Any] | None:
    """What was kept at `path`, if it was for the same key."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content if content["key"] == key else None


def key_of(*parts: object) -> str:
    """A key of anything with a `repr`; files count by size and time, for a scratch folder is one export's."""
    return repr([_state(part) if isinstance(part, Path) else part for part in parts])


def _state(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns


def plain(scores: Sequence[TokenScores]) -> list[list[list[float]]]:
    """Scores as JSON has them."""
    return [[score.kl.tolist(), score.agree.tolist(), score.log_p.tolist()] for score in scores]


def scores_of(content: list[list[list[float]]]) -> tuple[TokenScores, ...]:
    """Scores out of `plain`."""
    return tuple(
        TokenScores(np.array(kl, np.float64), np.array(agree, np.bool_), np.array(log_p, np.float64))
        for kl, agree, log_p in content
    )
