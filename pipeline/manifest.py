"""What an export was made of and what it made: manifest.json, and the record that lets it resume.

A file counts as finished because the record says so, never because it exists.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.adapter import Adapter
from pipeline.config import ExportConfig
from pipeline.errors import InputError
from pipeline.final_name import give_final_name
from pipeline.source import Source
from pipeline.toolchain import runtime_version
from shards import whole_name

FORMAT = 1
NAME = "manifest.json"
_PACKAGES = ("llama-cpp-python", "torch", "transformers", "peft", "gguf")


@dataclass(frozen=True)
class Output:
    """A finished GGUF: size in bytes, seconds to make it; `mtime_ns` tells whether it was touched since."""

    file: str
    type: str
    bytes: int
    bits_per_weight: float
    seconds: float
    sha256: str
    mtime_ns: int

    def stands(self, folder: Path) -> bool:
        """Whether the file is there as it was recorded."""
        try:
            status = (folder / self.file).stat()
        except OSError:
            return False
        return status.st_size == self.bytes and status.st_mtime_ns == self.mtime_ns


@dataclass
class Record:
    """All that is known of an export, under way or complete."""

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
        """Each file's SHA-256 by its name."""
        return {name: output.sha256 for name, output in self.outputs.items()}

    def finished(self, file: str, folder: Path) -> bool:
        """Whether the output of that name, or every shard of it, is recorded and stands."""
        found = [output for output in self.outputs.values() if whole_name(output.file) == file]
        return bool(found) and all(output.stands(folder) for output in found)

    def save(self, path: Path) -> None:
        """Write the record, whole or not at all."""
        content = {"format": FORMAT, **asdict(self)}
        content["outputs"] = [asdict(output) for output in self.outputs.values()]
        write_atomically(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def load_record(path: Path) -> Record | None:
    """Read a record back; None when there is none. Raises InputError when it is not ours."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read ({error}): --force makes the export anew") from None
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise InputError(f"{path} was written by another version: --force makes the export anew")
    try:
        outputs = {item["file"]: Output(**item) for item in content.pop("outputs")}
        return Record(outputs=outputs, **content)
    except (KeyError, TypeError):  # fields that this version lacks, or has besides
        raise InputError(f"{path} was written by another version: --force makes the export anew") from None


def fingerprint(config: ExportConfig, base: Source, adapters: Sequence[Adapter]) -> str:
    """Tells two exports of the same inputs from two of different ones, cheaply.

    A Hub snapshot is known by its commit, a folder by its files' names, sizes and times.
    """
    parts = [
        FORMAT,
        config.name,
        config.outtype,
        runtime_version(),
        _identity(base),
        [[_identity(adapter.source), adapter.weight] for adapter in adapters],
        config.format,
        config.qlora_base,
        *([chosen] if (chosen := config.quantizing) else []),
        *([weighed] if (weighed := describe_importance(config)) else []),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _identity(source: Source) -> object:
    if source.revision:
        return [source.spec, source.revision]
    relevant = (path for path in source.files() if path.suffix != ".md")
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in relevant]


def describe_input(source: Source) -> dict[str, Any]:
    """An input for the manifest: the Hub's commit, or the SHA-256 of every file of a folder."""
    if source.revision:
        return {"source": source.spec, "revision": source.revision}
    # A path is told by its last part alone: a manifest is published, and a home folder is private.
    return {"source": source.folder.name, "files": {path.name: sha256(path) for path in source.files()}}


def describe_adapter(adapter: Adapter) -> dict[str, Any]:
    """An adapter for the manifest: its files, what kind it is, and how much of it was merged."""
    what = {"kind": adapter.kind, "rank": adapter.rank, "weight": adapter.weight}
    return {**describe_input(adapter.source), **what}


def merged_into(config: ExportConfig) -> str:
    """What the adapters are merged into, for the manifest."""
    base = config.qlora_base
    return f"the base rounded to {base}, as QLoRA saw it" if base else "the base as it is"


def describe_importance(config: ExportConfig) -> dict[str, str]:
    """What the importance matrix comes from, for the manifest: the option, the file's name, its SHA-256."""
    path = config.calibrate or config.imatrix
    if path is None:
        return {}
    return {"calibrate" if config.calibrate else "imatrix": path.name, "sha256": sha256(path)}


def versions() -> dict[str, str]:
    """The versions of Python and of the packages that had a part in an export."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hex."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write beside, then rename: a crash or a full disk leaves the old file or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text, encoding="utf-8")
        give_final_name(beside, path)
    finally:
        beside.unlink(missing_ok=True)  # no longer there, if all went well
