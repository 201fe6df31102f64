"""app.py as a process: its start, its error messages, and its end."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest

from tests.ui.app_process import ROOT, running
from ui.models.files import embedded_gguf

pytestmark = pytest.mark.slow


def refused(*arguments: str) -> str:
    """Run the app, which must not start, and return its only line on stderr."""
    result = subprocess.run(
        [sys.executable, "app.py", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


def test_a_port_in_use_is_named_with_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refused("--port", str(port))
    assert str(port) in line
    assert f"--port {port + 1}" in line


def test_a_missing_model_is_named() -> None:
    assert "nowhere.gguf" in refused("nowhere.gguf", "--port", "0")


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    assert str(tmp_path) in refused(str(tmp_path), "--port", "0")


def test_a_truncated_gguf_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    with embedded_gguf().open("rb") as whole:
        path.write_bytes(whole.read(3_000_000))
    assert "cut.gguf" in refused(str(path), "--port", "0")


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("--host", "no.such.host.invalid", "no.such.host.invalid"),
        ("--slots", "0", "--slots"),
        ("--context", "many", "--context"),
        ("--kv-type", "q5_0", "'f16', 'q8_0' or 'q4_0'"),
        ("--max-seconds", "0", "--max-seconds"),
    ],
)
def test_a_bad_option_is_named(option: str, value: str, named: str) -> None:
    assert named in refused(option, value, "--port", "0")


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_it_starts_from_the_environment_and_ends_at_once_while_it_answers(ending: signal.Signals) -> None:
    env = {"GGUF_CHAT_MODEL": str(embedded_gguf()), "GGUF_CHAT_PORT": "0", "GGUF_CHAT_CONTEXT": "1024"}
    with running(env=env) as app:
        url = app.address()
        with urllib.request.urlopen(f"{url}/health") as reply:
            assert json.load(reply)["status"] == "ok"
        answer = threading.Thread(target=_ask_for_much, args=(url,), daemon=True)
        answer.start()
        time.sleep(1.5)
        if sys.platform == "linux":
            assert "libllama" not in Path(f"/proc/{app.process.pid}/maps").read_text()
        start = time.monotonic()
        app.process.send_signal(ending)
        assert app.process.wait(20) == 0
        assert time.monotonic() - start < 6
        assert "Traceback" not in app.log


def _ask_for_much(url: str) -> None:
    from gradio_client import Client

    with contextlib.suppress(Exception):  # the server stops during the answer, on purpose
        Client(url, verbose=False).predict("Tell me a long story.", max_tokens=900, api_name="/chat")


def test_a_space_is_served_to_its_proxy() -> None:
    with running("--port", "0", env={"SPACE_ID": "someone/space"}) as app:
        assert app.address().startswith("http://127.0.0.1:")
        port = int(app.address().rsplit(":", 1)[1])
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError):
                other.bind(("0.0.0.0", port))
                other.listen()
            assert other.connect_ex((socket.gethostbyname(socket.gethostname()), port)) == 0
