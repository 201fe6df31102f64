"""ModelPool: several models in one process, each loaded when it is asked for.

Models load one after another, in a thread of the pool's own. Whoever asks for one borrows it, and what is
borrowed is never closed under an answer. Beyond `most_loaded` models, the idle one that was asked for longest
ago is closed. A model that fails to load changes nothing for the others; one that nobody waits for any more
stops loading. While a new one loads, the old ones stay, so that for a moment there is one more in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from engine.core.stats import EngineStats, at_rest, total
from engine.errors import EngineStopped, ModelError
from engine.serving.protocols import ChatBackend, SupportsHealth, SupportsStats
from engine.types import ProgressCallback


@dataclass(eq=False)
class _ModelEntry:
    """One model: loading, loaded or failed; `users` count from the moment they ask.

    `share` of its load is done, from 0 to 1.
    """

    backend: Future[ChatBackend] = field(default_factory=Future)
    users: int = 0
    share: float = 0.0

    @property
    def loaded(self) -> bool:
        return self.backend.done() and self.backend.exception() is None

    def reach(self, share: float) -> bool:
        """The load is so far: whether anybody waits for it."""
        self.share = max(self.share, share)
        return self.users > 0

    @property
    def down(self) -> bool:
        """Whether its engine failed for good."""
        backend = self.backend.result() if self.loaded else None
        return isinstance(backend, SupportsHealth) and backend.down


class ModelLease:
    """One user's hold on a model: `backend` is there once it has loaded, and stays until `give_back`."""

    def __init__(self, place: _ModelEntry, give_back: Callable[[_ModelEntry], None]) -> None:
        self.backend = place.backend
        self._place: _ModelEntry | None = place
        self._give_back = give_back

    def give_back(self) -> None:
        """The model may be closed from now on. Returns at once; twice is no error."""
        place, self._place = self._place, None
        if place is not None:
            self._give_back(place)


