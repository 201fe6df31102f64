"""Quiet the libraries whose progress bars and hints would garble a command's own output."""

from __future__ import annotations

import logging
import os
import sys
import warnings


def quiet_libraries(*, four_bits: bool = False) -> None:
    """Silence bars, hints and warnings of transformers, the Hub and others; errors are still shown.

    Without `four_bits` PEFT does not import bitsandbytes, which complains of missing libraries.
    """
    if not four_bits:
        sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]  # None disables it
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
