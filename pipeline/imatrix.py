"""Importance matrix: which columns of each weight matter for the user's own chats, and so deserve the bits.

llama.cpp's quantizers weigh the error of each column by the mean square of what goes into it. Those means
come from the chats of `--calibrate`, read through the full-precision model, or from a file of an earlier run.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.calibration import refuse_too_few
from pipeline.child import run_child
from pipeline.config import ExportConfig
from pipeline.dataset import read_chats
from pipeline.final_name import give_final_name
from pipeline.ggml import read_tensors
from pipeline.imatrix_file import check_fits, read_imatrix
from pipeline.manifest import Record, sha256
from pipeline.progress import StepProgress
from pipeline.source import Source


@dataclass(frozen=True)
class GatherJob:
    """Read the chats of `data` through the full-precision GGUF `model`, and write the matrix to `target`."""

    model: Path
    data: Path
    target: Path
    threads: int


def gather(job: GatherJob, progress: StepProgress) -> dict[str, Any]:
    """Do the job in a child process; returns how many chunks, tokens and tensors went into the matrix.

    Raises InputError for chats or a model that cannot be used. `target` is written in place.
    """
    request = {"model": str(job.model), "data": str(job.data), "target": str(job.target)}
    with progress.step("Gather what matters", None) as advance:
        return run_child(
            "pipeline.imatrix_child",
            {**request, "threads": job.threads},
            job.target.with_suffix(".log"),
            on_message=lambda message: advance(int(message["done"])),
        )


def check_importance(config: ExportConfig, base: Source) -> None:
    """Raise InputError for a file of `--calibrate` or `--imatrix` that cannot be used, before all work."""
    if config.calibrate:
        refuse_too_few(config.calibrate.name, read_chats(config.calibrate), base)
    if config.imatrix:
        read_imatrix(config.imatrix)


def importance_file(
    config: ExportConfig, full: Path, work: Path, record: Record, progress: StepProgress
) -> Path | None:
    """The importance matrix to quantize `full` with: the user's, an earlier run's, or a new one; or none."""
    if config.imatrix:
        check_fits(config.imatrix, read_imatrix(config.imatrix).importance(), read_tensors(full))
        return config.imatrix
    if config.calibrate is None:
        return None
    target = config.out / config.imatrix_name
    if target.is_file() and record.importance.get("sha256") == sha256(target):
        return target
    partial = work / f"{target.name}.partial"
    found = gather(GatherJob(full, config.calibrate, partial, config.threads), progress)
    record.importance = {"file": target.name, "sha256": sha256(partial), **found}
    give_final_name(partial, target)
    return target
