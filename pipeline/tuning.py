"""From a data set to files to chat with, in one call: split, train, export, certify, evaluate.

Each step is another function of this package; finished ones are not repeated when the same call goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from common.files import exclusive, load_json, store_json
from common.text import pluralize
from pipeline.data.options import DataOptions
from pipeline.data.reader import load_data
from pipeline.data.rows import PlainText, Row, rows_sha256
from pipeline.data.split_folder import write_split
from pipeline.data.stratified_split import SplitOptions
from pipeline.errors import InputError
from pipeline.evaluation.config import EvaluateConfig, Evaluation
from pipeline.evaluation.evaluate import evaluate
from pipeline.exporter.config import DEFAULT_QUANTS, ExportConfig
from pipeline.exporter.run import ExportResult, export
from pipeline.progress import NoProgress, StepProgress
from pipeline.quantize.ternary import check_quants
from pipeline.quantize.types import quants_named
from pipeline.sources.model_source import base_source
from pipeline.sources.ternary import find_ternary, reject_merge
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.config import FinetuneConfig
from pipeline.training.device import process_count
from pipeline.training.finetune import RECORD, finetune
from pipeline.training.recipe import identity_of

T = TypeVar("T")
_STATE = "tune.json"


@dataclass(frozen=True)
class TuneConfig:
    """The options: those of the `training`, whose `out` is the folder of the GGUF files, and the export's.

    Beside `out`, the folder `NAME-tuning` has the split data, the adapter (with `training.full`, the model)
    and the evaluation. A quantization may be "auto". `verify` is "off", "fast" or "full".
    """

    training: FinetuneConfig
    quants: tuple[str, ...] = DEFAULT_QUANTS
    verify: str = "fast"
    threads: int = 1
    questions: int = 5

    @cached_property
    def rows(self) -> list[Row]:
        """The rows of the data set. Raises InputError."""
        return load_data(self.training.data, self.training.data_options).rows

    @property
    def splits(self) -> bool:
        """Whether the held-out rows are taken from the data."""
        return self.training.valid is None and self.training.held_out > 0

    @property
    def has_texts(self) -> bool:
        """Whether the rows are plain texts and no chats."""
        return isinstance(self.rows[0], PlainText)

    @property
    def work(self) -> Path:
        """The folder of everything but the GGUF files."""
        return self.training.out.with_name(f"{self.training.out.name}-tuning")

    @property
    def adapter(self) -> Path:
        """The folder of the adapter, or of the tuned model."""
        return self.work / ("model" if self.training.full else "lora")


@dataclass(frozen=True)
class TuneResult:
    """What was made: the adapter's folder, the export, and the evaluation's folder.

    `evaluation` is None if an earlier run evaluated.
    """

    adapter: Path
    export: ExportResult
    evaluation_folder: Path
    evaluation: Evaluation | None


def tune(config: TuneConfig, progress: StepProgress | None = None) -> TuneResult:
    """Split the data, train, export, certify and evaluate; go on from what the same call has finished.

    Raises InputError for wrong input, and where other options made what is there, without `training.force`.
    """
    progress = progress or NoProgress()
    if process_count() > 1:
        raise InputError(
            "tune runs in one process: use `accelerate launch scripts/finetune.py`, and export its adapter"
        )
    exported = _export_config(config)  # raises for wrong options before anything is done
    if config.training.out.exists() and not config.training.out.is_dir():
        raise InputError(f"--out {str(config.training.out)!r} is a file: give a folder")
    busy = f"another tune is writing to {str(config.work)!r}: wait for it to end, or choose another --out"
    with exclusive(config.work.with_name(f".{config.work.name}.lock"), busy):
        steps = _Steps(config)
        try:
            steps.run("split", lambda: _split(config))
            steps.run("train", lambda: _train(config, progress))
        except InputError:
            steps.discard_begun()
            raise
        result = export(replace(exported, evaluation=_chats_to_check(config)), progress)
        found = steps.run("evaluate", lambda: evaluate(_evaluation(config, result), progress))
        return TuneResult(config.adapter, result, config.work / "evaluation", found)


class _Steps:
    """The steps that are finished, recorded in NAME-tuning/tune.json with the options that they had."""

    def __init__(self, config: TuneConfig) -> None:
        self._path = config.work / _STATE
        base = base_source(config.training.base)  # raises InputError before anything is written
        merged = not config.training.full
        check_quants(quants_named(config.quants), base, find_ternary(base), merged=merged)
        if merged:
            reject_merge(base)
        self._options = json.loads(json.dumps(_identity(config)))
        known = load_json(self._path) or {}
        self._done: list[str] = list(known.get("done", []))
        self._begun = not known
        if known.get("options") == self._options and config.training.resume:
            return
        if not config.training.force:
            _require_new(config, known.get("options"), self._options)
        _require_own(config.work)
        shutil.rmtree(config.work, ignore_errors=True)
        self._done = []
        self._store()

    def discard_begun(self) -> None:
        """Remove what a rejected first call has written, unless a training can go on from it."""
        work = self._path.parent
        if self._begun and "train" not in self._done and not any(work.glob(".*.training")):
            shutil.rmtree(work, ignore_errors=True)

    def run(self, name: str, step: Callable[[], T]) -> T | None:
        """Run a step and return its result; None if an earlier run has finished it."""
        if name in self._done:
            return None
        result = step()
        self._done.append(name)
        self._store()
        return result

    def _store(self) -> None:
        store_json(self._path, {"options": self._options, "done": self._done})


def _require_new(config: TuneConfig, known: dict[str, Any] | None, wanted: dict[str, Any]) -> None:
    """Raise InputError where another call has made what is there."""
    out, work = config.training.out, config.work
    if known is not None:
        changed = [
            f"{key} {known.get(key)} and not {wanted.get(key)}"
            for key in sorted(known.keys() | wanted.keys())
            if known.get(key) != wanted.get(key)
        ]
        raise InputError(
            f"{work} was made with {', '.join(changed) or 'the same options'}: choose another --out, "
            "or give --force to begin anew"
        )
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out {str(out)!r} exists already: choose another, or give --force to replace it")


def _require_own(work: Path) -> None:
    """Raise InputError where the folder to begin anew is not one that `tune` has made."""
    if work.exists() and not (work / _STATE).is_file() and (not work.is_dir() or any(work.iterdir())):
        raise InputError(f"{work} is there, and tune did not make it: rename it, or choose another --out")


def _identity(config: TuneConfig) -> dict[str, Any]:
    training = config.training
    found = {
        **identity_of(training),
        "data": rows_sha256(config.rows),
        "quant": list(config.quants),
        "base": training.base,
    }
    if training.valid is not None:
        found["valid"] = rows_sha256(load_data(training.valid, training.valid_options).rows)
    return found


def _split(config: TuneConfig) -> None:
    """Write train.jsonl and valid.jsonl, unless the held-out rows are given, or none are wanted."""
    training = config.training
    if config.splits:
        count = len(config.rows)
        if round(count * training.held_out) < 1:
            raise InputError(
                f"--held-out {training.held_out} of {pluralize(count, 'row')} is less than one row: "
                "give more rows, a larger share, or --held-out 0"
            )
        options = SplitOptions(valid=str(training.held_out), test="0", seed=training.seed)
        write_split([str(training.data)], training.data_options, options, config.work / "data", force=True)


def _training(config: TuneConfig) -> FinetuneConfig:
    """Return the options of the training, on the split data if it was split."""
    training, folder = config.training, config.work / "data"
    if not config.splits:
        return replace(training, out=config.adapter, force=True)
    return replace(
        training,
        data=folder / "train.jsonl",
        valid=folder / "valid.jsonl",
        data_options=DataOptions(
            text="{text}" if config.has_texts else None, field=training.data_options.field
        ),
        out=config.adapter,
        force=True,
    )


def _train(config: TuneConfig, progress: StepProgress) -> None:
    """Train, unless a kill came between the adapter's last file and the record of the step."""
    if (config.adapter / RECORD).is_file():
        Checkpoints(config.adapter).remove()
    else:
        finetune(_training(config), progress)


def _export_config(config: TuneConfig) -> ExportConfig:
    training = config.training
    return ExportConfig(
        base=str(config.adapter) if training.full else training.base,
        out=training.out,
        adapters=() if training.full else (str(config.adapter),),
        quants=config.quants,
        qlora_base=training.qlora,
        verify=config.verify,
        threads=config.threads,
        force=training.force,
    )


def _chats_to_check(config: TuneConfig) -> Path | None:
    """Return the held-out chats for the certificate, if they are in a file that it reads."""
    path = config.work / "data" / "valid.jsonl"
    checks = config.verify != "off" and not config.has_texts
    return path if checks and path.is_file() else None


def _evaluation(config: TuneConfig, result: ExportResult) -> EvaluateConfig:
    training = _training(config)
    held, options = training.data, training.data_options
    if training.valid is not None:
        held, options = training.valid, training.valid_options
    return EvaluateConfig(
        data=held,
        out=config.work / "evaluation",
        base=training.base,
        adapters=() if training.full else (str(config.adapter),),
        model=str(config.adapter) if training.full else None,
        gguf=tuple(result.folder / output.file for output in result.outputs),
        data_options=options,
        questions=config.questions,
        max_length=training.max_length,
        threads=config.threads,
        force=True,
    )
