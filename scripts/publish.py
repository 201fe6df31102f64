"""Publish an export on the Hugging Face Hub."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

from publish.cli.app import app

if __name__ == "__main__":
    app()
