"""Supervised fine-tuning on chats and texts: transformers' Trainer trains, PEFT holds the adapter.

The loss covers only the trained tokens of a row, as rendered by the chat template (pipeline/data).
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

from common.chat_templates import GivenTemplate, read_template
from common.errors import MissingPackage, UserError
from common.files import is_disk_full
from pipeline.data.chat_template import reject_lost_messages
from pipeline.data.dataset import Chat, Example, Row, encode_row, split_rows
from pipeline.data.reader import collect_errors, read_data
from pipeline.errors import InputError
from pipeline.evaluation.rows import make_questions
from pipeline.merge.model_class import require_class
from pipeline.progress import Advance, NoProgress, StepProgress
from pipeline.sources.model_source import Source, adapter_source, base_source
from pipeline.sources.reading import reading
from pipeline.sources.ternary import reject_merge
from pipeline.tokenizers.stop_tokens import stop_token
from pipeline.training.base_model import load_tokenizer, own_template
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.config import ALL_LINEAR, FinetuneConfig, FinetuneReport
from pipeline.training.data_notes import data_notes
from pipeline.training.device import is_main_process, main_process_first, process_count, settled, use_threads
from pipeline.training.job import TrainingData, TrainingJob
from pipeline.training.outputs import (
    PACKAGES,
    RECORD,
    base_name,
    check_out,
    versions,
    write_adapter,
    write_model,
)
from pipeline.training.recipe import identity_of

_MANY_ROWS = 2000
"""Fewer are tokenized in about two seconds, which no progress needs to be shown of."""

__all__ = ["RECORD", "FinetuneConfig", "FinetuneReport", "finetune"]


def finetune(config: FinetuneConfig, progress: StepProgress | None = None) -> Path:
    """Train an adapter (or with `full` the model), write it to `config.out` and return that folder.

    An adapter's folder has adapter_model.safetensors, adapter_config.json, training.json (the options, the
    data's SHA-256, the versions and a FinetuneReport), recipe.yaml, metrics.jsonl and README.md with the loss
    curve; a README.md by the user is kept. The base's tokenizer and chat template are not copied; a chat
    template that was given is. A whole model's folder has its weights and tokenizer besides.

    An interruption leaves `out` unchanged, and checkpoints in `.NAME.training` beside it, from which the
    same call goes on to the same result. Raises InputError for wrong input, before anything is loaded.
    """
    progress = progress or NoProgress()
    check_out(config)
    if config.for_quant is not None:
        from pipeline.training.for_quant import finetune_for_quant

        reject_merge(base_source(config.base))
        return finetune_for_quant(config, finetune, progress)
    rows, valid = _read(config)
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package)
    for tracker in config.trackers:
        if importlib.util.find_spec(tracker) is None:
            raise InputError(f"--track {tracker} needs a package of that name: run `pip install {tracker}`")
    source = base_source(config.base)
    require_class(
        source, "training", "train where the model's own code runs, and export the adapter with --adapter"
    )
    given = _template(config)
    texts_only = not any(isinstance(row, Chat) for row in (*rows, *valid))
    tokenizer = load_tokenizer(source, given, needs_template=not texts_only)
    if given is not None:
        given = replace(given, source=tokenizer.chat_template)  # with its BOS
    shown: StepProgress = progress if len(rows) + len(valid) >= _MANY_ROWS else NoProgress()
    with shown.step("Tokenize", len(rows) + len(valid)) as advance:
        data = _encode(config, source, tokenizer, rows, valid, advance=advance)
    if not texts_only:
        stop_token(tokenizer, tokenizer.chat_template)  # raises InputError where no answer would end
    check_targets(config, source)
    use_threads(config.threads)
    return _train(TrainingJob(settled(config), source, tokenizer, data, given), progress)


def _train(job: TrainingJob, progress: StepProgress) -> Path:
    from pipeline.training.run import train

    config = job.config
    checkpoints = Checkpoints(config.out)
    with checkpoints.locked() if is_main_process() else nullcontext():
        if is_main_process():
            check_out(config)  # another training may have ended since
        with main_process_first():
            state = checkpoints.open(_identity(job), resume=config.resume, main=is_main_process())
        try:
            trained = train(job, checkpoints, state, progress)
            if is_main_process():
                write = write_model if config.full else write_adapter
                write(job, trained, checkpoints.metrics())
                checkpoints.remove()
        except UserError:
            raise
        except Exception as error:
            if is_disk_full(error, checkpoints.folder):
                raise InputError(_full(checkpoints)) from error
            raise
    return config.out


def check_targets(config: FinetuneConfig, source: Source) -> None:
    """Raise InputError unless every target is a linear layer of the base, built on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM

    from pipeline.merge.meta_model import linear_layers

    if config.targets == (ALL_LINEAR,):
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_settings(source))
    linear = {name.rsplit(".", 1)[-1] for name in linear_layers(model)}
    for target in config.targets:
        if target not in linear:
            raise InputError(
                f"--target {target!r} is no linear layer of the base: use {', '.join(sorted(linear))}"
            )


