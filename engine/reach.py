"""How far a slow step is, and whether anybody still waits for it."""

from __future__ import annotations

from collections.abc import Callable

Reach = Callable[[float], bool]
"""Is told how far a step is, from 0 to 1, and says whether to go on with it."""


def unwatched(_: float) -> bool:
    """For a step that nobody watches: go on."""
    return True


def part(reach: Reach, begin: float, end: float) -> Reach:
    """The `reach` of a step that leads from `begin` to `end` of a longer one."""
    return lambda share: reach(begin + (end - begin) * share)
