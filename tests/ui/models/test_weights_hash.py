"""A model's files against the record beside them, and while they are in use."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from common.certificate import Certificate, Finding
from tests.ui.conftest import until
from tests.ui.fake_backend import INFO, FakeBackend
from ui.i18n.words import Translator
from ui.models import weights_hash
from ui.models.weights_hash import FileChange, WeightsHashes

BYTES = b"GGUF and its chat template"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUF_CHAT_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a model's file beside the manifest of its export."""
    path = tmp_path / "bob-Q4_K_M.gguf"
    path.write_bytes(BYTES)
    outputs = [{"file": path.name, "sha256": hashlib.sha256(BYTES).hexdigest()}]
    (tmp_path / "manifest.json").write_text(json.dumps({"outputs": outputs}))
    return path


def model(file: Path) -> FakeBackend:
    return FakeBackend(info=replace(INFO, path=str(file)))


def found_in(file: Path) -> FileChange | None:
    """Return the change that is found once the file is hashed."""
    backend, hashes = model(file), WeightsHashes()
    until(lambda: hashes.of(backend))
    return hashes.change_of(backend)


def keep_times(file: Path, write: Callable[[], object]) -> None:
    """Write to the file, and give it back its time of writing."""
    before = file.stat()
    write()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_the_file_of_the_manifest_is_as_it_should_be(file: Path) -> None:
    assert found_in(file) is None
    (file.parent / "manifest.json").unlink()
    assert found_in(file) is None


def test_bytes_that_were_overwritten_are_named_even_under_their_old_time(file: Path) -> None:
    assert found_in(file) is None  # and its hash is cached
    keep_times(file, lambda: file.write_bytes(BYTES.replace(b"template", b"TEMPLATE")))
    change = found_in(file)
    assert change is not None
    assert (change.file, change.record) == ("bob-Q4_K_M.gguf", "manifest.json")
    for text in (change.text(), change.text(Translator("de")), change.text(Translator("zh"))):
        assert file.name in text and "manifest.json" in text and "\n" not in text
        assert change.actual[:12] in text and change.expected[:12] in text


def test_without_a_manifest_the_certificate_counts(file: Path) -> None:
    (file.parent / "manifest.json").unlink()
    certificate = Certificate.of([Finding("quality", "pass", "")], {file.name: "ab" * 32}, {}, {})
    (file.parent / "certificate.json").write_text(json.dumps(certificate.to_json()))
    change = found_in(file)
    assert change is not None and change.record == "certificate.json"


@pytest.mark.parametrize(
    "record", ["{", "[]", '{"outputs": 3}', '{"outputs": [3, {"file": "bob-Q4_K_M.gguf"}]}']
)
def test_a_record_that_says_nothing_is_not_held_against_a_file(file: Path, record: str) -> None:
    (file.parent / "manifest.json").write_text(record)
    (file.parent / "certificate.json").write_text(record)
    assert found_in(file) is None


def test_every_shard_is_compared(file: Path) -> None:
    shards = [file.with_name(f"bob-0000{n}-of-00002.gguf") for n in (1, 2)]
    outputs = []
    for shard in shards:
        shard.write_bytes(shard.name.encode())
        outputs.append({"file": shard.name, "sha256": hashlib.sha256(shard.name.encode()).hexdigest()})
    (file.parent / "manifest.json").write_text(json.dumps({"outputs": outputs}))
    assert found_in(shards[0]) is None
    shards[1].write_bytes(b"other")
    change = found_in(shards[0])
    assert change is not None and change.file == shards[1].name


@pytest.mark.parametrize("act", ["write", "truncate", "replace", "remove"])
def test_a_file_that_changes_while_it_is_in_use_is_told_once(file: Path, act: str) -> None:
    told: list[FileChange] = []
    backend, hashes = model(file), WeightsHashes(told.append)
    until(lambda: hashes.of(backend))
    assert hashes.change_of(backend) is None
    if act == "write":
        file.write_bytes(BYTES[::-1])
    elif act == "truncate":
        os.truncate(file, 4)
    elif act == "replace":
        (file.parent / "new").write_bytes(BYTES)
        (file.parent / "new").replace(file)
    else:
        file.unlink()
    assert hashes.change_of(backend) == FileChange(file.name)
    hashes.poll()
    assert told == [FileChange(file.name)]
    assert "while it is in use" in told[0].text() and "in Gebrauch" in told[0].text(Translator("de"))


def test_new_bytes_under_an_old_time_are_found_and_a_new_link_is_no_change(file: Path) -> None:
    told: list[FileChange] = []
    backend, hashes = model(file), WeightsHashes(told.append)
    until(lambda: hashes.of(backend))
    os.link(file, file.parent / "backup")
    hashes.poll()
    assert hashes.change_of(backend) is None
    keep_times(file, lambda: file.write_bytes(BYTES[::-1]))
    hashes.poll()
    assert hashes.change_of(backend) == FileChange(file.name) and told == [FileChange(file.name)]


def test_nobody_needs_to_ask_for_it(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_hash, "_POLL_SECONDS", 0.02)
    told: list[FileChange] = []
    backend, hashes = model(file), WeightsHashes(told.append)
    until(lambda: hashes.of(backend))
    file.write_bytes(b"GGUF")
    until(lambda: told)