def _settings(source: Source) -> Any:
    from transformers import AutoConfig

    what = f"the base {source.spec!r} is of no known architecture"
    with reading(what, "correct its config.json, or download it again"):
        return AutoConfig.from_pretrained(source.folder, trust_remote_code=False)


def _read(config: FinetuneConfig) -> tuple[list[Row], list[Row]]:
    """Return the rows to train on and the held-out ones. Raises InputError."""
    rows = read_data(config.data, config.data_options)
    if config.valid is None:
        return split_rows(rows, config.held_out, config.seed)
    return rows, read_data(config.valid, config.valid_options)


def _template(config: FinetuneConfig) -> GivenTemplate | None:
    """Return the chat template that was given, else that of the adapter to go on from, if it brings one."""
    if config.chat_template is not None:
        return read_template(config.chat_template)
    if config.adapter is None:
        return None
    return own_template(adapter_source(config.adapter).folder)


def _encode(
    config: FinetuneConfig,
    source: Source,
    tokenizer: Any,
    rows: Sequence[Row],
    valid: Sequence[Row],
    *,
    advance: Advance,
) -> TrainingData:
    if tokenizer.chat_template:
        chats = [row for row in (*rows, *valid) if isinstance(row, Chat)]
        reject_lost_messages(tokenizer, sorted(chats, key=lambda chat: (chat.file, chat.line)))

    done = count(1)

    def encode(row: Row) -> Example:
        advance(next(done))
        return encode_row(tokenizer, row, config.max_length, train_on=config.train_on)

    train, held = (
        [one for one in collect_errors(part, encode) if one.answer_tokens] for part in (rows, valid)
    )
    if not train:
        raise InputError(
            f"--max-length {config.max_length} cuts off every answer in the data set: give more tokens"
        )
    return TrainingData(
        train,
        held,
        truncated=sum(example.truncated for example in (*train, *held)),
        dropped=len(rows) + len(valid) - len(train) - len(held),
        notes=tuple(data_notes(_settings(source), tokenizer, rows, valid, (*train, *held))),
        questions=make_questions(tokenizer, valid, None, config.answers) if tokenizer.chat_template else [],
    )


def _identity(job: TrainingJob) -> dict[str, Any]:
    """Return what makes the result: a training goes on only where it is the same."""
    rows = [(example.input_ids, example.labels) for example in (*job.data.train, *job.data.held)]
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in job.source.weight_files()]
    return {
        **identity_of(job.config),
        "base": job.source.revision or [base_name(job.config, job.source), files],
        "data": hashlib.sha256(repr(rows).encode()).hexdigest(),
        "versions": versions(),
        "processes": process_count(),
    }


def _full(checkpoints: Checkpoints) -> str:
    step = checkpoints.last_step
    last = f" to go on from step {step}" if step else ""
    return f"the disk of {checkpoints.folder.parent} is full: make room, and run the same command again{last}"
