"""A large model of the Hub comes in pieces: what came before an interruption is not sent again."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from huggingface_hub import constants

from engine.errors import EngineStopped, ModelError
from tests.publish.conftest import WRITE
from tests.publish.hub_server import RunningHub
from ui.models.files import choose_gguf

CONTENT = b"GGUF" + os.urandom(21_000_000)


@pytest.fixture(autouse=True)
def model(hub: RunningHub) -> None:
    hub.state.add_repository("you/model", {"m-Q4_0.gguf": CONTENT}, private=True)


def fetched(progress: Callable[[float], bool] = lambda _: True) -> bytes:
    return choose_gguf(Path("you/model"), progress).read_bytes()


def parts(hub: RunningHub) -> list[str | None]:
    """Return the header Range of each request for the file; the token must be in none."""
    sent = [request for request in hub.state.requests if request.path.startswith("/object")]
    assert {request.token for request in sent} <= {None}
    return [request.part for request in sent]


def incomplete(tmp_path: Path) -> Path:
    (path,) = tmp_path.rglob("*.incomplete")
    return path


def stopped_in_the_middle(tmp_path: Path) -> int:
    """Stop a download after its first block; return the bytes that are kept."""
    with pytest.raises(EngineStopped):
        fetched(lambda share: share < 0.9)
    assert not list(tmp_path.rglob("*.gguf"))
    return incomplete(tmp_path).stat().st_size


def test_what_was_stopped_goes_on(hub: RunningHub, tmp_path: Path) -> None:
    kept = stopped_in_the_middle(tmp_path)
    assert 10_000_000 <= kept < len(CONTENT)
    shares: list[float] = []
    assert fetched(lambda share: shares.append(share) is None) == CONTENT
    assert parts(hub) == [None, f"bytes={kept}-"]
    assert shares == sorted(shares) and shares[0] > kept / len(CONTENT) and shares[-1] == 1.0
    assert not list(tmp_path.rglob("*.incomplete"))
    assert fetched() == CONTENT and len(parts(hub)) == 2


@pytest.mark.parametrize("damage", ["another content", "too long"])
def test_a_damaged_rest_is_not_gone_on_with(damage: str, hub: RunningHub, tmp_path: Path) -> None:
    kept = stopped_in_the_middle(tmp_path)
    with incomplete(tmp_path).open("r+b") as file:
        file.seek(0 if damage == "another content" else 2 * len(CONTENT))
        file.write(b"other")
    assert fetched() == CONTENT
    assert parts(hub)[1:] == ([f"bytes={kept}-", None] if damage == "another content" else [None])


def test_a_complete_rest_is_only_checked(hub: RunningHub, tmp_path: Path) -> None:
    stopped_in_the_middle(tmp_path)
    incomplete(tmp_path).write_bytes(CONTENT)
    assert fetched() == CONTENT and len(parts(hub)) == 1


def test_two_at_once_load_it_once(hub: RunningHub) -> None:
    fault = hub.state.fail("GET /object", hold=threading.Event())
    assert fault.hold is not None
    waits = threading.Event()

    def progress(share: float) -> bool:
        waits.set()
        return True

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(fetched)
        assert fault.reached.wait(30)
        second = pool.submit(fetched, progress)
        assert waits.wait(30)
        fault.hold.set()
        assert first.result() == second.result() == CONTENT
    assert parts(hub) == [None]


def test_a_file_system_without_locks_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert fetched() == CONTENT


def test_shards_count_as_one_download(hub: RunningHub) -> None:
    shards = {f"s-0000{number}-of-00002.gguf": CONTENT[number:] for number in (1, 2)}
    hub.state.add_repository("you/model", shards)
    shares: list[float] = []
    path = choose_gguf(Path("you/model"), lambda share: shares.append(share) is None)
    assert path.read_bytes() == CONTENT[1:]
    assert path.with_name("s-00002-of-00002.gguf").read_bytes() == CONTENT[2:]
    assert shares == sorted(shares) and 0 < shares[0] < 0.3 and shares[-1] == 1.0


def test_a_refusal_is_named_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    with pytest.raises(ModelError, match="if it is private, log in"):
        fetched()
    assert not list(tmp_path.rglob("*.incomplete"))
    monkeypatch.setenv("HF_TOKEN", WRITE)
    monkeypatch.setattr(os, "open", full_disk)
    with pytest.raises(ModelError, match="is full: make room, or set HF_HOME"):
        fetched()


def full_disk(path: Path, flags: int, *_: object) -> int:
    raise OSError(28, "No space left on device", str(path))


def test_with_all_of_xet_it_is_left_to_it(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_XET_HIGH_PERFORMANCE", True)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    seen: list[float] = []
    assert fetched(lambda share: seen.append(share) is None) == CONTENT
    assert parts(hub) == [None] and seen
