"""Set up a worker process that merges adapters: threads, memory, no code of a model."""

from __future__ import annotations

import ctypes
import logging
import os
import sys

from common.errors import MissingPackage
from pipeline.convert.remote_code import forbid_remote_code


def prepare_process(threads: int, *, in_four_bits: bool) -> None:
    """Set what holds for the whole process; `in_four_bits` says whether bitsandbytes is needed."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # all files that are needed are in the base's folder
    logging.basicConfig(level=logging.WARNING)
    if not in_four_bits:  # PEFT would import it without need, which takes most of a second
        sys.modules["bitsandbytes"] = None  # type: ignore[assignment] # makes its import fail
    try:
        import torch
    except ImportError as error:
        raise MissingPackage("torch") from error
    torch.set_num_threads(threads)
    forbid_remote_code()
    _map_large_blocks()


def _map_large_blocks() -> None:
    """Have glibc map each tensor separately: a fragmented heap kept up to a whole model's memory."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 2**20)  # M_MMAP_THRESHOLD, in bytes
