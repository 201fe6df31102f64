"""The installed llama-cpp-python as a wheel: the same bytes, a true tag, and nothing of a damaged one."""

from __future__ import annotations

import base64
import csv
import hashlib
import zipfile
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path

import pytest
from packaging.tags import sys_tags
from packaging.utils import parse_wheel_filename
from typer.testing import CliRunner

from common.errors import InputError
from publish.cli import wheel as cli
from publish.cli.app import app
from publish.files import file_size
from publish.llama_wheel import installed_build, why_not_on_a_space, write_wheel

INFO = "llama_cpp_python-0.3.36.dist-info"
LIBRARY = b"\x7fELF\0GLIBC_2.2.5\0GLIBC_2.14\0GLIBC_2.9\0GLIBC_PRIVATE\0end GLIBC_2.99 of a text\0"


def installed(folder: Path, tag: str = "py3-none-linux_x86_64", **files: bytes) -> Distribution:
    """Install a package of these files below llama_cpp, with a record; return its description."""
    contents = {
        "llama_cpp/__init__.py": b"",
        "llama_cpp/lib/libllama.so": LIBRARY,
        "llama_cpp/lib/libllama.so.0": LIBRARY,
        "llama_cpp/lib/libllama.so.0.5.0": LIBRARY,
        "llama_cpp/lib/libggml-cpu-x64.so": b"\x7fELF",
        "llama_cpp/include/llama.h": b"#pragma once",
        "llama_cpp/lib/cmake/llama/llama-config.cmake": b"",
        "llama_cpp/__pycache__/llama.cpython-311.pyc": b"",
        "../../../bin/llama": b"",
        f"{INFO}/METADATA": b"Metadata-Version: 2.1\nName: llama_cpp_python\nVersion: 0.3.36\n"
        b"Requires-Dist: numpy>=1.20.0\nRequires-Dist: pytest; extra == 'test'\n"
        b'Requires-Dist: scipy; extra == "test"\n',
        f"{INFO}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {tag}\n".encode(),
        f"{INFO}/INSTALLER": b"pip",
        f"{INFO}/licenses/LICENSE.md": b"MIT",
        **{f"llama_cpp/lib/{name}": content for name, content in files.items()},
    }
    rows = []
    for name, content in contents.items():
        path = folder / "lib" / "python3" / "site-packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        rows.append(f"{name},sha256={digest},{len(content)}")
    site = folder / "lib" / "python3" / "site-packages"
    (site / INFO / "RECORD").write_text("\n".join([*rows, f"{INFO}/RECORD,,"]) + "\n")
    return PathDistribution(site / INFO)


def test_the_wheel_has_what_runs_and_a_record_of_it(tmp_path: Path) -> None:
    build = installed_build(installed(tmp_path))
    path = write_wheel(build, tmp_path / "wheels")
    assert path.name == "llama_cpp_python-0.3.36-py3-none-manylinux_2_14_x86_64.whl"
    assert build.requires == ("numpy>=1.20.0",)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        record = {row[0]: row[1:] for row in csv.reader(archive.read(f"{INFO}/RECORD").decode().splitlines())}
        assert set(record) == set(names)
        for name in names[:-1]:
            content = archive.read(name)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
            assert record[name] == [f"sha256={digest}", str(len(content))]
        assert "Tag: py3-none-manylinux_2_14_x86_64" in archive.read(f"{INFO}/WHEEL").decode()
    assert set(names) == {
        "llama_cpp/__init__.py",
        "llama_cpp/lib/libllama.so",
        "llama_cpp/lib/libllama.so.0",
        "llama_cpp/lib/libggml-cpu-x64.so",
        f"{INFO}/METADATA",
        f"{INFO}/WHEEL",
        f"{INFO}/licenses/LICENSE.md",
        f"{INFO}/RECORD",
    }


def test_the_same_build_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (write_wheel(installed_build(installed(tmp_path / n)), tmp_path / f"w{n}") for n in "ab")
    assert first.read_bytes() == second.read_bytes()


def test_the_command_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = installed_build(installed(tmp_path))
    monkeypatch.setattr(cli, "installed_build", lambda: build)
    done = CliRunner().invoke(app, ["wheel", str(tmp_path / "new" / "folder")])
    path = tmp_path / "new" / "folder" / build.wheel_name
    assert done.exit_code == 0, done.output
    assert done.output == f"{path} ({file_size(path.stat().st_size)})\n"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_folder_that_cannot_be_made_or_filled_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = installed_build(installed(tmp_path))
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(InputError, match=r"cannot be made .*: name a folder"):
            write_wheel(build, folder)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", fail)
    with pytest.raises(OSError, match="No space left"):
        write_wheel(build, tmp_path / "new")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_damaged_library_is_refused(tmp_path: Path) -> None:
    found = installed(tmp_path)
    Path(str(found.locate_file("llama_cpp/lib/libllama.so"))).write_bytes(b"cut")
    with pytest.raises(InputError, match=r"llama_cpp/lib/libllama.so is not what was installed"):
        installed_build(found)
    Path(str(found.locate_file("llama_cpp/lib/libllama.so"))).unlink()
    with pytest.raises(InputError, match="install it again"):
        installed_build(found)


@pytest.mark.parametrize(
    ("tag", "library", "wanted"),
    [
        ("py3-none-linux_x86_64", b"\0GLIBC_2.36\0", None),
        ("py3-none-manylinux_2_17_x86_64", b"", None),
        ("py3-none-manylinux2014_x86_64", b"", None),
        ("py3-none-musllinux_1_2_x86_64", b"", "built for musllinux_1_2_x86_64 here"),
        ("py3-none-linux_x86_64", b"\0GLIBC_2.38\0", "against glibc 2.38, and a Space may have 2.36"),
        ("py3-none-linux_aarch64", b"", "built for aarch64 here, and a Space has x86_64"),
        ("py3-none-macosx_14_0_arm64", b"", "built for macosx_14_0_arm64 here, and a Space runs Linux"),
        ("py3-none-win_amd64", b"", "built for win_amd64 here, and a Space runs Linux"),
    ],
)
def test_a_space_runs_linux_of_its_own_machine_and_age(
    tag: str, library: bytes, wanted: str | None, tmp_path: Path
) -> None:
    reason = why_not_on_a_space(installed_build(installed(tmp_path, tag, **{"libggml.so": library})))
    assert (reason is None) if wanted is None else (wanted in str(reason))


def test_a_build_for_one_processor_is_not_for_a_space(tmp_path: Path) -> None:
    found = installed(tmp_path)
    record = Path(str(found.locate_file(f"{INFO}/RECORD")))
    record.write_text("".join(line for line in record.open() if "libggml-cpu" not in line))
    assert "for this machine's processor alone" in str(why_not_on_a_space(installed_build(found)))


def test_the_build_of_this_environment_goes_into_a_space() -> None:
    """Its tag is one that pip takes here; all processors' backends are in it."""
    build = installed_build()
    assert why_not_on_a_space(build) is None
    name, version, _, tags = parse_wheel_filename(build.wheel_name)
    assert (name, str(version)) == ("llama-cpp-python", build.version)
    assert tags & set(sys_tags())
    assert sum("/libggml-cpu-" in name for name in build.files) >= 10
