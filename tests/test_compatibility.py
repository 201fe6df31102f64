"""Compatibility: options, variables, stored conversations, /v1, and the files beside an export.

tests/golden/ was written by the code of 2026-11-30, before its modules moved. Additions pass; removals and
changes fail.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from engine.errors import QueueFull, RequestError
from pipeline import ExportConfig, export
from tests.ui.fake_backend import FakeBackend
from tests.ui.openai.test_openai_api import HELLO, URL, chunks, service
from ui.cli import ALIASES
from ui.conversations.json_transfer import to_json
from ui.conversations.store import Store
from ui.settings import ENV_PREFIX, AppSettings

GOLDEN = Path(__file__).with_name("golden")
COMMANDS = {
    "app": ["app.py"],
    "export": ["scripts/export_gguf.py"],
    "certify": ["scripts/export_gguf.py", "certify"],
    "finetune": ["scripts/finetune.py"],
    "chat": ["scripts/chat.py"],
    "make_base": ["scripts/make_base.py"],
}
OPTION = re.compile(r"(\*\s+)?--?[a-z]")
INDENT = 10 * " "


def entries(text: str) -> list[str]:
    """Return each option of a --help text with its metavar, help and default, as one line."""
    found: list[list[str]] = []
    for line in text.splitlines():
        inner = line.strip("│")
        if OPTION.match(inner.strip()) and not inner.startswith(INDENT):
            found.append([])
        elif not inner.startswith(INDENT):
            continue
        if found:
            found[-1] += inner.split()
    return [" ".join(words) for words in found]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_there_with_its_help_and_default(
    name: str, root: Path, python: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable, value in {"COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(variable, value)
    shown = subprocess.run(
        [python, *COMMANDS[name], "--help"], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    before = entries((GOLDEN / "help" / f"{name}.txt").read_text("utf-8"))
    assert before
    assert [entry for entry in before if entry not in entries(shown)] == []


def test_every_environment_variable_is_read() -> None:
    now = {f"{ENV_PREFIX}{name.upper()}" for name in (*AppSettings.model_fields, *ALIASES)}
    assert set(json.loads((GOLDEN / "environment.json").read_text("utf-8"))) <= now


def test_an_old_history_opens_and_exports_as_it_did(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "history.sqlite", tmp_path)
    store = Store(tmp_path / "history.sqlite")
    try:
        exported = to_json([store.load("local", summary.id) for summary in store.list("local")])
    finally:
        store.close()
    assert json.loads(exported) == json.loads((GOLDEN / "history.json").read_text("utf-8"))


def masked(body: Any) -> Any:
    """Return the body with ids and times replaced, as they differ between requests."""
    if isinstance(body, dict):
        ids = {"id": "<id>"} if str(body.get("id")).startswith("chatcmpl") else {}
        times = {"created": 0} if "created" in body else {}
        return {key: masked(value) for key, value in body.items()} | ids | times
    return [masked(value) for value in body] if isinstance(body, list) else body


def answers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Send the requests of tests/golden/openai.json; yield each name and its response."""
    client = TestClient(service(FakeBackend()), raise_server_exceptions=False)

    def answered(response: Any) -> dict[str, Any]:
        return {"status": response.status_code, "body": masked(response.json())}

    models = client.get("/v1/models")
    yield "models", answered(models)
    yield "model_one", answered(client.get(f"/v1/models/{models.json()['data'][0]['id']}"))
    options = {
        "temperature": 0.1,
        "frequency_penalty": 0.5,
        "presence_penalty": 0.5,
        "stop": ["x"],
        "seed": 3,
    }
    yield "chat", answered(client.post(URL, json={"messages": HELLO, "max_tokens": 2, **options}))
    streamed = client.post(
        URL, json={"messages": HELLO, "stream": True, "stream_options": {"include_usage": True}}
    )
    yield "stream", {"status": streamed.status_code, "chunks": masked(chunks(streamed.text))}
    tool = {"type": "function", "function": {"name": "x"}}
    wrong: dict[str, dict[str, Any]] = {
        "no_messages": {"messages": []},
        "temperature": {"messages": HELLO, "temperature": 9},
        "n": {"messages": HELLO, "n": 2},
        "tools": {"messages": HELLO, "tools": [tool]},
        "role": {"messages": [{"role": "boss", "content": "x"}]},
    }
    for name, body in wrong.items():
        yield f"error_{name}", answered(client.post(URL, json=body))
    several = TestClient(service(FakeBackend(), others=["second"]))
    yield "error_unknown_model", answered(several.post(URL, json={"messages": HELLO, "model": "nope"}))
    yield "error_not_json", answered(client.post(URL, content="{"))
    refusals = {
        "full": QueueFull("the queue is full: try again"),
        "request": RequestError("the prompt is too long"),
    }
    for name, error in refusals.items():
        backend = FakeBackend()
        backend.refuse = error
        refusing = TestClient(service(backend), raise_server_exceptions=False)
        yield f"refused_{name}", answered(refusing.post(URL, json={"messages": HELLO}))


def test_v1_answers_as_it_did() -> None:
    assert dict(answers()) == json.loads((GOLDEN / "openai.json").read_text("utf-8"))


def fields(tree: Any, path: str = "") -> set[str]:
    """Return every key of a JSON tree with its type, as "a.b[].c: str", with file names replaced."""
    if isinstance(tree, dict):
        return {found for key, value in tree.items() for found in fields(value, f"{path}.{generic(key)}")}
    if isinstance(tree, list):
        return {found for value in tree for found in fields(value, f"{path}[]")}
    return {f"{path}: {'number' if isinstance(tree, int | float) else type(tree).__name__}"}


def generic(key: str) -> str:
    return "<file>" if key.endswith(".gguf") else key


def test_the_files_beside_an_export_have_all_their_fields(
    real_base: Path, demo_adapter: Path, tmp_path: Path
) -> None:
    quants = ("Q4_K_M", "Q5_K_M", "Q8_0")
    config = ExportConfig(str(real_base), tmp_path / "bob", (str(demo_adapter),), quants, verify="fast")
    folder = export(config).folder
    before = json.loads((GOLDEN / "export_fields.json").read_text("utf-8"))
    for name in ("manifest", "certificate"):
        now = fields(json.loads((folder / f"{name}.json").read_text("utf-8")))
        assert set(before[name]) - now == set()
