"""What is certified: a model as transformers has it, and the files that were made of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pipeline.adapter import Adapter, read_adapter
from pipeline.child import Message
from pipeline.manifest import sha256
from pipeline.source import Source
from shards import whole_name

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

    def request(self) -> Message:
        """The subject as a child process takes it."""
        return {
            "reference": str(self.reference),
            "full": str(self.full),
            "scratch": str(self.scratch),
            "threads": self.threads,
            "files": {name: str(path) for name, path in self.files.items()},
            "base": self.base.request() if self.base else None,
            "adapters": [[*adapter.source.request(), adapter.weight] for adapter in self.adapters],
            "qlora_base": self.qlora_base,
            "evaluation": _text(self.evaluation),
            "depth": self.depth,
        }

    @classmethod
    def of_request(cls, request: Message) -> Subject:
        """The subject out of a child's request."""
        return cls(
            reference=Path(request["reference"]),
            full=Path(request["full"]),
            scratch=Path(request["scratch"]),
            threads=request["threads"],
            files={name: Path(path) for name, path in request["files"].items()},
            base=Source.of_request(request["base"]) if request["base"] else None,
            adapters=tuple(
                read_adapter(Source.of_request(fields), weight) for *fields, weight in request["adapters"]
            ),
            qlora_base=request["qlora_base"],
            evaluation=_path(request["evaluation"]),
            depth=request["depth"],
        )


def tokenizer_reference_file(scratch: Path, evaluation: Path | None) -> Path:
    """The file in `scratch` for what transformers says with those chats of the user's."""
    return scratch / f"tokenizer-{sha256(evaluation)[:12] if evaluation else 'alone'}.json"


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)
