"""Lock the requirements with hashes: `make lock` writes a requirements*.lock.txt for each requirements*.txt.

uv resolves them for Linux and macOS, x86-64 and ARM, and Python 3.10 and newer, and keeps the versions that a
lock has already; `--upgrade` takes the newest. Two things are beyond it:

- Build options (`--config-settings`) of a requirement, which pip obeys and uv does not read. They are taken
  out, and put into the lock again.
- torch. Its build for the CPU and PyPI's for CUDA are different files with different dependencies, of which
  a lock could install only one. It stays out of the locks with all of CUDA; `make setup` installs it last.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETS = ("requirements", "requirements-pipeline", "requirements-dev")
_OPTIONS = re.compile(r"(?P<before>.*?)(?P<options>( --config-settings=\"[^\"]*\")+)")
_NOT_LOCKED = re.compile(r"(torch|triton|nvidia|cuda|pip)\b")  # pip is the one that installs
_COMMAND = (
    *(sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.10"),
    *("--generate-hashes", "--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links"),
)
HEAD = """\
# {name}.txt with the versions and hashes of all that it needs. Written by `make lock`; do not edit.
# torch is not here: its build for the CPU and PyPI's for CUDA need different packages.
"""


def main(arguments: list[str]) -> None:
    """Write all locks; each keeps to the versions of the ones before. `arguments` go to uv."""
    pins = ""
    with tempfile.TemporaryDirectory() as scratch:
        earlier = Path(scratch) / "earlier.txt"
        for name in SETS:
            earlier.write_text(pins, encoding="utf-8")
            lock = ROOT / f"{name}.lock.txt"
            blocks = _resolve(name, lock, ["--constraint", str(earlier), *arguments])
            pins += "".join(map(_plain, blocks))
            lock.write_text(HEAD.format(name=name) + "".join(blocks), encoding="utf-8")


def _resolve(name: str, lock: Path, arguments: list[str]) -> list[str]:
    """Return the lines of each locked requirement."""
    text = (ROOT / f"{name}.txt").read_text(encoding="utf-8")
    source = "\n".join(_without_options(line) for line in text.splitlines())
    old = _blocks(lock.read_text(encoding="utf-8")) if lock.exists() else []
    output = Path(arguments[1]).with_name(lock.name)  # uv keeps the versions of the file that it replaces
    output.write_text("".join(map(_plain, old)), encoding="utf-8")
    command = [*_COMMAND, *arguments, "--output-file", str(output), "-"]
    subprocess.run(command, input=source, text=True, check=True, stdout=subprocess.DEVNULL)
    found = [block for block in _blocks(output.read_text(encoding="utf-8")) if not _NOT_LOCKED.match(block)]
    options = _build_options(text)
    return [entry for block in found for entry in _with_options(block, options)]


def _blocks(text: str) -> list[str]:
    """Split a lock into its requirements, each with the lines of its hashes."""
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith("#")]
    return re.findall(r"^\S.*\n(?:[ \t].*\n)*", "".join(lines), re.MULTILINE)


def _without_options(line: str) -> str:
    found = _OPTIONS.match(line)
    return found["before"] if found else line


def _plain(block: str) -> str:
    """Return the first line of a requirement, without its hashes and build options."""
    return _without_options(block.splitlines()[0]).rstrip(" \\") + "\n"


def _build_options(text: str) -> dict[str, list[tuple[str, str]]]:
    """Return the (marker, options) of each package that has build options in some environment."""
    packages: dict[str, list[tuple[str, str]]] = {}
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    with_options = {re.split(r"[^\w-]", line)[0] for line in lines if _OPTIONS.match(line)}
    for line in lines:
        name = re.split(r"[^\w-]", line)[0]
        if name in with_options:
            found = _OPTIONS.match(line)
            marker = _without_options(line).partition(";")[2].strip()
            packages.setdefault(name, []).append((marker, found["options"] if found else ""))
    return packages


def _with_options(block: str, options: dict[str, list[tuple[str, str]]]) -> list[str]:
    """Return a requirement of the lock, once for each environment of its build options."""
    first, *hashes = block.splitlines(keepends=True)
    name, _, version = first.rstrip(" \\\n").partition("==")
    if name not in options:
        return [block]
    version = version.partition(";")[0].strip()
    return [f"{name}=={version} ; {marker}{extra} \\\n{''.join(hashes)}" for marker, extra in options[name]]


if __name__ == "__main__":
    main(sys.argv[1:])
