"""The file names of a split GGUF, and how the engine handles all of its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import ModelError, QueueFull
from engine.probe.cpu_backend import cache_path, is_known
from engine.serving.model_pool import check_room
from ggufio import shards


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the first of three files of ten bytes each."""
    files = [tmp_path / name for name in shards.split_names("bob.gguf", 3)]
    for file in files:
        file.write_bytes(b"GGUF" + bytes(6))
    return files[0]


def test_names_are_llama_cpps() -> None:
    assert shards.names("m-Q4_K_M.gguf") == ["m-Q4_K_M.gguf"] == shards.split_names("m-Q4_K_M.gguf", 1)
    assert shards.names("a/m-00002-of-00003.gguf") == [f"a/m-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    assert shards.names("m-00001-of-00001.gguf") == ["m-00001-of-00001.gguf"]
    assert shards.names("m-00000-of-00000.gguf") == ["m-00000-of-00000.gguf"]
    assert shards.split_names("bob.gguf.partial", 2)[1] == "bob-00002-of-00002.gguf.partial"
    assert shards.whole_name("bob-00002-of-00012.gguf") == shards.whole_name("bob.gguf") == "bob.gguf"


def test_all_files_of_a_model_count(model: Path) -> None:
    assert shards.size(model) == 30
    check_room(model, 30)
    with pytest.raises(QueueFull):
        check_room(model, 29)


def test_another_second_file_is_another_model(model: Path, tmp_path: Path) -> None:
    second = shards.files(model)[1]
    before = cache_path("probe", model, cache=tmp_path)
    assert cache_path("probe", model, cache=tmp_path) == before
    second.write_bytes(b"GGUF of another")
    assert cache_path("probe", model, cache=tmp_path) != before
    second.write_bytes(b"a text")
    with pytest.raises(ModelError, match=r"00002-of-00003\.gguf is not a GGUF"):
        is_known(model, extra_buffers=True)
    second.unlink()
    with pytest.raises(ModelError, match=r"00002-of-00003\.gguf cannot be read"):
        is_known(model, extra_buffers=True)
