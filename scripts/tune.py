"""From a data set to a chat: split, fine-tune, export to GGUF, certify, evaluate."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

from pipeline.cli.tune import app

if __name__ == "__main__":
    app()
