"""Quiet the libraries whose progress bars and hints would garble a command's own output."""

from __future__ import annotations

import os
import warnings


def quiet_libraries() -> None:
    """Silence bars, hints and warnings of transformers and the Hub; errors are still shown."""
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
