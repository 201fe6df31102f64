"""llama.cpp's converter and sources, from the source release of the llama-cpp-python that is installed.

The release carries llama.cpp's `conversion` package and the matching `gguf-py` at the very commit
of the runtime. It is fetched through pip (so that a user's own index settings hold), checked
against a known hash, and unpacked once into a cache folder. None of it enters this repository.
"""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

from common.errors import MissingPackage
from common.files import sha256
from common.paths import cache_folder
from pipeline.errors import InputError, PipelineError

# SHA-256 of the source releases that this project was tested with.
RELEASES = {
    "0.3.36": "832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e",
}
_WANTED = ("conversion/", "gguf-py/gguf/", "convert_hf_to_gguf.py", "convert_lora_to_gguf.py", "LICENSE")


# What its CMake project needs to build the library and a program.
_SOURCES = (
    *("cmake/", "common/", "ggml/", "include/", "licenses/", "scripts/", "src/", "tools/", "vendor/"),
    *("CMakeLists.txt", "LICENSE"),
)


def runtime_version() -> str:
    """The version of llama-cpp-python that is installed."""
    try:
        return importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        raise MissingPackage("llama-cpp-python") from None


def ensure_toolchain() -> Path:
    """The folder with the converter, unpacked on the first call.

    It holds `conversion/`, `gguf-py/gguf/` and llama.cpp's own conversion scripts.
    """
    return _ensure("toolchain", _WANTED)


def ensure_sources() -> Path:
    """The folder with llama.cpp's C++ sources of the same release, to build with CMake, unpacked at first."""
    return _ensure("sources", _SOURCES)


def _ensure(kind: str, wanted: tuple[str, ...]) -> Path:
    version = runtime_version()
    if version not in RELEASES:
        raise InputError(
            f"llama-cpp-python {version} is installed, and its converter was not checked: "
            f"install {' or '.join(RELEASES)} (pip install -r requirements.txt)"
        )
    folder = cache_folder() / kind / f"llama-cpp-python-{version}-{RELEASES[version][:12]}"
    if not folder.is_dir():  # it appears whole, by one rename
        _install(version, folder, wanted)
    return folder


def _install(version: str, folder: Path, wanted: tuple[str, ...]) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".unpack-") as scratch:
        archive = _download(version, Path(scratch))
        _check(archive, RELEASES[version])
        unpacked = Path(scratch) / "tree"
        _unpack(archive, unpacked, wanted)
        try:
            unpacked.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process may have been first
                raise


def _download(version: str, scratch: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--no-binary",
        "llama-cpp-python",
    ]
    command += ["--dest", str(scratch), f"llama-cpp-python=={version}"]
    # pip asks the release for its metadata, for which it needs a build backend but no compiler.
    finished = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False)
    archives = sorted(scratch.glob("llama_cpp_python-*.tar.gz"))
    if finished.returncode != 0 or not archives:
        last = (finished.stderr.strip().splitlines() or ["pip said nothing"])[-1]
        raise PipelineError(f"llama.cpp's converter could not be fetched by pip: {last}")
    return archives[0]


def _check(archive: Path, expected: str) -> None:
    digest = sha256(archive)
    if digest != expected:
        raise PipelineError(
            f"{archive.name} has the SHA-256 {digest}, not {expected}: the package index served another file"
        )


def _unpack(archive: Path, target: Path, wanted: tuple[str, ...] = _WANTED) -> None:
    marker = "vendor/llama.cpp/"
    target.mkdir()
    with tarfile.open(archive) as tar:
        for member in tar:
            _, found, inner = member.name.partition(marker)
            if not found or not member.isfile() or not inner.startswith(wanted):
                continue
            if ".." in PurePosixPath(inner).parts:
                raise PipelineError(f"{archive.name} holds a path that leaves its folder: {member.name}")
            destination = target / inner
            destination.parent.mkdir(parents=True, exist_ok=True)
            content = tar.extractfile(member)
            assert content is not None
            with content, destination.open("wb") as file:
                shutil.copyfileobj(content, file)
