"""The files that are published: those that an export recorded, an adapter's, a merged model's."""

from __future__ import annotations

import fnmatch
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from common.certificate import NAME as CERTIFICATE
from common.certificate import Certificate, load_certificate
from common.files import sha256
from pipeline.exporter.workspace import is_under_way
from pipeline.manifest import NAME as MANIFEST
from pipeline.manifest import Output, Record, load_record
from pipeline.report.model_card import CARD
from pipeline.sources.model_source import BESIDE_WEIGHTS, adapter_source, base_source
from pipeline.tokenizers.folder_templates import additional_files
from publish.model_code import code_files
from publish.refusals import PublishError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import RepoFile

_REPORT = ("report.html", "chart.svg", "Modelfile", CERTIFICATE, MANIFEST)
_SOURCE_FILES = (
    *("*.safetensors", *BESIDE_WEIGHTS),
    *(
        "metrics.jsonl",
        "*.svg",
        "*.toml",
        "*.yaml",
        "*.html",
    ),  # what a training leaves; chats are no part of it
)


@dataclass(frozen=True)
class PublishedFile:
    """A file by its name in the repository; `source` is its path, or its content."""

    name: str
    source: Path | bytes
    size: int
    sha256: str

    @classmethod
    def of_path(cls, path: Path, name: str | None = None) -> PublishedFile:
        """Read a file's size and SHA-256."""
        return cls(name or path.name, path, path.stat().st_size, sha256(path))

    @classmethod
    def of_text(cls, name: str, text: str) -> PublishedFile:
        """Return a text as a file."""
        content = text.encode("utf-8")
        return cls(name, content, len(content), hashlib.sha256(content).hexdigest())

    def equals(self, there: RepoFile | None) -> bool:
        """Return whether the Hub has it with this content, by the SHA-256 or blob id that it states."""
        if there is None or there.size != self.size:
            return False
        if there.lfs is not None:
            return there.lfs.sha256 == self.sha256
        return there.blob_id == self._blob_id()

    def _blob_id(self) -> str:
        """Return git's SHA-1 of a small file."""
        content = self.source if isinstance(self.source, bytes) else self.source.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


@dataclass(frozen=True)
class ExportFolder:
    """A complete export. `files` are all but its card; `left_out` are the names of other GGUF files there."""

    folder: Path
    record: Record
    certificate: Certificate | None
    files: tuple[PublishedFile, ...]
    left_out: tuple[str, ...]

    @property
    def has_failed(self) -> bool:
        """Whether a check of its certificate failed."""
        return self.certificate is not None and self.certificate.status == "fail"

    @property
    def name(self) -> str:
        """The export's name, that of its folder."""
        return self.folder.resolve().name


def export_folder(folder: Path) -> ExportFolder:
    """Read a complete export. Raises InputError for anything else, and PublishError for changed files."""
    record = load_record(folder / MANIFEST)
    if record is None:
        raise PublishError(
            f"{folder} has no {MANIFEST}, so that it is no complete export: make one with "
            "scripts/export_gguf.py, or run the interrupted one again"
        )
    if not record.complete or not record.outputs or is_under_way(folder):
        raise PublishError(f"the export in {folder} is not complete: run its command again, then publish")
    models = [_recorded(folder, output) for output in record.outputs.values()]
    if matrix := record.importance.get("file"):
        models.append(_importance(folder, matrix, record.importance["sha256"]))
    certificate = load_certificate(folder / CERTIFICATE)
    if certificate is not None and not certificate.hashes.items() <= record.hashes.items():
        raise PublishError(f"{folder / CERTIFICATE} is about other files: run the export's command again")
    report = [PublishedFile.of_path(folder / name) for name in _REPORT if (folder / name).is_file()]
    names = {file.name for file in models}
    others = tuple(sorted(path.name for path in folder.glob("*.gguf") if path.name not in names))
    return ExportFolder(folder, record, certificate, (*models, *report), others)


