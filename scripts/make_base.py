"""Make the demo's base model: the embedded SmolLM2-135M-Instruct as a checkpoint folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

from pipeline.cli.make_base import app

if __name__ == "__main__":
    app()
