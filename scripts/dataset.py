"""Inspect, convert, render and split data sets."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

from pipeline.cli.dataset import app

if __name__ == "__main__":
    app()
