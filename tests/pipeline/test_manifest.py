from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import pytest

from common.errors import MissingPackage
from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.resume import describe_input, fingerprint
from pipeline.manifest import Record, load_record
from pipeline.sources.model_source import Source


@pytest.mark.parametrize(
    "change", [{"invented": 1}, {"fingerprint": None}, {"outputs": [{"file": "a.gguf"}]}], ids=str
)
def test_a_record_with_other_fields_is_of_another_version(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    Record("f").save(path)
    assert load_record(path) == Record("f")
    content = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(InputError, match="written by another version"):
        load_record(path)


def test_without_llama_cpp_python_an_export_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata.Distribution, "from_name", _missing)
    with pytest.raises(MissingPackage, match="pip install"):
        fingerprint(ExportConfig("base", tmp_path / "bob"), Source("base", tmp_path, None), ())


def test_an_export_depends_on_templates_in_their_own_folder(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    source = Source("base", tmp_path, None)
    config = ExportConfig("base", tmp_path / "bob")
    without = fingerprint(config, source, ())
    assert list(describe_input(source)["files"]) == ["tokenizer.json"]
    (more := tmp_path / "additional_chat_templates").mkdir()
    assert fingerprint(config, source, ()) == without
    template = more / "tool_use.jinja"
    template.write_text("{{ messages }}")
    first = fingerprint(config, source, ())
    files = ["tokenizer.json", "additional_chat_templates/tool_use.jinja"]
    assert list(describe_input(source)["files"]) == files
    template.write_text("{{ messages }}{{ tools }}")
    assert len({without, first, fingerprint(config, source, ())}) == 3


def _missing(name: str) -> None:
    raise importlib.metadata.PackageNotFoundError(name)
