"""Builds llama-server for the benchmark, from the sources of the installed llama.cpp release.

It is built without a CPU backend: bench.llama_server makes it load our wheel's, so that both run the same
kernels. The binaries stay in the cache folder, beside the converter.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common.paths import cache_folder
from pipeline.convert.toolchain import ensure_sources
from pipeline.errors import InputError, PipelineError

_FLAGS = {
    "CMAKE_BUILD_TYPE": "Release",
    "CMAKE_BUILD_RPATH_USE_ORIGIN": "ON",  # finds the libraries beside the binary after a move
    "GGML_NATIVE": "OFF",
    "GGML_BACKEND_DL": "ON",
    "GGML_CPU": "OFF",
    "LLAMA_OPENSSL": "OFF",
    "LLAMA_BUILD_UI": "OFF",
    "LLAMA_USE_PREBUILT_UI": "OFF",  # otherwise the build downloads the web UI from the Hub
    "LLAMA_BUILD_TESTS": "OFF",
    "LLAMA_BUILD_EXAMPLES": "OFF",
    "LLAMA_BUILD_APP": "OFF",
}


def build_llama_server() -> Path:
    """Return the binary's path; the first call builds it, in some minutes.

    Raises InputError without CMake or Ninja, PipelineError when the build fails.
    """
    sources = ensure_sources()
    folder = cache_folder() / "llama-server" / sources.name
    if not folder.is_dir():  # published by one rename, so it is complete
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".build-") as scratch:
            _build(sources, Path(scratch))
            (Path(scratch) / "bin").rename(folder)
    return folder / "llama-server"


def _build(sources: Path, folder: Path) -> None:
    flags = [f"-D{name}={value}" for name, value in _FLAGS.items()]
    ninja = _tool("ninja")
    _run(
        [
            _tool("cmake"),
            "-S",
            str(sources),
            "-B",
            str(folder),
            "-G",
            "Ninja",
            *flags,
            f"-DCMAKE_MAKE_PROGRAM={ninja}",
        ]
    )
    _run([ninja, "-C", str(folder), "llama-server"])


def _tool(name: str) -> str:
    """Return the path of CMake or Ninja: the one that pip installed beside Python, or the system's."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        raise InputError(f"{name} is not installed: run `pip install -r requirements-dev.txt`")
    return found


def _run(command: list[str]) -> None:
    # The output goes to standard error: standard output holds only the binary's path.
    if subprocess.run(command, stdout=sys.stderr, check=False).returncode != 0:
        raise PipelineError(f"{Path(command[0]).name} failed: see above; a C++17 compiler is needed")
