"""Cached JSON: a damaged file counts as missing, and no temporary file is left."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.files import load_json, store_json


def test_what_was_stored_is_loaded_and_nothing_else_is_left(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "scores.json"
    assert load_json(file) is None
    store_json(file, {"key": [1, None]})
    store_json(file, {"key": [2, None]})
    assert load_json(file) == {"key": [2, None]}
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("content", [b"", b'{"key": [1', b"\xff\xfe"])
def test_a_damaged_file_is_a_miss(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "scores.json"
    file.write_bytes(content)
    assert load_json(file) is None


def test_a_place_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        store_json(tmp_path / "file" / "scores.json", {})
