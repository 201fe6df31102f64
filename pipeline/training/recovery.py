"""Recover what rounding takes from a tuning: an adapter distilled into itself through the rounded base.

The adapter that comes out makes up for the errors of one quantized file: its types, its importance matrix.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from common.chat_templates import GivenTemplate
from common.files import atomic_directory, is_disk_full, sha256
from ggufio.ggml import type_name
from pipeline.data.dataset import Example, Row, encode_row, read_data, split_rows
from pipeline.errors import InputError
from pipeline.merge.model_class import require_class
from pipeline.progress import StepProgress
from pipeline.sources.adapter import CONFIG, Adapter, beyond_plain_lora
from pipeline.sources.model_source import WEIGHTS, Source
from pipeline.sources.trained_base import trained_rounding
from pipeline.sources.trained_for import BEFORE, IMATRIX, RECORD, TrainedFor, types_digest
from pipeline.training.base_model import load_tokenizer, own_template
from pipeline.training.checkpoints import METRICS, Checkpoints
from pipeline.training.config import FinetuneConfig
from pipeline.training.device import settled, use_threads
from pipeline.training.job import pad_id_of
from pipeline.training.outputs import versions
from pipeline.training.own_answers import PROMPTS, own_answers, read_prompts
from pipeline.training.recovery_config import HELD_OUT, RecoveryOptions
from pipeline.training.recovery_job import Examples, Recovery, RecoveryJob

if TYPE_CHECKING:
    from pipeline.training.recovery_run import RecoveredWeights

_MIN_CHATS = 8
_WIDE = "widened"


def require_recoverable(base: Source, adapters: Sequence[Adapter]) -> None:
    """Raise InputError unless the model can be trained through its rounded base."""
    if len(adapters) != 1 or adapters[0].weight != 1.0:
        raise InputError(
            f"a recovery trains one --adapter as a whole, and there are {len(adapters)}: merge them first"
            if len(adapters) != 1
            else f"a recovery trains one --adapter as a whole, not {adapters[0].weight:g} of it: leave =W out"
        )
    adapter = adapters[0]
    if (reason := beyond_plain_lora(adapter)) is not None:
        raise InputError(
            f"the adapter {adapter.spec!r} cannot be recovered, only plain LoRA and rsLoRA on linear layers "
            f"can: {reason}; export it without --recover"
        )
    if trained_rounding(None, adapters) is not None:
        raise InputError(
            f"the adapter {adapter.spec!r} was trained by QLoRA, on a base that is rounded already: "
            "export it without --recover"
        )
    require_class(base, "a recovery", "export without --recover")


def recover(job: RecoveryJob, progress: StepProgress) -> Recovery:
    """Train, and write the adapter's folder `job.out` if that gained; return the figures.

    An interruption leaves checkpoints in `.NAME.training` beside it, from which the same call goes on to the
    same result. Raises InputError for wrong input.
    """
    tokenizer = load_tokenizer(job.base, _template(job), needs_template=job.options.data is None)
    train, held = _examples(job, tokenizer, progress)
    examples = Examples(train, held, pad_id_of(tokenizer))
    use_threads(job.threads)
    config = settled(_config(job))
    checkpoints = Checkpoints(job.out)
    with checkpoints.locked():
        state = checkpoints.open(_identity(job, config, examples), resume=job.resume)
        try:
            from pipeline.training.recovery_run import run_recovery

            wide = _widened(job, checkpoints)
            config = replace(config, adapter=str(wide.folder))
            trained = replace(job, adapter=wide)
            recovery, made = run_recovery(trained, config, examples, checkpoints, state, progress=progress)
            if made is not None:
                _write(job, wide, made, recovery, checkpoints)
            checkpoints.remove()
            return recovery
        except InputError:
            raise
        except Exception as error:
            if is_disk_full(error, checkpoints.folder):
                raise InputError(
                    f"the disk of {checkpoints.folder.parent} is full: make room, and run the command again"
                ) from error
            raise


def _widened(job: RecoveryJob, checkpoints: Checkpoints) -> Adapter:
    """Return the adapter to train: with --rank a larger one, which says the same."""
    if job.options.rank is None:
        return job.adapter
    from pipeline.training.widened import widened

    return widened(job.adapter, job.base, job.options.rank, job.options.seed, checkpoints.folder / _WIDE)


def _template(job: RecoveryJob) -> GivenTemplate | None:
    """Return the chat template that the user gave, else the one that the adapter brings; None without."""
    return job.template or own_template(job.adapter.folder)


@dataclass(frozen=True)
class Questions:
    """What the tuned model is asked where there are no chats."""

    prompts: tuple[str, ...]


def require_readable(options: RecoveryOptions) -> None:
    """Raise InputError for data that cannot be read, or prompts that are too few."""
    _read(options)


def _read(options: RecoveryOptions) -> tuple[list[Row], list[Row]] | Questions:
    """Return the rows to learn on and the held-out ones, or the questions. Raises InputError."""
    if options.data is None:
        return Questions(read_prompts(options.prompts) if options.prompts else PROMPTS)
    rows = read_data(options.data, options.data_options)
    if options.valid is None:
        return split_rows(rows, options.held_out, options.seed)
    return rows, read_data(options.valid, options.valid_options)


def _examples(
    job: RecoveryJob, tokenizer: Any, progress: StepProgress
) -> tuple[list[Example], list[Example]]:
    options, read = job.options, _read(job.options)
    if isinstance(read, Questions):
        job.out.parent.mkdir(parents=True, exist_ok=True)
        log = job.out.with_name(f".{job.out.name}-answers.log")
        own = own_answers(job.full, tokenizer, read.prompts, threads=job.threads, log=log, progress=progress)
        log.unlink(missing_ok=True)
        return _limited(own[::5], [one for place, one in enumerate(own) if place % 5], "prompts")
    encoded = [
        [
            example
            for row in part
            if (example := encode_row(tokenizer, row, options.max_length, train_on="all")).answer_tokens
        ]
        for part in read
    ]
    return _limited(encoded[1], encoded[0], "chats")


def _limited(held: list[Example], train: list[Example], what: str) -> tuple[list[Example], list[Example]]:
    """Return the examples to learn on and few enough held out. Raises InputError for too few."""
    if len(train) < _MIN_CHATS or not held:
        raise InputError(
            f"a recovery needs at least {_MIN_CHATS} {what} with answers and one to hold out, and there are "
            f"{len(train)} and {len(held)}: give more"
        )
    return train, held[:: max(1, -(-len(held) // HELD_OUT))]


def _config(job: RecoveryJob) -> FinetuneConfig:
    spec = job.base.spec
    return job.options.training(
        FinetuneConfig(
            base=spec,
            data=job.options.data or "own answers",
            out=job.out,
            adapter=str(job.adapter.folder),
            threads=job.threads,
            resume=job.resume,
        ),
        job.refresh_every,
    )


def _identity(job: RecoveryJob, config: FinetuneConfig, examples: Examples) -> dict[str, Any]:
    rows = [(one.input_ids, one.labels) for part in (examples.train, examples.held) for one in part]
    return {
        **job.options.describe(),
        "precision": config.precision,
        "device": config.device,
        "quant": job.quant,
        "types": types_digest(job.plan.type_names),
        "refresh_every": job.refresh_every,
        "apart": job.apart,
        "imatrix": sha256(job.imatrix) if job.imatrix else None,
        "rows": hashlib.sha256(repr(rows).encode()).hexdigest(),
        "base": [[path.name, path.stat().st_size] for path in job.base.weight_files()],
        "adapter": sha256(job.adapter.weights_file),
        "versions": versions(),
    }


def _write(
    job: RecoveryJob, wide: Adapter, made: RecoveredWeights, recovery: Recovery, checkpoints: Checkpoints
) -> None:
    """Write the adapter: its files as they were, its new weights, and its record."""
    from safetensors.torch import save_file

    before = job.adapter.folder
    with atomic_directory(job.out) as folder:
        for path in before.iterdir():
            if path.is_file() and not path.name.startswith("."):
                shutil.copy(path, folder / path.name)
        kept = folder / BEFORE
        kept.mkdir()
        for path in folder.iterdir():
            if path.is_file() and (path.suffix in (".json", ".jinja") or path.name == WEIGHTS):
                shutil.copy(path, kept / path.name)
        if wide is not job.adapter:
            shutil.copy(wide.folder / CONFIG, folder / CONFIG)
        weights = folder / WEIGHTS
        save_file(dict(made.state), weights, metadata={"format": "pt"})
        weights.chmod(0o644)
        if job.imatrix is not None:
            shutil.copy(job.imatrix, folder / IMATRIX)
        lines = "".join(json.dumps(line) + "\n" for line in checkpoints.metrics())
        (folder / METRICS).write_text(lines, encoding="utf-8")
        record = _record(job, made, recovery)
        (folder / RECORD).write_text(json.dumps(record.to_json(), indent=2) + "\n", encoding="utf-8")


def _record(job: RecoveryJob, made: RecoveredWeights, recovery: Recovery) -> TrainedFor:
    named = job.plan.type_names
    return TrainedFor(
        job.quant,
        type_name(made.full_type),
        dict(Counter(named.values())),
        types_digest(named),
        made.digests,
        sha256(job.imatrix) if job.imatrix else None,
        recovery.figures(),
        job.apart,
    )
