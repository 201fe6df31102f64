"""The device and the number type of a training: which there are, which is fastest."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast, get_args

from common.system import physical_cores
from pipeline.errors import InputError
from pipeline.training.checkpoints import Checkpoints
from pipeline.training.config import Device, FinetuneConfig, Optimizer, Precision


def settled(config: FinetuneConfig) -> FinetuneConfig:
    """Return the options with the "auto" device and precision replaced by this machine's, to be recorded.

    A training that goes on keeps its precision, and all processes take the first one's.

    Raises InputError for a device that is not here, and for a precision or an optimizer that it has not.
    """
    device = _device(config.device)
    precision = config.precision if config.precision != "auto" else _auto_precision(config, device)
    if precision == "float16" and device == "cpu":
        raise InputError("--precision float16 is for GPUs: use bfloat16 or float32 on a CPU")
    usable = {"cuda": get_args(Optimizer), "cpu": ("adamw", "adamw-8bit")}.get(device, ("adamw",))
    if config.optimizer not in usable:
        raise InputError(
            f"--optimizer {config.optimizer} does not run on {device}: use {' or '.join(usable)}"
        )
    return replace(config, device=device, precision=precision)


def use_threads(threads: int | None) -> None:
    """Have torch compute with so many threads: by default as OMP_NUM_THREADS says, or the physical cores.

    torch counts the machine's cores and not a container's share, and more threads than cores are slower.
    """
    import torch

    if threads is None and process_count() == 1 and "OMP_NUM_THREADS" not in os.environ:
        threads = physical_cores()
    if threads is not None:
        torch.set_num_threads(threads)


def _device(wanted: Device) -> Device:
    import torch

    found: list[Device] = ["cpu"]
    if torch.backends.mps.is_available():
        found.insert(0, "mps")
    if torch.cuda.is_available():
        found.insert(0, "cuda")
    if wanted == "auto":
        return found[0]
    if wanted not in found:
        raise InputError(f"--device {wanted} is not on this machine: use {' or '.join(found)}, or auto")
    return wanted


def _auto_precision(config: FinetuneConfig, device: Device) -> Precision:
    """Return the interrupted training's precision, or else the faster one: two measurements may differ."""
    earlier = Checkpoints(config.out).precision(device) if config.resume else None
    found = earlier if earlier in get_args(Precision) else _faster_precision(device)
    if process_count() > 1:
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list

        PartialState(cpu=device == "cpu")
        found = broadcast_object_list([found])[0]
    return cast(Precision, found)


def _faster_precision(device: Device) -> Precision:
    """Return the type that this device multiplies faster (a CPU with AMX: bfloat16, by 7 times)."""
    import torch

    if device != "cpu":
        return "bfloat16" if device == "cuda" and torch.cuda.is_bf16_supported() else "float32"

    def seconds(dtype: Any) -> float:
        left, right = torch.ones(256, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        times = []
        for _ in range(5):  # the first warms up; the minimum is the least disturbed
            started = time.perf_counter()
            left @ right
            times.append(time.perf_counter() - started)
        return min(times)

    return "bfloat16" if seconds(torch.bfloat16) * 1.5 < seconds(torch.float32) else "float32"


def is_main_process() -> bool:
    """Return whether this process writes: the only one, or the first that `accelerate launch` started."""
    return int(os.environ.get("RANK", "0")) == 0


def process_count() -> int:
    """Return the number of processes that `accelerate launch` started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def main_process_first() -> Iterator[None]:
    """Run the block in the main process, and then in the others."""
    if process_count() == 1:
        yield
        return
    from accelerate import PartialState

    with PartialState().main_process_first():
        yield
