"""Compare a base, its tuned model and GGUF files of it on held-out data."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

from pipeline.cli.evaluate import run

if __name__ == "__main__":
    run()
