"""llama.cpp's shared libraries: their folders, CPU variants, log and identity."""

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
    """Return the folder of the llama_cpp package in use."""
    return Path(llama.__file__).resolve().parent


def library_folders() -> list[Path]:
    """Return the existing folders where llama-cpp-python puts its libraries, the most common first."""
    package = package_folder()
    site = package.parent
    return [d for d in (site / "bin", package / "lib", package / "bin", site / "lib") if d.is_dir()]


def find_variants() -> list[Path]:
    """Return the CPU backends that can be loaded at run time; none when the build has one compiled in.

    Variants are named `libggml-cpu-<name>.so`; a dynamic build without variants has only `libggml-cpu.so`,
    in the same folder, and libllama does not link to it.
    """
    found: dict[str, Path] = {}
    for folder in library_folders():
        for path in sorted(folder.glob("libggml-cpu-*")):
            if path.suffix in _SUFFIXES:
                found.setdefault(path.stem, path)
    return list(found.values())


def variant_name(path: Path) -> str:
    """Return `zen4` for `.../libggml-cpu-zen4.so`."""
    return path.stem.removeprefix("libggml-cpu-").removeprefix("libggml-cpu") or "cpu"


def rank_variants(paths: list[Path]) -> list[Path]:
    """Return the variants that this CPU supports, best first, by their own scores.

    Runs code of every variant (only the CPUID check, compiled for the baseline CPU), so call it only in
    the probe's child process.
    """
    scored = [(score, path) for path in paths if (score := _score(path)) > 0]
    return [path for _, path in sorted(scored, key=lambda pair: (-pair[0], str(pair[1])))]


def _score(path: Path) -> int:
    try:
        return int(ctypes.CDLL(str(path)).ggml_backend_score())
    except (OSError, AttributeError):
        return 0


_loaded: list[Path] = []  # the CPU backend of this process


def loaded_variant() -> Path | None:
    """Return the CPU backend that this process has loaded."""
    return _loaded[0] if _loaded else None


def load_variant(path: Path) -> None:
    """Load a CPU backend into libllama's registry; idempotent. Raises BackendError.

    A process has one: of two, llama.cpp would go on to use the first.
    """
    silence_log()
    if _loaded and _loaded[0] != path:
        raise BackendError(f"{path.name} cannot be loaded: this process uses {_loaded[0].name} already")
    # Through libllama's own handle: dlsym then searches the libraries that libllama is linked to. Opening
    # `libggml.so` by its path would load a second copy of it, with a registry that libllama never reads.
    load = llama._lib.ggml_backend_load
    load.restype, load.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    if not load(str(path).encode()):
        raise BackendError(f"{path.name} does not load on this CPU: {last_log() or 'no reason given'}")
    if not _loaded:
        _loaded.append(path)


def silence_log() -> None:
    """Redirect llama.cpp's log from stderr to a short buffer; `last_log` reads it."""
    llama.llama_log_set(_callback(), None)


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Discard this process's stderr inside the block, for C code that bypasses its log."""
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
    """Return and clear the last errors and warnings of llama.cpp, in one line."""
    lines = _log_lines.copy()  # one call in C: another thread's llama.cpp may add to it meanwhile
    _log_lines.clear()
    text = "; ".join(line for line in lines if line)
    return text[-400:]


def build_identity() -> str:
    """Return a hash of the package's version and the names, sizes and times of llama.cpp's libraries."""
    digest = hashlib.sha256(package_version().encode())
    for folder in library_folders():
        for path in sorted(folder.glob("lib*")):
            if "ggml" in path.name or "llama" in path.name:
                stat = path.stat()
                digest.update(f"{path}|{stat.st_size}|{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def package_version() -> str:
    """Return the installed version of llama-cpp-python."""
    try:
        return version("llama_cpp_python")
    except PackageNotFoundError:
        return "unknown"


def cpu_identity() -> str:
    """Return the CPU's model and features, which determine its instructions, as one string."""
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
