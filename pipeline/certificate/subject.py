"""The subject of a certificate: a transformers model and the GGUF files that were made of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from common.certificate import Finding
from common.files import sha256
from ggufio.shards import whole_name
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source, read_json
from pipeline.sources.trained_base import Nf4Rounding

Depth = Literal["fast", "full"]


@dataclass(frozen=True)
class Subject:
    """The paths of an export's files, or of someone else's GGUF, and of what they were made of.

    `reference` is a Hugging Face folder with the tokenizer and the chat template of the tuned model. `base`
    is the base's checkpoint, which QLoRA gave the `rounding`, and `adapters` were merged into it, in this
    order; without a `base` the weights cannot be checked. `full` is the full-precision GGUF, and `files` are
    the quantized ones by name, possibly none; a model in shards is given by the path of its first file and by
    its whole name. `loras` has the GGUF LoRA file that is loaded on a file, by the file's name, where the
    adapter was not merged. `evaluation` is a JSONL file of the user's chats. `scratch` is a folder for
    temporary files and caches, which the caller removes. `template_origin` says whose the chat template is,
    "" if that is unknown.
    """

    reference: Path
    full: Path
    scratch: Path
    threads: int
    files: Mapping[str, Path] = field(default_factory=dict)
    base: Source | None = None
    adapters: tuple[Adapter, ...] = ()
    rounding: Nf4Rounding | None = None
    evaluation: Path | None = None
    depth: Depth = "fast"
    template_origin: str = ""
    loras: Mapping[str, Path] = field(default_factory=dict)

    @property
    def full_name(self) -> str:
        """The name of the full-precision GGUF in findings: its file name, without a shard's number."""
        return whole_name(self.full.name)

    @property
    def tokenizer_reference(self) -> Path:
        """The path at which the converter may have saved the TokenizerReference."""
        return tokenizer_reference_file(self.scratch, self.evaluation)


def tokenizer_reference_file(scratch: Path, evaluation: Path | None) -> Path:
    """Return the path in `scratch` of the TokenizerReference that includes the chats of `evaluation`."""
    return scratch / f"tokenizer-{sha256(evaluation)[:12] if evaluation else 'alone'}.json"


def text_config(folder: Path) -> dict[str, Any]:
    """Read config.json, with the language model's part merged in. Raises InputError if it is unreadable."""
    config = read_json(folder / "config.json", "the base model")
    return {**config, **config.get("text_config", {})}


_FOLDERS = re.compile(r"(?<![\w./:<])/(?:[^/\s'\"<>]+/)+")  # an absolute path without its last part


def strip_folders(text: str, folders: Iterable[Path] = ()) -> str:
    """Reduce the paths in a text to their last parts; known `folders` may contain spaces."""
    for folder in sorted(map(str, folders), key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
    return _FOLDERS.sub("", text)


def strip_private_paths(finding: Finding, subject: Subject) -> Finding:
    """Remove folders from the finding's texts: a certificate is published, and a home folder is private."""
    folders = _folders(subject)
    summary, cause = (strip_folders(text, folders) for text in (finding.summary, finding.cause))
    return replace(finding, summary=summary, cause=cause)


def _folders(subject: Subject) -> set[Path]:
    """Return the folders of all paths of the subject, and their parents."""
    models = [subject.full, *subject.files.values(), *subject.loras.values()]
    files = [*models, *([subject.evaluation] if subject.evaluation else [])]
    sources = [*([subject.base] if subject.base else []), *(adapter.source for adapter in subject.adapters)]
    folders = {subject.reference, subject.scratch, *(source.folder for source in sources)}
    all_folders = {*(path.parent for path in files), *folders, *(folder.parent for folder in folders)}
    return {folder for folder in all_folders if folder.is_absolute() and folder.parent != folder}
