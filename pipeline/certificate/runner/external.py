"""Certify a GGUF that someone else made, against the model that it was made of."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from common.certificate import Certificate
from common.chat_templates import read_template
from common.paths import expanded
from ggufio.shards import shard_paths
from ggufio.summary import summarize
from pipeline.certificate.runner.certify import certify
from pipeline.certificate.subject import Depth, Subject
from pipeline.data.dataset import read_chats
from pipeline.errors import InputError
from pipeline.progress import StepProgress
from pipeline.sources.adapter import Adapter, parse_adapter, read_adapter
from pipeline.sources.model_source import Source, adapter_source, base_source
from pipeline.sources.trained_base import trained_rounding
from pipeline.tokenizers.select import stage_template

_VOCABULARIES = (".model", ".tiktoken", ".spm")


@dataclass(frozen=True)
class ExternalCheck:
    """The options of a check: `file` (or any of its shards), and the model that it was made of.

    That is `reference`, or `base` with `adapters` merged into it. `reference` and `base` are folders or Hub
    ids; without a base the reference's own weights are used, if it has any. `chat_template`, a Jinja file or
    a name, replaces the reference's. Raises InputError for invalid options.
    """

    file: Path
    reference: str
    base: str | None = None
    adapters: tuple[str, ...] = ()
    verify: str = "fast"
    evaluation: Path | None = None
    threads: int = 1
    chat_template: str | None = None

    def __post_init__(self) -> None:
        if self.chat_template is not None:
            read_template(self.chat_template)
        _check_is_file(self.file)
        for path in shard_paths(self.file):
            _check_magic(path)
        summary = summarize(shard_paths(self.file)[0])
        what = summary and (summary.no_model or summary.no_chat)
        if what and what != "a LoRA adapter":
            raise InputError(
                f"{self.file} is {what}, with which nobody can chat: give a model that writes text"
            )
        if what:
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


def certify_file(options: ExternalCheck, progress: StepProgress) -> Certificate:
    """Run all checks that are possible for one file. Raises InputError."""
    folder = expanded(options.reference)
    if folder.is_dir() and not list(folder.glob("model*.safetensors")):  # no weights of its own
        reference = Source(options.reference, folder.resolve(), None)
        base = base_source(options.base) if options.base else None
        if base is None and not any(_is_tokenizer(path) for path in reference.files()):
            raise InputError(
                f"--reference {options.reference!r} has neither a tokenizer nor weights, so there is nothing "
                "to check against: give the folder of the model that the file was made of"
            )
    else:
        reference = base_source(options.reference)
        base = base_source(options.base) if options.base else reference
    if options.adapters and base is None:
        raise InputError("--adapter needs --base: the checkpoint that it was merged into")
    adapters = tuple(_adapter(text) for text in options.adapters)
    with tempfile.TemporaryDirectory(prefix="certify-") as scratch:
        subject = Subject(
            reference=_with_template(reference.folder, options.chat_template, Path(scratch)),
            full=shard_paths(options.file)[0],
            scratch=Path(scratch),
            threads=options.threads,
            base=base,
            adapters=adapters,
            rounding=trained_rounding(None, adapters),
            evaluation=options.evaluation,
            depth="full" if options.verify == "full" else "fast",
        )
        inputs = {"verify": options.verify}
        if options.chat_template is not None:
            inputs["chat_template"] = read_template(options.chat_template).origin
        return hint_at_adapters(subject, certify(subject, progress, inputs=inputs))


def _is_tokenizer(path: Path) -> bool:
    return path.name.startswith(("tokenizer", "vocab", "tekken", "spiece")) or path.suffix in _VOCABULARIES


def _with_template(reference: Path, chat_template: str | None, scratch: Path) -> Path:
    """Return the reference's folder, or one in `scratch` with the given template in place of its own."""
    if chat_template is None:
        return reference
    folder = scratch / "reference"
    stage_template(reference, read_template(chat_template), folder)
    return folder


def hint_at_adapters(subject: Subject, certificate: Certificate) -> Certificate:
    """Add a hint to failed weights if no adapter is given: one may have been merged into the file."""
    if subject.adapters:
        return certificate
    hint = "If an adapter is merged into the file, name it with --adapter."
    findings = tuple(
        replace(one, cause=f"{one.cause} {hint}".strip())
        if (one.name, one.status) == ("weights.values", "fail")
        else one
        for one in certificate.findings
    )
    return replace(certificate, findings=findings)


def _check_is_file(file: Path) -> None:
    if file.is_dir():
        inside = sorted(path.name for path in file.glob("*.gguf"))
        names = f"name one of its files, {', '.join(inside[:5])}" if inside else "and there is no GGUF in it"
        raise InputError(f"{file} is a folder: {names}")
    if not file.is_file():
        raise InputError(f"{file} does not exist: give a GGUF file")


_LFS_POINTER = b"version https://git-lfs"


def _check_magic(path: Path) -> None:
    with path.open("rb") as file:
        first = file.read(len(_LFS_POINTER))
    if first == _LFS_POINTER:
        raise InputError(
            f"{path} is Git LFS's pointer to a file, not the file: run git lfs pull, or check out with LFS"
        )
    if not first.startswith(b"GGUF"):
        raise InputError(f"{path} is not a GGUF file")


def _adapter(text: str) -> Adapter:
    spec, weight = parse_adapter(text)
    return read_adapter(adapter_source(spec), weight)