def _recorded(folder: Path, output: Output) -> PublishedFile:
    """Return an export's file. Raises PublishError unless it is the one that was recorded."""
    path = folder / output.file
    if path.name != output.file or not output.file.endswith(".gguf"):  # a manifest may be a stranger's
        raise PublishError(f"{folder / MANIFEST} names {output.file!r}, which is no GGUF in that folder")
    if not path.is_file():
        raise PublishError(f"{path} is missing: run the export's command again")
    if not output.is_unchanged(folder) and (
        path.stat().st_size != output.bytes or sha256(path) != output.sha256
    ):
        raise PublishError(f"{path} is not the file that was exported: run the export's command again")
    return PublishedFile(output.file, path, output.bytes, output.sha256)


def _importance(folder: Path, name: str, digest: str) -> PublishedFile:
    """Return the importance matrix that an export computed. Raises PublishError unless it is that one."""
    path = folder / name
    if path.name != name or not path.is_file() or sha256(path) != digest:
        raise PublishError(f"{path} is not the importance matrix of the export: run its command again")
    return PublishedFile(name, path, path.stat().st_size, digest)


FolderKind = Literal["export", "adapter", "merged"]
KINDS: Mapping[FolderKind, str] = {"export": "an export", "adapter": "an adapter", "merged": "a checkpoint"}


def kind_of(folder: Path) -> FolderKind:
    """Return what a folder holds, by its configuration. Raises PublishError when it does not exist."""
    if not folder.is_dir():
        raise PublishError(
            f"{str(folder)!r} is no folder: name one with an export, an adapter or a merged model"
        )
    if (folder / "adapter_config.json").is_file():
        return "adapter"
    return "merged" if (folder / "config.json").is_file() else "export"


def source_files(folder: Path) -> tuple[tuple[PublishedFile, ...], tuple[str, ...]]:
    """Return the files of an adapter or a checkpoint, but its card, and notes about code and other files.

    Raises InputError for another folder.
    """
    kind = kind_of(folder)
    if kind == "export":
        raise PublishError(f"{folder} is neither an adapter nor a model: it has no config.json")
    if is_under_way(folder):
        raise PublishError(f"the export in {folder} is not complete: run its command again, then publish")
    source = (adapter_source if kind == "adapter" else base_source)(str(folder))
    every = [path for path in source.files() if path.name != CARD]
    code = code_files(source.folder)
    found = [path for path in every if path.name in code or _is_of_a_source(path.name)]
    files = tuple(
        PublishedFile.of_path(path, path.relative_to(source.folder).as_posix())
        for path in (*found, *additional_files(source.folder))
    )
    _require_unchanged(source.folder, files)
    notes = [f"{name} is code that the configuration names, and is published" for name in code]
    if others := [path.name for path in every if path not in found]:
        notes.append(f"left out, as no model needs them: {', '.join(others)}")
    return files, tuple(notes)


def _require_unchanged(folder: Path, files: Iterable[PublishedFile]) -> None:
    """Raise PublishError where an export wrote the folder, and its weights are not those that it recorded."""
    record = load_record(folder / MANIFEST)
    recorded = {} if record is None else record.hashes
    for file in files:
        if recorded.get(file.name, file.sha256) != file.sha256:
            raise PublishError(
                f"{folder / file.name} is not the file that was exported: run the export's command again"
            )


def _is_of_a_source(name: str) -> bool:
    return any(fnmatch.fnmatch(name, pattern) for pattern in _SOURCE_FILES)


def reject_secrets(files: Iterable[PublishedFile], secrets: Mapping[str, str]) -> None:
    """Raise PublishError if a text file has a secret in it; `secrets` are the values by their names."""
    for file in files:
        if file.size > 1 << 20 or file.name.endswith((".gguf", ".safetensors")):
            continue
        content = file.source if isinstance(file.source, bytes) else file.source.read_bytes()
        for name, secret in secrets.items():
            if secret.encode() in content:
                raise PublishError(f"{file.name} contains your {name}: remove it, and make a new token")


def file_size(count: int) -> str:
    """Return a size in bytes as text, down to single bytes."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count} B"
