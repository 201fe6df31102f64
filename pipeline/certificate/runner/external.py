"""Certifies a GGUF that someone else made, against the model that it was made of."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from ggufio.shards import shard_paths
from ggufio.untrusted_reader import is_adapter
from pipeline.certificate.finding import Certificate
from pipeline.certificate.runner.certify import certify
from pipeline.certificate.subject import Depth, Subject
from pipeline.data.dataset import read_chats
from pipeline.errors import InputError
from pipeline.progress import StepProgress
from pipeline.sources.adapter import Adapter, parse_adapter, read_adapter
from pipeline.sources.model_source import Source, adapter_source, base_source


@dataclass(frozen=True)
class ExternalCheck:
    """What to check: `file` (of shards any), made of `reference`, or of `base` with `adapters` merged in.

    `reference` and `base` are folders or Hub ids; without a base the reference's own weights count, if it has
    any. Raises InputError for what cannot be.
    """

    file: Path
    reference: str
    base: str | None = None
    adapters: tuple[str, ...] = ()
    verify: str = "fast"
    evaluation: Path | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        _check_is_file(self.file)
        for path in shard_paths(self.file):
            with path.open("rb") as opened:
                if opened.read(4) != b"GGUF":
                    raise InputError(f"{path} is not a GGUF file")
        if is_adapter(self.file):
            raise InputError(
                f"{self.file} is a LoRA adapter, no model: give the GGUF of a whole model, "
                "with --adapter FOLDER if one is merged into it"
            )
        if self.verify not in get_args(Depth):
            raise InputError(f"--verify {self.verify!r} is unknown: use one of {', '.join(get_args(Depth))}")
        if self.threads < 1:
            raise InputError(f"--threads {self.threads} is too few: use 1 or more")
        if self.evaluation is not None:
            read_chats(self.evaluation, require_answer=False)


def certify_file(wanted: ExternalCheck, progress: StepProgress) -> Certificate:
    """Make all checks that can be made of one file; raises InputError."""
    folder = Path(wanted.reference).expanduser()
    is_plain = folder.is_dir() and not list(folder.glob("model*.safetensors"))
    reference = (
        Source(wanted.reference, folder.resolve(), None) if is_plain else base_source(wanted.reference)
    )
    base = base_source(wanted.base) if wanted.base else None if is_plain else reference
    if wanted.adapters and base is None:
        raise InputError("--adapter needs --base: the checkpoint that it was merged into")
    with tempfile.TemporaryDirectory(prefix="certify-") as scratch:
        subject = Subject(
            reference=reference.folder,
            full=shard_paths(wanted.file)[0],
            scratch=Path(scratch),
            threads=wanted.threads,
            base=base,
            adapters=tuple(_adapter(text) for text in wanted.adapters),
            evaluation=wanted.evaluation,
            depth="full" if wanted.verify == "full" else "fast",
        )
        return without_adapters(subject, certify(subject, progress, inputs={"verify": wanted.verify}))


def without_adapters(subject: Subject, found: Certificate) -> Certificate:
    """What was found, where other weights may be those of an adapter that nobody named."""
    if subject.adapters:
        return found
    hint = "If an adapter is merged into the file, name it with --adapter."
    findings = tuple(
        replace(one, cause=f"{one.cause} {hint}".strip())
        if (one.name, one.status) == ("weights.values", "fail")
        else one
        for one in found.findings
    )
    return replace(found, findings=findings)


def _check_is_file(file: Path) -> None:
    if file.is_dir():
        inside = sorted(path.name for path in file.glob("*.gguf"))
        names = f"name one of its files, {', '.join(inside[:5])}" if inside else "and there is no GGUF in it"
        raise InputError(f"{file} is a folder: {names}")
    if not file.is_file():
        raise InputError(f"{file} does not exist: give a GGUF file")


def _adapter(text: str) -> Adapter:
    spec, weight = parse_adapter(text)
    return read_adapter(adapter_source(spec), weight)
