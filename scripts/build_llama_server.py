"""Build llama-server for `scripts/bench.py serve --llama-server`, and print its path."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

from bench.build_server import build_llama_server
from pipeline.cli.console import report_errors

if __name__ == "__main__":
    with report_errors():
        print(build_llama_server())
