"""llama.cpp as it was built here: the files of the installed llama-cpp-python that run, as a wheel too."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from email.parser import Parser
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath, distribution
from pathlib import Path

from publish.refusals import PublishError

PACKAGE = "llama_cpp_python"
SPACE_GLIBC = (2, 36)
"""The oldest C library that a Space may have: Debian 12's, of Python's images until 2025."""
SPACE_MACHINE = "x86_64"

_NO_USE_AT_RUN_TIME = re.compile(
    r"llama_cpp/include/.*|llama_cpp/lib/(cmake|pkgconfig)/.*|.*\.so\.\d+\.\d+\.\d+|.*/__pycache__/.*|.*\.pyc"
)
_OF_THE_INSTALLATION = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
_GLIBC = re.compile(rb"\0GLIBC_(\d+)\.(\d+)(?=\0)")
_DATE = (1980, 1, 1, 0, 0, 0)  # of each file, so that the same build gives the same bytes


@dataclass(frozen=True)
class LlamaBuild:
    """The build's version, its files by their path below site-packages, and what it needs of a machine.

    `machine` is as in "x86_64"; `glibc` the C library's version; None where that is not a Linux build.
    `every_cpu` says whether it has a backend for processors of every generation; `requires` are the
    requirements of the package.
    """

    version: str
    files: Mapping[str, bytes]
    machine: str
    glibc: tuple[int, int] | None
    every_cpu: bool
    requires: tuple[str, ...]

    @property
    def platform(self) -> str:
        """The platform as in a wheel's name."""
        if self.glibc is None:
            return self.machine
        return f"manylinux_{self.glibc[0]}_{self.glibc[1]}_{self.machine}"

    @property
    def wheel_name(self) -> str:
        """The wheel's file name. No Python version is in it, as ctypes loads the libraries."""
        return f"{PACKAGE}-{self.version}-py3-none-{self.platform}.whl"


def installed_build(found: Distribution | None = None) -> LlamaBuild:
    """Return the installed llama-cpp-python, or that distribution. Raises PublishError if it is not whole."""
    try:
        found = found or distribution(PACKAGE)
    except PackageNotFoundError:
        raise PublishError(
            "llama-cpp-python is not installed here: run `make setup`, or let the Space compile it with "
            "--source-build"
        ) from None
    tag = Parser().parsestr(found.read_text("WHEEL") or "").get("Tag", "")
    files = {path.as_posix(): _content(path) for path in found.files or () if _runs(path)}
    return _described(found, tag, files)


def _described(found: Distribution, tag: str, files: dict[str, bytes]) -> LlamaBuild:
    platform = tag.rpartition("-")[2]
    machine = re.sub(r"^(many)?linux(\d+|_\d+_\d+)?_", "", platform)
    libraries = [name for name in files if re.search(r"\.so(\.\d+)?$", name)]
    is_linux = "linux" in platform and bool(libraries)
    needed = {(int(a), int(b)) for name in libraries for a, b in _GLIBC.findall(files[name])}
    build = LlamaBuild(
        version=found.version,
        files=files,
        machine=machine if is_linux else platform,
        glibc=max(needed, default=(2, 17)) if is_linux else None,
        every_cpu=any(name.endswith("/libggml-cpu-x64.so") for name in libraries),
        requires=tuple(text for text in found.requires or () if "extra ==" not in text),
    )
    wheel = next((name for name in files if name.endswith(".dist-info/WHEEL")), None)
    if wheel is None:
        raise PublishError("llama-cpp-python was not installed from a wheel: install it again with pip")
    files[wheel] = (
        f"Wheel-Version: 1.0\nGenerator: gguf-chat\nRoot-Is-Purelib: false\nTag: py3-none-{build.platform}\n"
    ).encode()
    return build


def _runs(path: PackagePath) -> bool:
    """Return whether a recorded file is needed to run; links beside it and build files are not."""
    text = path.as_posix()
    if text.startswith("..") or _NO_USE_AT_RUN_TIME.fullmatch(text):
        return False
    return not (path.parts[0].endswith(".dist-info") and path.name in _OF_THE_INSTALLATION)


def _content(path: PackagePath) -> bytes:
    """Return a file's content. Raises PublishError if it is not what was installed."""
    try:
        content = Path(str(path.locate())).read_bytes()
    except OSError:
        content = None
    if content is None or (path.hash is not None and path.hash.value != _digest(content)):
        raise PublishError(
            f"the installed llama-cpp-python is damaged ({path} is not what was installed): install it again"
        )
    return content


def _digest(content: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()


def why_not_on_a_space(build: LlamaBuild) -> str | None:
    """Return why a Space cannot run a build, or None if it can."""
    if build.glibc is None:
        return f"llama.cpp was built for {build.platform} here, and a Space runs Linux"
    if build.machine != SPACE_MACHINE:
        return f"llama.cpp was built for {build.machine} here, and a Space has {SPACE_MACHINE}"
    if build.glibc > SPACE_GLIBC:
        needs, has = (".".join(map(str, version)) for version in (build.glibc, SPACE_GLIBC))
        return f"llama.cpp was built here against glibc {needs}, and a Space may have {has}"
    if not build.every_cpu:
        return "llama.cpp was built for this machine's processor alone (`make setup` builds it for every one)"
    return None


def write_wheel(build: LlamaBuild, folder: Path) -> Path:
    """Write the build as a wheel into a folder; the same build gives the same bytes. Returns its path.

    Raises PublishError for a folder that cannot be made, and OSError; nothing half written is left then.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise PublishError(f"{str(folder)!r} cannot be made ({error.strerror}): name a folder") from None
    path = folder / build.wheel_name
    info = f"{PACKAGE}-{build.version}.dist-info"
    record = [f"{name},sha256={_digest(content)},{len(content)}" for name, content in _ordered(build)]
    record.append(f"{info}/RECORD,,")
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        _write_archive(partial, build, f"{info}/RECORD", "\n".join(record) + "\n")
        return partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)  # exists only after a failure


def _write_archive(path: Path, build: LlamaBuild, record_name: str, record: str) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name, content in [*_ordered(build), (record_name, record.encode())]:
            entry = zipfile.ZipInfo(name, _DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system, entry.external_attr = 3, 0o100644 << 16  # Unix, readable for all
            archive.writestr(entry, content)


def _ordered(build: LlamaBuild) -> list[tuple[str, bytes]]:
    return sorted(build.files.items())
