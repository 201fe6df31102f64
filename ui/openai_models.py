"""The models that /v1 serves: what it must be handed, and the simplest such thing, one model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from engine.backend import ChatBackend
from engine.errors import ModelError


class Loan(Protocol):
    """A model that is held for a while; `backend` is there once it has loaded."""

    backend: Future[ChatBackend]

    def give_back(self) -> None:
        """Let it go."""
        ...


class Models(Protocol):
    """Models by their keys, loaded when they are asked for."""

    @property
    def default(self) -> str:
        """The key of the model that answers who names none."""
        ...

    def keys(self) -> list[str]:
        """The keys that may be asked for."""
        ...

    def lend(self, key: str | None = None) -> Loan:
        """Borrow a model, the default for None. Returns at once; raises ModelError for an unknown key."""
        ...


@asynccontextmanager
async def serving(models: Models, key: str) -> AsyncIterator[ChatBackend]:
    """A model for the time of an `async with`, loaded if need be. Raises what loading it raises."""
    loan = models.lend(key)
    try:
        yield await asyncio.shield(asyncio.wrap_future(loan.backend))
    finally:
        loan.give_back()


class OneModel:
    """A backend that is there already, by its file's name."""

    def __init__(self, backend: ChatBackend) -> None:
        self._loan = _Held(backend)
        self._key = Path(backend.info.path).stem

    @property
    def default(self) -> str:
        """The one key."""
        return self._key

    def keys(self) -> list[str]:
        """The one key."""
        return [self._key]

    def lend(self, key: str | None = None) -> Loan:
        """The one model. Raises ModelError for another's key."""
        if key not in (None, self._key):
            raise ModelError(f"model {key!r} is not offered here: use {self._key!r}")
        return self._loan


class _Held:
    def __init__(self, backend: ChatBackend) -> None:
        self.backend: Future[ChatBackend] = Future()
        self.backend.set_result(backend)

    def give_back(self) -> None:
        """Nothing changes: the one model stays."""
