"""Figures as JSON holds them, which knows neither NaN nor infinity."""

from __future__ import annotations

import math
from typing import Any


def finite(tree: Any) -> Any:
    """The same dicts, lists and tuples with None for each number that is none, or infinite."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree
