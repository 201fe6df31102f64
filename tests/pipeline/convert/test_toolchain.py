from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from pipeline.convert import toolchain
from pipeline.errors import InputError, PipelineError


def archive_of(files: dict[str, bytes], path: Path) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_the_installed_version_has_a_known_release() -> None:
    assert toolchain.runtime_version() in toolchain.RELEASES


def test_the_real_converter_is_unpacked_once() -> None:
    folder = toolchain.ensure_toolchain()
    assert (folder / "conversion" / "base.py").is_file()
    assert (folder / "gguf-py" / "gguf" / "__init__.py").is_file()
    before = folder.stat().st_mtime_ns
    assert toolchain.ensure_toolchain() == folder
    assert folder.stat().st_mtime_ns == before


def test_only_what_is_needed_is_unpacked(tmp_path: Path) -> None:
    prefix = "llama_cpp_python-1/vendor/llama.cpp/"
    files = {
        prefix + "conversion/base.py": b"1",
        prefix + "src/llama.cpp": b"2",
        "llama_cpp_python-1/x.py": b"3",
    }
    toolchain._unpack(archive_of(files, tmp_path / "a.tar.gz"), tmp_path / "tree")
    assert [path.name for path in (tmp_path / "tree").rglob("*") if path.is_file()] == ["base.py"]


def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path) -> None:
    files = {"x/vendor/llama.cpp/conversion/../../../evil": b""}
    with pytest.raises(PipelineError, match="leaves its folder"):
        toolchain._unpack(archive_of(files, tmp_path / "a.tar.gz"), tmp_path / "tree")


def test_another_file_than_the_known_one_is_refused(tmp_path: Path) -> None:
    archive = archive_of({}, tmp_path / "a.tar.gz")
    toolchain._check(archive, hashlib.sha256(archive.read_bytes()).hexdigest())
    with pytest.raises(PipelineError, match="another file"):
        toolchain._check(archive, "0" * 64)


def test_an_unknown_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "runtime_version", lambda: "9.9.9")
    with pytest.raises(InputError, match=r"9\.9\.9 is installed.*0\.3\.36"):
        toolchain.ensure_toolchain()
