"""manifest.json: the inputs, options and outputs of an export, also its record while under way.

A file counts as finished only when it is recorded, never because it exists.
"""

from __future__ import annotations

import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from common.files import read_json_input, write_atomically
from ggufio.shards import whole_name
from pipeline.errors import InputError

FORMAT = 1
NAME = "manifest.json"
AUTO_OPTION = "auto"
"""The key of the choice of `--quant auto` in the options: what was tried, and what was chosen."""
RECOVERY = "recovery"
"""The key of the recoveries by type in Record.options: their figures, and a `note` for the user."""

LORAS = "loras"
"""The key of the GGUF LoRA files in the options: by the name of the base's file that each is loaded on."""

ALLOCATIONS = "allocations"
"""The key of types made for a size in the options: by name, the file's main type and each tensor's."""
_PACKAGES = ("llama-cpp-python", "torch", "transformers", "peft", "gguf")


@dataclass(frozen=True)
class Output:
    """A finished GGUF, with the seconds that it took; size and `mtime_ns` show later changes."""

    file: str
    type: str
    bytes: int
    bits_per_weight: float
    seconds: float
    sha256: str
    mtime_ns: int

    def is_unchanged(self, folder: Path) -> bool:
        """Return whether the file exists in `folder` as it was recorded."""
        try:
            status = (folder / self.file).stat()
        except OSError:
            return False
        return status.st_size == self.bytes and status.st_mtime_ns == self.mtime_ns


@dataclass
class Record:
    """The state of an export, under way or complete."""

    fingerprint: str
    complete: bool = False
    inputs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    importance: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Output] = field(default_factory=dict)

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each output by its file name."""
        return {name: output.sha256 for name, output in self.outputs.items()}

    def is_finished(self, file: str, folder: Path) -> bool:
        """Return whether the output of that name, or each of its shards, is recorded and unchanged."""
        found = [output for output in self.outputs.values() if whole_name(output.file) == file]
        return bool(found) and all(output.is_unchanged(folder) for output in found)

    def save(self, path: Path) -> None:
        """Write the record atomically."""
        content = {"format": FORMAT, **asdict(self)}
        content["outputs"] = [asdict(output) for output in self.outputs.values()]
        write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def load_record(path: Path) -> Record | None:
    """Read a record; None when there is no file. Raises InputError for a damaged or unknown one."""
    try:
        content = read_json_input(path)
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}): --force makes the export anew") from None
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise InputError(f"{path} was written by another version: --force makes the export anew")
    try:
        outputs = {item["file"]: Output(**item) for item in content.pop("outputs")}
        return Record(outputs=outputs, **content)
    except (KeyError, TypeError):  # another version's fields
        raise InputError(f"{path} was written by another version: --force makes the export anew") from None


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that an export depends on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
