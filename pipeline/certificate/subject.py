"""What is certified: a model as transformers has it, and the files that were made of it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from common.files import sha256
from ggufio.shards import whole_name
from pipeline.certificate.finding import Finding
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source, read_json

Depth = Literal["fast", "full"]


@dataclass(frozen=True)
class Subject:
    """An export, or a file that someone else made, beside what it was made of. All by path.

    `reference` is a Hugging Face folder with the tokenizer and the chat template of the tuned model.
    `base` is the base's checkpoint and `adapters` are what was merged into it, in their order; without a
    `base` nothing can be said of the weights. `full` is the GGUF of full precision, and `files` are the
    quantized ones by their file names, perhaps none; a model in several files is told by its first, and
    named as a whole. `evaluation` is a JSONL file of the user's own chats. `scratch` is a folder for passing
    files, which may be used and is emptied by the caller.
    """

    reference: Path
    full: Path
    scratch: Path
    threads: int
    files: Mapping[str, Path] = field(default_factory=dict)
    base: Source | None = None
    adapters: tuple[Adapter, ...] = ()
    qlora_base: str | None = None
    evaluation: Path | None = None
    depth: Depth = "fast"

    @property
    def full_name(self) -> str:
        """What findings call the GGUF of full precision: its file name, of shards the whole's."""
        return whole_name(self.full.name)

    @property
    def tokenizer_reference(self) -> Path:
        """Where the converter may have written down what transformers says of the tokenizer."""
        return tokenizer_reference_file(self.scratch, self.evaluation)


def tokenizer_reference_file(scratch: Path, evaluation: Path | None) -> Path:
    """The file in `scratch` for what transformers says with those chats of the user's."""
    return scratch / f"tokenizer-{sha256(evaluation)[:12] if evaluation else 'alone'}.json"


def text_config(folder: Path) -> dict[str, Any]:
    """The settings of its language model; raises InputError when there is none."""
    config = read_json(folder / "config.json", "the base model")
    return {**config, **config.get("text_config", {})}


_FOLDERS = re.compile(r"(?<![\w./:<])/(?:[^/\s'\"<>]+/)+")  # of a path from the root, all but its last part


def without_folders(text: str, folders: Iterable[Path] = ()) -> str:
    """The text with paths cut down to their last parts; `folders` are known, and may hold spaces."""
    for folder in sorted(map(str, folders), key=len, reverse=True):
        text = text.replace(f"{folder}/", "")
    return _FOLDERS.sub("", text)


def published(finding: Finding, subject: Subject) -> Finding:
    """The finding as a certificate may hold it."""
    folders = _folders(subject)
    summary, cause = (without_folders(text, folders) for text in (finding.summary, finding.cause))
    return replace(finding, summary=summary, cause=cause)


def _folders(subject: Subject) -> set[Path]:
    files = [subject.full, *subject.files.values(), *([subject.evaluation] if subject.evaluation else [])]
    sources = [*([subject.base] if subject.base else []), *(adapter.source for adapter in subject.adapters)]
    folders = {subject.reference, subject.scratch, *(source.folder for source in sources)}
    found = {*(path.parent for path in files), *folders, *(folder.parent for folder in folders)}
    return {folder for folder in found if folder.is_absolute() and folder.parent != folder}
