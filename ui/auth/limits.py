"""Limits per user: requests per minute (token bucket) and concurrent answers."""

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

_MAX_BUCKETS = 10_000  # above it, buckets that are full again are dropped
_RETRY_SECONDS = 5.0  # a guess at when one of a user's answers ends


class RateLimitExceeded(Exception):
    """A user is over the limit of `limit` requests a minute or answers at once; retry after `seconds`."""

    def __init__(self, reason: Literal["too_often", "at_once"], limit: int, seconds: float) -> None:
        super().__init__(reason, limit, seconds)
        self.reason, self.limit, self.seconds = reason, limit, seconds

    def text(self, t: Translator = ENGLISH) -> str:
        """Return the message for the user: what happened and what to do."""
        return t(f"access.{self.reason}", most=self.limit, seconds=math.ceil(self.seconds))

    def __str__(self) -> str:
        return self.text()


@dataclass
class _Bucket:
    """A user's tokens, at the time `since` (seconds)."""

    tokens: float
    since: float


class RequestRate:
    """A token bucket per user: `per_minute` requests at once, then one every 60 / per_minute seconds."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`per_minute` of 0 means no limit; `clock` returns seconds."""
        self._limit, self._clock = per_minute, clock
        self._buckets: dict[str, _Bucket] = {}
        self._lock = threading.Lock()

    def take(self, user: str) -> None:
        """Count a request. Raises RateLimitExceeded, and then counts nothing."""
        if not self._limit:
            return
        with self._lock:
            bucket = self._refilled(user)
            if bucket.tokens < 1:
                raise RateLimitExceeded("too_often", self._limit, (1 - bucket.tokens) * 60 / self._limit)
            bucket.tokens -= 1

    def refund(self, user: str) -> None:
        """Take back the count of one request."""
        with self._lock:
            if (bucket := self._buckets.get(user)) is not None:
                bucket.tokens += 1

    def _refilled(self, user: str) -> _Bucket:
        now = self._clock()
        if len(self._buckets) > _MAX_BUCKETS:
            self._buckets = {
                name: bucket
                for name, bucket in self._buckets.items()
                if self._tokens_at(bucket, now) < self._limit
            }
        bucket = self._buckets.setdefault(user, _Bucket(self._limit, now))
        bucket.tokens, bucket.since = self._tokens_at(bucket, now), now
        return bucket

    def _tokens_at(self, bucket: _Bucket, now: float) -> float:
        return min(self._limit, bucket.tokens + (now - bucket.since) * self._limit / 60)


class ConcurrencyLimit:
    """Counts each user's running answers."""

    def __init__(self, limit: int) -> None:
        """`limit` of 0 means no limit."""
        self._limit = limit
        self._running: Counter[str] = Counter()
        self._lock = threading.Lock()

    @contextmanager
    def acquire(self, user: str) -> Iterator[None]:
        """Count an answer for the duration of a `with` block. Raises RateLimitExceeded on entering it."""
        with self._lock:
            if self._limit and self._running[user] >= self._limit:
                raise RateLimitExceeded("at_once", self._limit, _RETRY_SECONDS)
            self._running[user] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[user] -= 1
                if not self._running[user]:
                    del self._running[user]
