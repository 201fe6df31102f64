"""How much errors of a model's weights matter for its answers: measured once, in a process that may be large.

sensitivity_worker.py does the work; tensor_costs.py weighs rounding errors by what it finds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.dataclass_json import from_json, to_json
from common.worker_process import run_worker
from pipeline.certificate.subject import Subject
from pipeline.progress import StepProgress


@dataclass(frozen=True)
class SensitivityJob:
    """Measure the subject's tuned model on its own answers, and on the answers in `chats`, a JSONL file.

    The result goes to `target`, a file of pipeline.quantize.tensor_costs.Sensitivity.
    """

    subject: Subject
    chats: Path | None
    target: Path


@dataclass(frozen=True)
class MeasuredSensitivity:
    """What was measured: on how many `tokens`, for how many `tensors`; 0 if there was only the error itself.

    `reason` says why, if so. `change` is how far the tuned model is from its base, in nats a token, 0 if that
    is unknown.
    """

    tokens: int
    tensors: int
    change: float
    reason: str


def measure_sensitivity(job: SensitivityJob, progress: StepProgress) -> MeasuredSensitivity:
    """Run the job in a worker process, without threads of torch beyond the subject's. Raises InputError."""
    with progress.step("See what the answers need", None) as advance:
        found = run_worker(
            "pipeline.evaluation.sensitivity_worker",
            to_json(job),
            job.target.with_suffix(".log"),
            on_message=lambda message: advance(int(message["done"])),
        )
    return from_json(MeasuredSensitivity, found)
