"""The model pool with an opener whose timing and failures the test controls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from engine.core.stats import EngineStats
from engine.errors import EngineStopped, ModelError
from engine.serving.model_pool import ModelPool
from tests.engine.fake_models import Opener, settle

KEYS = ["a", "b", "c", "d"]


@pytest.fixture
def opener() -> Opener:
    return Opener()


@pytest.fixture
def pool(opener: Opener) -> Iterator[ModelPool]:
    made = ModelPool(opener, KEYS, "a", max_loaded=2)  # type: ignore[arg-type]  # the fakes cannot chat
    yield made
    opener.gate.set()
    made.close()


def test_many_who_ask_at_once_load_once(pool: ModelPool, opener: Opener) -> None:
    opener.gate.clear()
    got: list[object] = []

    def ask() -> None:
        with pool.use("b") as backend:
            got.append(backend)

    with ThreadPoolExecutor(8) as people:
        for _ in range(8):
            people.submit(ask)
        opener.started.wait(10)
        opener.gate.set()
    assert opener.log == ["open b"] and len(got) == 8 and len(set(got)) == 1


def test_the_idle_one_that_was_asked_for_longest_ago_goes(pool: ModelPool, opener: Opener) -> None:
    for key in ("a", "b", "a", "c"):
        pool.load(key)
    assert pool.loaded() == ["a", "c"]
    settle(pool)
    assert opener.log == ["open a", "open b", "open c", "close b", "open nothing"]


def test_what_is_in_use_stays_and_goes_afterwards(pool: ModelPool, opener: Opener) -> None:
    leases = [pool.acquire(key) for key in ("a", "b", "c")]
    borrowed = [lease.backend.result(10) for lease in leases]
    pool.load("d")
    assert pool.loaded() == ["a", "b", "c", "d"]
    assert not any(backend.closed for backend in borrowed)  # type: ignore[attr-defined]
    for lease in leases:
        lease.release()
        lease.release()
    assert pool.loaded() == ["c", "d"]
    settle(pool)
    assert opener.log[4:6] == ["close a", "close b"]


def test_a_load_that_fails_leaves_the_others_and_may_be_tried_again(pool: ModelPool, opener: Opener) -> None:
    with pool.use("a"), pool.use("b"):
        opener.broken.add("c")
        with pytest.raises(ModelError, match="c is broken"), pool.use("c"):
            pass
    assert pool.loaded() == ["a", "b"]
    opener.broken.remove("c")
    pool.load("c")
    assert pool.loaded() == ["b", "c"]


def test_all_who_wait_are_told_of_a_failure(pool: ModelPool, opener: Opener) -> None:
    opener.gate.clear()
    opener.broken.add("c")
    leases = [pool.acquire("c") for _ in range(3)]
    opener.gate.set()
    for lease in leases:
        with pytest.raises(ModelError, match="c is broken"):
            lease.backend.result(10)
        lease.release()
    assert pool.loaded() == []


def test_a_load_that_nobody_waits_for_stops_and_another_one_begins_anew(
    pool: ModelPool, opener: Opener
) -> None:
    opener.gate.clear()
    first = pool.acquire("b")
    assert opener.started.wait(10)
    first.release()
    again = pool.acquire("b")
    assert pool.loading("b") == 0
    opener.gate.set()
    assert again.backend.result(10) is not None and pool.loading("b") == 0.5
    with pytest.raises(EngineStopped):
        first.backend.result(10)
    assert opener.log == ["open b", "leave b", "open b"]


def test_only_what_is_offered_is_opened(pool: ModelPool, opener: Opener) -> None:
    with pytest.raises(ModelError, match=r"'/etc/secret\.gguf' is not offered"):
        pool.load("/etc/secret.gguf")
    pool.register("new")
    pool.load("new")
    assert pool.keys() == [*KEYS, "new"] and opener.log == ["open new"]
    pool.load()
    assert pool.default == "a" and pool.loaded() == ["new", "a"]


def test_a_model_that_failed_for_good_is_loaded_anew(pool: ModelPool, opener: Opener) -> None:
    with pool.use() as first:
        first.failed = True  # type: ignore[attr-defined]
        assert pool.failed()
        with pool.use() as second:
            assert second is not first and not pool.failed()
    settle(pool)
    assert opener.log[:3] == ["open a", "close a", "open a"] and pool.stats().requests == 2


def test_the_counts_of_closed_models_are_kept(pool: ModelPool) -> None:
    for key in ("a", "b", "c"):
        pool.load(key)
    assert pool.stats() == EngineStats(requests=3, slots=8)


def test_closing_ends_all_once_even_what_is_in_use_or_about_to_load(pool: ModelPool, opener: Opener) -> None:
    used = pool.acquire("a")
    backend = used.backend.result(10)
    opener.started.clear()
    opener.gate.clear()
    loading, waiting = pool.acquire("b"), pool.acquire("c")
    opener.started.wait(10)
    closing = threading.Thread(target=pool.close)
    closing.start()
    while not pool._closed:
        pass
    opener.gate.set()
    closing.join(10)
    assert backend.closed == 1  # type: ignore[attr-defined]
    for lease in (loading, waiting):
        with pytest.raises(EngineStopped, match="shut down"):
            lease.backend.result()
    for lease in (used, loading, waiting):
        lease.release()
    pool.close()
    assert sorted(opener.log) == ["close a", "leave b", "open a", "open b"]
    with pytest.raises(EngineStopped):
        pool.load("a")
