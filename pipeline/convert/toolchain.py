"""llama.cpp's converter and C++ sources, from the source release of the installed llama-cpp-python.

The release has llama.cpp's package `conversion` and the matching `gguf-py`, at exactly the runtime's commit.
It is downloaded by pip (so that the user's index settings apply), checked against a known hash, and unpacked
once into a cache folder. None of it is part of this repository.
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
_CONVERTER_FILES = (
    "conversion/",
    "gguf-py/gguf/",
    "convert_hf_to_gguf.py",
    "convert_lora_to_gguf.py",
    "LICENSE",
)
# What llama.cpp's CMake project needs to build the library and its programs.
_SOURCE_FILES = (
    *("cmake/", "common/", "ggml/", "include/", "licenses/", "scripts/", "src/", "tools/", "vendor/"),
    *("CMakeLists.txt", "LICENSE"),
)


def runtime_version() -> str:
    """Return the installed version of llama-cpp-python. Raises MissingPackage."""
    try:
        return importlib.metadata.version("llama-cpp-python")
    except importlib.metadata.PackageNotFoundError:
        raise MissingPackage("llama-cpp-python") from None


def ensure_toolchain() -> Path:
    """Return the folder with `conversion/`, `gguf-py/gguf/` and llama.cpp's conversion scripts.

    The first call downloads it. Raises InputError for an unknown version, PipelineError when pip fails.
    """
    return _ensure("toolchain", _CONVERTER_FILES)


def ensure_sources() -> Path:
    """Return the folder with llama.cpp's C++ sources, to build with CMake; otherwise as ensure_toolchain."""
    return _ensure("sources", _SOURCE_FILES)


def _ensure(kind: str, wanted: tuple[str, ...]) -> Path:
    version = runtime_version()
    if version not in RELEASES:
        raise InputError(
            f"llama-cpp-python {version} is installed, and its converter was not checked: "
            f"install {' or '.join(RELEASES)} (pip install -r requirements.txt)"
        )
    folder = cache_folder() / kind / f"llama-cpp-python-{version}-{RELEASES[version][:12]}"
    if not folder.is_dir():  # created by a single rename, so it is complete
        try:
            _install(version, folder, wanted)
        except OSError as error:
            raise PipelineError(
                f"llama.cpp's converter cannot be stored in {folder.parent} ({error.strerror or error}): "
                "set GGUF_CHAT_CACHE to a folder that can be written"
            ) from error
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
            if not folder.is_dir():  # another process was first
                raise


def _download(version: str, scratch: Path) -> Path:
    options = ["--quiet", "--no-deps", "--no-binary", "llama-cpp-python", "--dest", str(scratch)]
    command = [sys.executable, "-m", "pip", "download", *options, f"llama-cpp-python=={version}"]
    # pip runs the release's build backend for its metadata, which needs no compiler.
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


def _unpack(archive: Path, target: Path, wanted: tuple[str, ...] = _CONVERTER_FILES) -> None:
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
