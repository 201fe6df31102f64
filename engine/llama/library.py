"""llama.cpp's shared libraries: where they are, which CPU variants they bring, and how one is loaded."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from llama_cpp import llama_cpp as llama

from engine.errors import BackendError

_SUFFIXES = (".so", ".dylib")
_STDERR = 2
_log_lines: deque[str] = deque(maxlen=12)
_stderr_lock = threading.Lock()


def package_folder() -> Path:
    """The folder of the llama_cpp package in use."""
    return Path(llama.__file__).resolve().parent


def library_folders() -> list[Path]:
    """Where a build of llama-cpp-python may put its libraries, best known first."""
    package = package_folder()
    site = package.parent
    return [d for d in (site / "bin", package / "lib", package / "bin", site / "lib") if d.is_dir()]


def find_variants() -> list[Path]:
    """The CPU backends that can be loaded at run time; empty when the build has one compiled in.

    Variants are called `libggml-cpu-<name>.so`; a dynamic build without variants has `libggml-cpu.so` alone,
    in the same folder, and then libllama itself does not link to it.
    """
    found: dict[str, Path] = {}
    for folder in library_folders():
        for path in sorted(folder.glob("libggml-cpu-*")):
            if path.suffix in _SUFFIXES:
                found.setdefault(path.stem, path)
    return list(found.values())


def variant_name(path: Path) -> str:
    """`zen4` for `.../libggml-cpu-zen4.so`."""
    return path.stem.removeprefix("libggml-cpu-").removeprefix("libggml-cpu") or "cpu"


def rank_variants(paths: list[Path]) -> list[Path]:
    """The variants that this CPU supports, best first, by the score that each gives itself.

    Runs code of every variant (only the CPUID check, which is compiled for the plainest CPU), so it belongs
    in the probing child process.
    """
    scored = [(score, path) for path in paths if (score := _score(path)) > 0]
    return [path for _, path in sorted(scored, key=lambda pair: (-pair[0], str(pair[1])))]


def _score(path: Path) -> int:
    try:
        return int(ctypes.CDLL(str(path)).ggml_backend_score())
    except (OSError, AttributeError):
        return 0


def load_variant(path: Path) -> None:
    """Load a CPU backend into libllama's registry; loading the same one again does nothing."""
    silence_log()
    # Through libllama's own handle: dlsym then searches the libraries that libllama is linked to. Opening
    # `libggml.so` by its path would load a second copy of it, with a registry that libllama never reads.
    load = llama._lib.ggml_backend_load
    load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    if not load(str(path).encode()):
        raise BackendError(f"{path.name} does not load on this CPU: {last_log() or 'no reason given'}")


def silence_log() -> None:
    """Send llama.cpp's log to a short memory instead of stderr; `last_log` reads it."""

    llama.llama_log_set(_callback(), None)


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Drop what this process writes to stderr: for a moment, and C that prints past its own log."""
    with _stderr_lock, Path(os.devnull).open("wb") as nowhere:
        kept = os.dup(_STDERR)
        os.dup2(nowhere.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(kept, _STDERR)
            os.close(kept)


_kept: list[object] = []  # a ctypes callback must outlive every call that C makes to it


def _callback() -> object:
    if not _kept:

        def keep_errors(level: int, text: bytes, _: object) -> None:
            if level in (3, 4):  # GGML_LOG_LEVEL_WARN and _ERROR of ggml.h
                _log_lines.append(text.decode("utf-8", "replace").strip())

        _kept.append(llama.llama_log_callback(keep_errors))
    return _kept[0]


def last_log() -> str:
    """The last errors and warnings of llama.cpp, in one line; reading them clears them."""
    lines = _log_lines.copy()  # one call in C: another thread's llama.cpp may add to it meanwhile
    _log_lines.clear()
    text = "; ".join(line for line in lines if line)
    return text[-400:]


def build_identity() -> str:
    """A hash over the names, sizes and times of every llama.cpp library, and the package's version."""
    digest = hashlib.sha256(package_version().encode())
    for folder in library_folders():
        for path in sorted(folder.glob("lib*")):
            if "ggml" in path.name or "llama" in path.name:
                stat = path.stat()
                digest.update(f"{path}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def package_version() -> str:
    """The version of llama-cpp-python that is installed."""
    try:
        return version("llama_cpp_python")
    except PackageNotFoundError:
        return "unknown"


def cpu_identity() -> str:
    """The CPU's model and features, as one string: what decides which instructions it can run."""
    if sys.platform == "darwin":
        names = ["machdep.cpu.brand_string", "hw.optional"]
        done = subprocess.run(
            ["/usr/sbin/sysctl", *names], capture_output=True, text=True, timeout=5, check=False
        )
        return platform.machine() + done.stdout
    keys = ("model name", "vendor_id", "flags", "Features", "CPU implementer", "CPU part", "CPU variant")
    lines: set[str] = set()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.partition(":")[0].strip() in keys:
                lines.add(line)
    except OSError:
        lines.add(platform.processor())
    return "\n".join([platform.machine(), *sorted(lines)])