class ModelPool:
    """Models by their keys. Safe to use from any thread; `ui.models.registry` is for event loops."""

    def __init__(
        self,
        open_model: Callable[[str, ProgressCallback], ChatBackend],
        keys: Iterable[str],
        first: str,
        most_loaded: int = 2,
    ) -> None:
        """`open_model` loads the model of a key, which nobody else may ask for, and tells how far it is.

        `first` is the default.
        """
        assert most_loaded >= 1, most_loaded
        self._open, self._first, self._most = open_model, first, most_loaded
        self._keys = dict.fromkeys([first, *keys])
        self._places: dict[str, _ModelEntry] = {}  # in the order in which they were last asked for
        self._past = EngineStats()  # what closed models have done
        self._closed = False
        self._lock = threading.RLock()  # a future that is done calls `give_back` within it
        self._thread = ThreadPoolExecutor(1, "models")  # loads and closes, one after another

    @property
    def default(self) -> str:
        """The key of the model that answers who names none."""
        return self._first

    def keys(self) -> list[str]:
        """The keys that may be asked for, the default first."""
        with self._lock:
            return list(self._keys)

    def offer(self, key: str) -> None:
        """Let `key` be asked for from now on; the caller vouches for it."""
        with self._lock:
            self._keys.setdefault(key)

    def loaded(self) -> list[str]:
        """The keys of the models in memory, the one asked for last at the end."""
        with self._lock:
            return [key for key, place in self._places.items() if place.loaded]

    def loading(self, key: str) -> float:
        """How much of a model's load is done, from 0 to 1; 0 also for one that nobody has asked for."""
        with self._lock:
            place = self._places.get(key)
            return place.share if place is not None else 0.0

    def lend(self, key: str | None = None) -> ModelLease:
        """Borrow a model, the default for None; it starts to load if it is not there. Returns at once.

        Raises ModelError for a key that is not offered, and EngineStopped after `close`. The loan's `backend`
        is what says that a model does not load.
        """
        key = self._first if key is None else key
        with self._lock:
            if self._closed:
                raise EngineStopped("the models were shut down")
            if key not in self._keys:
                raise ModelError(f"model {key!r} is not offered here: choose one of the list")
            place = self._places.pop(key, None)
            if place is not None and place.down:  # who borrowed it was told; it is loaded anew
                self._retire(place)
                place = None
            if place is None:
                place = _ModelEntry()
                place.users = 1
                self._thread.submit(self._load, key, place)
            else:
                place.users += 1
            self._places[key] = place
        return ModelLease(place, self._take_back)

    @contextmanager
    def use(self, key: str | None = None) -> Iterator[ChatBackend]:
        """The model for the time of a `with` block, loaded if need be. Raises as `lend` and the opener."""
        loan = self.lend(key)
        try:
            yield loan.backend.result()
        finally:
            loan.give_back()

    def preload(self, key: str | None = None) -> Future[ChatBackend]:
        """Have a model in memory for who asks next. Returns at once; raises as `lend` does."""
        loan = self.lend(key)
        loan.backend.add_done_callback(lambda _: loan.give_back())
        return loan.backend

    def load(self, key: str | None = None) -> None:
        """As `preload`, but waits for it. Raises as `use` does."""
        self.preload(key).result()

    def down(self) -> bool:
        """Whether the default model failed for good; who asks for it next has it loaded anew."""
        with self._lock:
            place = self._places.get(self._first)
            return place is not None and place.down

    def stats(self) -> EngineStats:
        """What all models have done so far, those too that were closed since."""
        with self._lock:
            here = [place.backend.result() for place in self._places.values() if place.loaded]
            past = self._past
        return total([past, *(backend.stats() for backend in here if isinstance(backend, SupportsStats))])

    def close(self) -> None:
        """Close all models, borrowed ones too: their answers raise EngineStopped. A load stops."""
        with self._lock:
            self._closed = True
        self._thread.shutdown(wait=True)  # loads that wait find the pool closed, and fail
        with self._lock:
            left, self._places = self._places, {}
        for place in left.values():
            place.backend.result().close()

    def _load(self, key: str, place: _ModelEntry) -> None:
        """In the pool's thread: open the model, or tell all who wait why it does not open."""
        try:
            if self._closed:
                raise EngineStopped
            if not place.users:
                raise EngineStopped(f"nobody waits for model {key!r} any more")
            backend = self._open(key, lambda share: place.reach(share) and not self._closed)
        except Exception as failure:  # noqa: BLE001 - a boundary: whatever happened, every waiter is told
            error = EngineStopped("the models were shut down") if self._closed else failure
            with self._lock:
                if self._places.get(key) is place:
                    del self._places[key]
            place.backend.set_exception(error)
            return
        with self._lock:
            wanted = self._places.get(key) is place
            if wanted:
                place.backend.set_result(backend)
        if not wanted:  # the last one left in the very last moment
            backend.close()
        self._make_room()

    def _take_back(self, place: _ModelEntry) -> None:
        with self._lock:
            place.users -= 1
            if not place.users and not place.backend.done():  # who asks from now on starts another load
                self._places = {key: other for key, other in self._places.items() if other is not place}
        self._make_room()

    def _make_room(self) -> None:
        """Have the oldest idle models closed, while there are too many; the one asked for last stays."""
        with self._lock:
            if self._closed:
                return
            loaded = [key for key, place in self._places.items() if place.loaded]
            idle = [key for key in loaded[:-1] if not self._places[key].users]
            for key in idle[: max(0, len(loaded) - self._most)]:
                self._retire(self._places.pop(key))

    def _retire(self, place: _ModelEntry) -> None:
        """Close a model that is no longer lent, and keep its counts."""
        backend = place.backend.result()
        if isinstance(backend, SupportsStats):
            self._past = total([self._past, at_rest(backend.stats())])
        # in the pool's thread: no event loop waits for it, and the next load finds the room
        self._thread.submit(backend.close)
