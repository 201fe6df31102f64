"""Where caches and data are kept, with a home, with none, and where it cannot be written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from common import paths
from common.paths import cache_folder, cache_note, data_folder, expanded, use_cache_for_libraries

Environment = Callable[..., None]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Environment:
    """Set only these variables of all that decide; a user without an entry; temporary files in tmp_path."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])

    def only(**variables: object) -> None:
        for name in ("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "GGUF_CHAT_CACHE", *paths._LIBRARIES):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, str(value))

    return only


def own_temporary(tmp_path: Path) -> Path:
    return tmp_path / "tmp" / f"gguf-chat-{os.getuid()}"


def test_a_home_is_used_and_nothing_is_said(environment: Environment, tmp_path: Path) -> None:
    environment(HOME=tmp_path / "home")  # which is made when it is needed
    assert cache_folder() == tmp_path / "home/.cache/gguf-chat" and cache_note() == ""
    assert data_folder() == tmp_path / "home/.local/share/gguf-chat"
    environment(HOME="/", XDG_CACHE_HOME=tmp_path, XDG_DATA_HOME=tmp_path)
    assert cache_folder() == data_folder() == tmp_path / "gguf-chat" and cache_note() == ""
    environment(GGUF_CHAT_CACHE="relative")
    assert cache_folder() == Path("relative") and cache_note() == ""
    environment(HOME=tmp_path, GGUF_CHAT_CACHE="~/mine")
    assert cache_folder() == tmp_path / "mine"


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({}, "there is no home folder: set HOME or GGUF_CHAT_CACHE"),
        ({"HOME": "relative"}, "there is no home folder: set HOME or GGUF_CHAT_CACHE"),
        ({"XDG_CACHE_HOME": "relative"}, "there is no home folder: set HOME or GGUF_CHAT_CACHE"),
        ({"HOME": "{file}"}, "{file}/.cache/gguf-chat cannot be read or made: set HOME or GGUF_CHAT_CACHE"),
        ({"XDG_CACHE_HOME": "{file}"}, "{file}/gguf-chat cannot be read or made: set XDG_CACHE_HOME"),
        ({"GGUF_CHAT_CACHE": "{file}"}, "{file} cannot be read or made: set GGUF_CHAT_CACHE"),
        ({"GGUF_CHAT_CACHE": "~/x"}, "there is no home folder: set GGUF_CHAT_CACHE"),
        ({"GGUF_CHAT_CACHE": "~nobody-at-all/x"}, "there is no home folder: set GGUF_CHAT_CACHE"),
    ],
)
def test_without_a_usable_home_the_cache_is_temporary(
    environment: Environment, tmp_path: Path, variables: dict[str, str], said: str
) -> None:
    (file := tmp_path / "file").touch()
    environment(**{name: value.format(file=file) for name, value in variables.items()})
    own = own_temporary(tmp_path)
    assert cache_folder() == own and own.stat().st_mode & 0o777 == 0o700
    said = said.format(file=file)
    assert cache_note() == f"The cache is kept in {own}, as {said} to a folder that can be written"


@pytest.mark.parametrize("made", ["file", "link", "open to all"])
def test_a_temporary_folder_of_somebody_else_is_not_used(
    environment: Environment, tmp_path: Path, made: str
) -> None:
    environment()
    own = own_temporary(tmp_path)
    if made == "file":
        own.touch()
    elif made == "link":
        own.symlink_to(tmp_path)
    else:
        own.mkdir()
        own.chmod(0o777)
    assert cache_folder() != own and "is kept nowhere" in cache_note()
    with pytest.raises(OSError):
        cache_folder().mkdir(parents=True)


def test_a_cache_that_is_there_may_be_read_only(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    baked = tmp_path / ".cache" / "gguf-chat"
    baked.mkdir(parents=True)
    environment(HOME=tmp_path)
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)  # root may write anywhere
    assert cache_folder() == baked and cache_note() == ""
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert cache_folder() == own_temporary(tmp_path)


def test_libraries_keep_their_files_with_ours_only_without_a_home(
    environment: Environment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment(HOME=tmp_path, HF_HOME="/mine")
    use_cache_for_libraries()
    assert os.environ["HF_HOME"] == "/mine" and "MPLCONFIGDIR" not in os.environ
    environment(HF_HOME="/mine")
    monkeypatch.setenv("MPLCONFIGDIR", "")  # so that the variables are restored afterwards
    for name in ("MPLCONFIGDIR", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.setenv(name, "x")
        monkeypatch.delenv(name)
    use_cache_for_libraries()
    own = own_temporary(tmp_path)
    assert os.environ["HF_HOME"] == "/mine" and os.environ["MPLCONFIGDIR"] == str(own / "matplotlib")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(own / "torch")


def test_a_path_in_an_unknown_home_stays_as_it_is(environment: Environment, tmp_path: Path) -> None:
    environment()
    assert expanded("~/a") == Path("~/a") and expanded("~nobody-at-all/a") == Path("~nobody-at-all/a")
    environment(HOME=tmp_path)
    assert expanded("~/a") == tmp_path / "a"
