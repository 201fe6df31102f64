"""Errors of other people's code on a user's input: one InputError that names the file, the key and the fix.

PEFT, transformers, tokenizers, llama.cpp's converter and numpy validate an input by using it, and raise
anything. `reading` says what was being read, whatever they raise; `blamed_key` finds the key at fault.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from common.errors import UserError
from common.files import DISK_FULL
from pipeline.errors import InputError

_OURS = (UserError, KeyboardInterrupt, GeneratorExit, MemoryError, NameError)
"""Passed on: for the user already, not about the input, or a mistake in this program."""

_DISK = (*DISK_FULL, errno.EIO, errno.EROFS)
_SECONDS = 10.0
_MAX_REASON = 200


@contextmanager
def reading(
    what: str, fix: str, diagnose: Callable[[BaseException], str | None] | None = None
) -> Iterator[None]:
    """Raise an InputError for any exception of the block but those for the user, as "WHAT (reason): FIX".

    `diagnose` may return a whole message instead. Rust's panics and sys.exit count too.
    """
    try:
        yield
    except _OURS:
        raise
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in _DISK:
            raise
        found = diagnose(error) if diagnose else None
        raise InputError(found or f"{what} ({reason(error)}): {fix}") from error


def reason(error: BaseException) -> str:
    """Return an error's type and message in one short line."""
    text = " ".join(str(error).split())[:_MAX_REASON]
    if isinstance(error, KeyError):
        return f"the key {text} is missing or unknown"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def blamed_key(
    config: Mapping[str, Any], attempt: Callable[[dict[str, Any]], object], seconds: float = _SECONDS
) -> str | None:
    """Return the first key without which `attempt` succeeds on a configuration; None when there is none.

    It stops looking after `seconds`.
    """
    deadline = time.monotonic() + seconds
    for key in config:
        if time.monotonic() > deadline:
            break
        try:
            attempt({name: value for name, value in config.items() if name != key})
        except _OURS[1:]:
            raise
        except BaseException:  # noqa: BLE001 - as `reading`
            continue
        return key
    return None


def shown(value: object) -> str:
    """Return a value for a message, in one short line."""
    return " ".join(repr(value).split())[:80]
