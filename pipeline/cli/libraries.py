"""Quiet the libraries whose progress bars and hints would garble a command's own output."""

from __future__ import annotations

import logging
import os
import sys
import warnings


def quiet_libraries() -> None:
    """Turn off bars and hints of transformers, the Hub, bitsandbytes and others; errors are still shown."""
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # PEFT imports it whether needed or not
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if "torch" not in sys.modules:
        os.environ.setdefault("TQDM_DISABLE", "1")  # of loading weights
