"""A dict that does not grow for ever: what is known of browser tabs, not all of which say that they close."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")
MOST = 10_000


class Latest(dict[K, V]):
    """Keeps the entries that were set last, at most `MOST`. Only `latest[key] = value` sets one."""

    def __setitem__(self, key: K, value: V) -> None:
        self.pop(key, None)
        super().__setitem__(key, value)
        if len(self) > MOST:
            del self[next(iter(self))]
