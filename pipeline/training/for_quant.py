"""finetune --for TYPE: an ordinary training, and then a recovery for the quantized file that ships."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.files import load_json, store_json
from common.system import physical_cores
from pipeline.convert.job import ConvertJob, convert
from pipeline.convert.toolchain import ensure_toolchain
from pipeline.data.dataset import read_chats
from pipeline.errors import InputError
from pipeline.progress import StepProgress
from pipeline.quantize.imatrix import ImatrixJob, collect_imatrix, reject_too_few_chats
from pipeline.quantize.job import Quantization, Quantizer
from pipeline.quantize.types import quant_type
from pipeline.sources.adapter import Adapter, read_adapter
from pipeline.sources.model_source import Source, adapter_source, base_source
from pipeline.training.config import FinetuneConfig
from pipeline.training.device import process_count
from pipeline.training.outputs import RECORD
from pipeline.training.recipe import RECIPE, identity_of, write_recipe
from pipeline.training.recovery import recover, require_recoverable
from pipeline.training.recovery_config import RecoveryOptions
from pipeline.training.recovery_job import RecoveryJob

_OPTIONS = "options.json"


def finetune_for_quant(
    config: FinetuneConfig, train: Callable[[FinetuneConfig, StepProgress], Path], progress: StepProgress
) -> Path:
    """Train with `train`, then for the file of `config.for_quant`; return the adapter's folder.

    The adapter before is in its folder `before`. Where the second training gains nothing, the first one's
    adapter is the result. An interrupted call goes on from what is finished. Raises InputError.
    """
    assert config.for_quant is not None
    if process_count() > 1:
        raise InputError("--for runs in one process: train without it, and run scripts/recover.py")
    base = base_source(config.base)
    if config.calibrate is not None:
        reject_too_few_chats(config.calibrate.name, read_chats(config.calibrate), base)
    work = config.out.with_name(f".{config.out.name}.for-{config.for_quant}")
    tuned = work / config.out.name
    _open(work, config)
    plain = replace(config, for_quant=None, calibrate=None, for_labels=False, out=tuned, force=False)
    if not (tuned / RECORD).is_file():
        train(plain, progress)
    adapter = read_adapter(adapter_source(str(tuned)))
    require_recoverable(base, (adapter,))
    job = _job(config, base, adapter, work, progress)
    if not recover(job, progress).helped:
        shutil.rmtree(config.out, ignore_errors=True)
        tuned.rename(config.out)
    write_recipe(config, config.out / RECIPE)
    shutil.rmtree(work, ignore_errors=True)
    return config.out


def _open(work: Path, config: FinetuneConfig) -> None:
    """Begin the work folder, or go on with that of the same call. Raises InputError for another's."""
    options: dict[str, Any] = json.loads(json.dumps(identity_of(config)))
    known = load_json(work / _OPTIONS)
    if known is not None and config.resume:
        if known != options:
            raise InputError(
                f"{work} has an unfinished training with other options: give those to go on, or --no-resume "
                "to begin anew"
            )
        return
    shutil.rmtree(work, ignore_errors=True)
    store_json(work / _OPTIONS, options)


def _job(
    config: FinetuneConfig, base: Source, adapter: Adapter, work: Path, progress: StepProgress
) -> RecoveryJob:
    """Convert the tuned model, and find out the types that its file will have."""
    assert config.for_quant is not None
    threads = config.threads or physical_cores()
    full = work / "full.gguf"
    if not full.is_file():
        partial = full.with_suffix(".partial")
        converting = ConvertJob(
            base, (adapter,), "f16", partial, config.out.name, ensure_toolchain(), threads
        )
        convert(converting, progress)
        partial.replace(full)
    imatrix = None
    if config.calibrate is not None:
        imatrix = work / "imatrix.gguf"
        if not imatrix.is_file():
            partial = imatrix.with_suffix(".partial")
            collect_imatrix(ImatrixJob(full, config.calibrate, partial, threads), progress)
            partial.replace(imatrix)
    with Quantizer(work / "quantize.log") as quantizer:
        plan = quantizer.plan(Quantization(full, quant_type(config.for_quant), imatrix=imatrix))
    return RecoveryJob(
        options=RecoveryOptions(
            data=str(config.data),
            data_options=config.data_options,
            max_length=config.max_length,
            held_out=config.held_out or 0.1,
            valid=None if config.valid is None else str(config.valid),
            valid_options=config.valid_options,
            labels=config.for_labels,
            seed=config.seed,
            precision=config.precision,
            device=config.device,
        ),
        base=base,
        adapter=adapter,
        quant=config.for_quant,
        full=full,
        plan=plan,
        out=config.out,
        imatrix=imatrix,
        threads=threads,
        resume=config.resume,
    )
