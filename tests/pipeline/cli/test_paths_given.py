from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.cli.console import certificate_path, given_path
from pipeline.errors import InputError


def test_an_unset_variable_is_not_this_folder() -> None:
    assert given_path("--out", ".") == Path()
    for text in ("", " "):
        with pytest.raises(InputError, match="--out is empty: name a place"):
            given_path("--out", text)
        with pytest.raises(InputError, match="--out is empty"):
            certificate_path(text)


def test_a_certificate_is_a_file_in_a_folder_that_is_there(tmp_path: Path) -> None:
    assert certificate_path(str(tmp_path / "c.json")) == tmp_path / "c.json"
    with pytest.raises(InputError, match=r"is a folder: name a file in it, such as .*certificate\.json"):
        certificate_path(str(tmp_path))
    with pytest.raises(InputError, match="does not exist: make it first"):
        certificate_path(str(tmp_path / "none" / "c.json"))
