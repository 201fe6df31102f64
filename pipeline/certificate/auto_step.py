"""--quant auto as a step of the export: makes candidates, has them tried, records which was chosen."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.certificate.auto import choose_type
from pipeline.certificate.step import CertificateStep
from pipeline.config import ExportConfig
from pipeline.errors import InputError
from pipeline.manifest import Record, sha256
from pipeline.progress import StepProgress
from pipeline.quant_types import AUTO, CANDIDATES, quant_type
from pipeline.quantize import Quantization, QuantizeJob, Quantizer
from pipeline.source import Source, read_json

AUTO_OPTION = "auto"
"""Its key in the record's options, and so in manifest.json."""
TRIED = "tried"
"""The folder of candidates in the workspace: the chosen one is copied from there, tensor by tensor."""


@dataclass(frozen=True)
class AutoStep:
    """Chooses a type for one export; `work` is the workspace's folder."""

    config: ExportConfig
    certifying: CertificateStep
    work: Path
    quantizer: Quantizer

    def choose(self, full: Path, record: Record, progress: StepProgress, imatrix: Path | None = None) -> None:
        """Write the choice into the record; `full` is the GGUF of full precision. Raises PipelineError.

        With an importance matrix in `imatrix` the candidates are made by it, as the chosen one will be.
        """
        (self.work / TRIED).mkdir(exist_ok=True)
        types = self.config.tensor_types
        wanted = {name: Quantization(full, quant_type(name), types, imatrix) for name in CANDIDATES}
        plans = {name: self.quantizer.plan(one) for name, one in wanted.items()}

        def make(name: str) -> Path:
            path = self.work / TRIED / self.config.quantized_name(name)
            partial, earlier = path.with_name(f"{path.name}.partial"), tuple(path.parent.glob("*.gguf"))
            job = QuantizeJob(wanted[name], partial, self.config.threads, earlier)
            self.quantizer.quantize(job, plans[name], progress)
            return partial.replace(path)

        sizes = {name: plan.size for name, plan in plans.items()}
        subject = replace(self.certifying.subject(full, record), depth="full")  # quantizing costs more anyway
        choice = choose_type(subject, sizes, make, self.config.prefer, progress)
        record.options[AUTO_OPTION] = {"asked": _asked(self.config), **choice.described()}


def refuse_without_template(config: ExportConfig, sources: Sequence[Source]) -> None:
    """Raise InputError when a type is to be chosen by chatting and neither base nor adapter says how."""
    if AUTO in config.quants and not any(_has_template(source.folder) for source in sources):
        raise InputError(
            "--quant auto chats with the candidates, and neither base nor adapter has a chat template: name "
            "the types with --quant, or put a chat_template.jinja into the adapter's or the base's folder"
        )


def _has_template(folder: Path) -> bool:
    """Whether the folder holds one where the converter looks for it."""
    if any((folder / file).is_file() for file in ("chat_template.jinja", "chat_template.json")):
        return True
    path = folder / "tokenizer_config.json"
    return path.is_file() and bool(read_json(path, "the tokenizer").get("chat_template"))


def remove_tried(work: Path) -> None:
    """Forget the candidates of an earlier run: nothing records that they are whole."""
    shutil.rmtree(work / TRIED, ignore_errors=True)


def settled(config: ExportConfig, record: Record) -> ExportConfig:
    """The configuration with the recorded choice in AUTO's place, if there is one for the same question."""
    choice = record.options.get(AUTO_OPTION)
    if AUTO not in config.quants or not choice or choice["asked"] != _asked(config):
        return config
    return replace(config, quants=tuple(choice["chosen"] if q == AUTO else q for q in config.quants))


def told(record: Record) -> Sequence[str]:
    """The recorded choice as lines for people: each type that was tried, and which was taken."""
    choice = record.options.get(AUTO_OPTION)
    return list(_lines(choice)) if choice else ()


def _asked(config: ExportConfig) -> dict[str, Any]:
    evaluation = sha256(config.evaluation) if config.evaluation else None
    return {"prefer": config.prefer, "eval": evaluation}


def _lines(choice: dict[str, Any]) -> Iterator[str]:
    for trial in choice["tried"]:
        kept = "survival cannot be told"
        if trial["survival"] is not None:
            kept = f"keeps {trial['survival']:.1%} ({trial['low']:.1%} to {trial['high']:.1%})"
        far = "KL unknown" if trial["mean_kl"] is None else f"KL {trial['mean_kl']:.3f}"
        yield (
            f"auto tried {trial['type']}: {trial['size'] / 1e6:.1f} MB, {kept}, {far}, "
            f"writes {trial['decode']:.0f} tokens/s"
        )
    yield f"auto chose {choice['chosen']}: {choice['reason']}"
