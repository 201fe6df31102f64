"""Numbers of things in sentences, as people say them: one chat was, two chats were."""

from __future__ import annotations


def counted(count: int, one: str, many: str = "") -> str:
    """The number with its noun, and with a verb where it is given with both: "1 chat was", "2 chats were"."""
    return f"{count} {one if count == 1 else many or f'{one}s'}"


def all_of(count: int, one: str, many: str) -> str:
    """The same of all that there are: "The one text gives", "All 79 texts give"."""
    return f"The one {one}" if count == 1 else f"All {count} {many}"


def and_more(count: int, one: str) -> str:
    """What follows an example of `count` others: nothing, " and 1 more token", " and 2 more tokens"."""
    return f" and {counted(count, f'more {one}')}" if count else ""
