"""How much one user may ask for: requests in a minute, and answers at once. Plain Python."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from ui.i18n.words import ENGLISH, Translator

_FORGET_ABOVE = 10_000  # users that are remembered before those without a debt are dropped
_ANSWER_SECONDS = 5.0  # a guess at when one of a user's answers ends


class RateLimitExceeded(Exception):
    """One user asks for more than `most`, which is all that this server gives to one; `seconds` to wait."""

    def __init__(self, reason: Literal["too_often", "at_once"], most: int, seconds: float) -> None:
        super().__init__(reason, most, seconds)
        self.reason, self.most, self.seconds = reason, most, seconds

    def text(self, t: Translator = ENGLISH) -> str:
        """What happened and what to do, for the user."""
        return t(f"access.{self.reason}", most=self.most, seconds=math.ceil(self.seconds))

    def __str__(self) -> str:
        return self.text()


@dataclass
class _Bucket:
    """What is left for one user, and when that was so."""

    left: float
    since: float


class RequestRate:
    """A token bucket for each user: `per_minute` at once, then one more every 60 / per_minute seconds."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_minute` of 0 means no limit; `clock` counts seconds."""
        self._most, self._clock = per_minute, clock
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def take(self, user: str) -> None:
        """Count a request. Raises RateLimitExceeded, and then counts nothing."""
        if not self._most:
            return
        with self._lock:
            bucket = self._filled(user)
            if bucket.left < 1:
                raise RateLimitExceeded("too_often", self._most, (1 - bucket.left) * 60 / self._most)
            bucket.left -= 1

    def give_back(self, user: str) -> None:
        """Take the last request out of the count."""
        with self._lock:
            if (bucket := self._buckets.get(user)) is not None:
                bucket.left += 1

    def _filled(self, user: str) -> _Bucket:
        now = self._clock()
        if len(self._buckets) > _FORGET_ABOVE:
            self._buckets = {name: b for name, b in self._buckets.items() if self._left(b, now) < self._most}
        bucket = self._buckets.setdefault(user, _Bucket(self._most, now))
        bucket.left, bucket.since = self._left(bucket, now), now
        return bucket

    def _left(self, bucket: _Bucket, now: float) -> float:
        return min(self._most, bucket.left + (now - bucket.since) * self._most / 60)


class ConcurrencyLimit:
    """Counts the answers that each user has under way."""

    def __init__(self, most: int) -> None:
        """`most` of 0 means no limit."""
        self._most = most
        self._running: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def one_more(self, user: str) -> Iterator[None]:
        """An answer for the time of a `with` block. Raises RateLimitExceeded at its begin."""
        with self._lock:
            if self._most and self._running[user] >= self._most:
                raise RateLimitExceeded("at_once", self._most, _ANSWER_SECONDS)
            self._running[user] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[user] -= 1
                if not self._running[user]:
                    del self._running[user]
