"""Merge a LoRA adapter into its base model, convert to GGUF and quantize."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

from pipeline.cli.export import run_script

if __name__ == "__main__":
    run_script()
