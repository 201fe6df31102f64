"""Files that a user or a folder names: pipes and deeply nested JSON are refused by name, never waited for."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from common.certificate import load_certificate
from common.errors import UserError
from common.files import load_json, read_input, read_json_input
from engine.errors import EngineError
from engine.probe.cpu_backend import probe_model
from ggufio.errors import GgufError
from ggufio.untrusted_reader import read_header
from pipeline.data.dataset import read_chats
from pipeline.manifest import load_record
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from tests.ui.app_process import ROOT
from ui.models.catalog import default_entry
from ui.models.files import choose_gguf
from ui.terminal.chat import read_prompt

DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000

pytestmark = pytest.mark.timeout(60)  # a reader that waits for a pipe


def a_folder(tmp_path: Path, name: str) -> Path:
    """Return a folder with all that an adapter, a base and a model need, in which `name` is still missing."""
    for file in ("adapter_model.safetensors", "model.safetensors", "m.gguf"):
        if file != name:
            (tmp_path / file).write_bytes(b"GGUF")
    for file in ("adapter_config.json", "config.json"):
        if file != name:
            (tmp_path / file).write_text('{"architectures": ["x"], "peft_type": "LORA"}')
    return tmp_path / name


def adapter(path: Path) -> object:
    return read_adapter(adapter_source(str(path.parent)))


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "adapter's configuration": ("adapter_config.json", adapter),
    "adapter's weights": ("adapter_model.safetensors", adapter),
    "adapter's tokenizer": ("tokenizer.json", adapter),
    "base's configuration": ("config.json", lambda path: base_source(str(path.parent))),
    "base's tokenizer": ("tokenizer.json", lambda path: base_source(str(path.parent))),
    "base's template": ("chat_template.jinja", lambda path: base_source(str(path.parent))),
    "base's index": ("model.safetensors.index.json", lambda path: base_source(str(path.parent))),
    "data": ("data.jsonl", read_chats),
    "manifest": ("manifest.json", load_record),
    "manifest of a served folder": ("manifest.json", lambda path: choose_gguf(path.parent)),
    "certificate": ("certificate.json", load_certificate),
    "certificate of a served folder": ("certificate.json", lambda path: choose_gguf(path.parent)),
    "prompt": ("prompt.txt", lambda path: read_prompt(path, lambda: "")),
    "GGUF": ("m.gguf", choose_gguf),
    "adapter to serve": ("a.gguf", lambda path: default_entry(Path(f"{path.parent / 'm.gguf'}::{path}"))),
    "GGUF's header": ("m.gguf", read_header),
    "probed GGUF": ("m.gguf", probe_model),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_pipe_is_refused_by_name(tmp_path: Path, reader: str) -> None:
    name, read = READERS[reader]
    path = a_folder(tmp_path, name)
    os.mkfifo(path)
    with pytest.raises((UserError, EngineError, GgufError)) as refused:
        read(path)
    assert name in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "reader", [reader for reader, (name, _) in READERS.items() if name.endswith((".json", ".jsonl"))]
)
def test_deep_json_is_refused_by_name(tmp_path: Path, reader: str) -> None:
    name, read = READERS[reader]
    path = a_folder(tmp_path, name)
    path.write_text(DEEP)
    with pytest.raises((UserError, EngineError)) as refused:
        read(path)
    assert name in str(refused.value) and "\n" not in str(refused.value)


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="no regular file"):
            read_input(path)
        assert load_json(path) is None
    (tmp_path / "deep").write_text(DEEP)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json_input(tmp_path / "deep")
    assert load_json(tmp_path / "deep") is None


@pytest.mark.slow
@pytest.mark.parametrize("how", ["pipe", "deep"])
@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("x.gguf", "app.py {file}"),
        ("manifest.json", "app.py {folder}"),
        ("certificate.json", "app.py {folder}"),
        ("x.gguf", "scripts/chat.py {file} -p hi"),
        ("prompt.txt", "scripts/chat.py {folder}/m.gguf --prompt-file {file}"),
        ("adapter_config.json", "scripts/export_gguf.py --base {folder} --adapter {folder} --out {folder}/o"),
        ("x.jsonl", "scripts/export_gguf.py --base {folder} --eval {file} --out {folder}/o"),
        ("x.jsonl", "scripts/export_gguf.py --base {folder} --calibrate {file} --out {folder}/o"),
        ("x.gguf", "scripts/export_gguf.py --base {folder} --imatrix {file} --out {folder}/o"),
        ("x.gguf", "scripts/export_gguf.py certify {file} --reference {folder}"),
        ("x.jsonl", "scripts/finetune.py --base {folder} --data {file} --out {folder}/o"),
        ("config.json", "scripts/finetune.py --base {folder} --data {folder}/d.jsonl --out {folder}/o"),
    ],
)
def test_any_command_ends_with_one_line(
    tmp_path: Path, python: str, name: str, command: str, how: str
) -> None:
    path = a_folder(tmp_path, name)
    (tmp_path / "d.jsonl").write_text('{"messages": [{"role": "user", "content": "Hi"}]}\n')
    path.write_text(DEEP) if how == "deep" else os.mkfifo(path)
    words = [word.format(file=path, folder=tmp_path) for word in command.split()]
    done = subprocess.run([python, *words], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 2, done.stderr
    *before, error = done.stderr.splitlines()
    assert error.startswith("error: ") and all(line.startswith("Loading ") for line in before)
    assert not (tmp_path / "o").exists()
