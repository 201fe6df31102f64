"""Train an adapter for the quantized file that ships, export it, and certify it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

from pipeline.cli.recover import app

if __name__ == "__main__":
    app()
