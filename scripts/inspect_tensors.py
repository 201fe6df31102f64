"""Show how a model's tensors are stored, and how each type would round one of them."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

from pipeline.cli.inspect import app

if __name__ == "__main__":
    app()
