"""Child processes: messages, errors, and crashes with their reasons."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import InputError
from common.worker_process import Message, WorkerDied, WorkerProcess

CHILD = """
import os, signal, sys
from common.worker_process import send, serve

def work(request):
    print("some library's words")
    send({"done": request["job"]})
    if request["job"] == "refuse":
        raise KeyError("no such thing")
    if request["job"] == "fail":
        raise ValueError("broken")
    if request["job"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"token": os.environ.get("HF_TOKEN"), "root": sys.path[1]}

serve(work, refusals=(KeyError,))
"""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path | None], WorkerProcess]:
    (tmp_path / "answering.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    return lambda log: WorkerProcess("answering", log)


def test_requests_are_answered_one_after_another_and_without_secrets(
    started: Callable[[Path | None], WorkerProcess], tmp_path: Path, root: Path
) -> None:
    messages: list[Message] = []
    with started(tmp_path / "logs" / "log") as child:
        with pytest.raises(InputError, match="no such thing"):
            child.run({"job": "refuse"}, messages.append)
        assert child.run({"job": "answer"}, messages.append) == {"token": None, "root": str(root)}
    assert messages == [{"done": "refuse"}, {"done": "answer"}]


@pytest.mark.parametrize(
    ("job", "code", "reason"),
    [
        ("fail", 1, "answering failed with exit code 1: ValueError: broken"),
        ("die", -9, "answering was ended by signal 9: it said nothing"),
    ],
)
def test_a_death_has_a_reason(
    started: Callable[[Path | None], WorkerProcess], tmp_path: Path, job: str, code: int, reason: str
) -> None:
    with started(tmp_path / "log") as child, pytest.raises(WorkerDied) as caught:
        child.run({"job": job})
    assert (caught.value.reason, caught.value.code) == (reason, code)
    assert str(caught.value) == f"{reason} (its log is {tmp_path / 'log'})"


def test_a_death_without_a_log(started: Callable[[Path | None], WorkerProcess]) -> None:
    with started(None) as child, pytest.raises(WorkerDied) as caught:
        child.run({"job": "die"})
    assert str(caught.value) == "answering was ended by signal 9"
