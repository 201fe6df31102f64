"""The server's log: what repeats is counted, so that no client can fill a disk with it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

LOGGERS = ("uvicorn.error", "asyncio")
PERIOD = 60.0  # seconds
PER_PERIOD = 3  # records of one kind
_MAX_KINDS = 200  # in a period; all further kinds count as one


def bound_logs() -> None:
    """Limit what uvicorn and asyncio log. Calling it again has no effect."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if not any(isinstance(one, RepeatFilter) for one in logger.filters):
            logger.addFilter(is_worth_logging)
            logger.addFilter(RepeatFilter())


def is_worth_logging(record: logging.LogRecord) -> bool:
    """Return False for open pages' streams that the shutdown cancels."""
    cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and "timeout graceful shutdown" not in record.getMessage()


@dataclass
class _Kind:
    """The records of one kind since the time `since` (seconds)."""

    since: float
    records: int = 0


class RepeatFilter(logging.Filter):
    """Passes `PER_PERIOD` records of a kind in each `PERIOD`; the next one says how many were left out.

    A kind is a message's text before its arguments, and the type and place of its exception.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns seconds."""
        super().__init__()
        self._clock = clock
        self._kinds: dict[object, _Kind] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to log the record."""
        now, key = self._clock(), _kind_of(record)
        if key not in self._kinds and len(self._kinds) >= _MAX_KINDS:
            self._kinds = {one: kind for one, kind in self._kinds.items() if now - kind.since < PERIOD}
            key = key if len(self._kinds) < _MAX_KINDS else None
        kind = self._kinds.setdefault(key, _Kind(now))
        left_out = 0
        if now - kind.since >= PERIOD:
            left_out = max(0, kind.records - PER_PERIOD)
            kind = self._kinds[key] = _Kind(now)
        kind.records += 1
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} more like this were left out)"
            record.args = None
        return kind.records <= PER_PERIOD


def _kind_of(record: logging.LogRecord) -> object:
    error, place = record.exc_info[1] if record.exc_info else None, None
    trace = error.__traceback__ if error is not None else None
    while trace is not None:
        place, trace = (trace.tb_frame.f_code.co_filename, trace.tb_lineno), trace.tb_next
    return str(record.msg).partition("\n")[0], type(error), place
