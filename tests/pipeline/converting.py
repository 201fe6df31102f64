"""Conversions that share a process: its imports take longer than a tiny model."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from common.dataclass_json import from_json, to_json
from pipeline.convert.job import Converted, ConvertJob
from pipeline.convert.toolchain import ensure_toolchain

_CONVERT_ALL = """
import json, sys
from pipeline.convert.worker import convert
for request in json.load(sys.stdin):
    with open(request["target"] + ".json", "w") as file:
        json.dump(convert(request), file)
"""
_RUN_SCRIPT = """
import json, runpy, sys
script, calls = json.load(sys.stdin)
sys.path.insert(0, script.rpartition("/")[0])
for arguments in calls:
    sys.argv = [script, *arguments]
    runpy.run_path(script, run_name="__main__")
"""


def convert_all(jobs: Sequence[ConvertJob], root: Path, python: str) -> list[Converted]:
    """Convert as the export's worker process does, each job to its target."""
    _run(_CONVERT_ALL, [to_json(job) for job in jobs], root, python)
    results = (job.target.with_name(f"{job.target.name}.json").read_text() for job in jobs)
    return [from_json(Converted, json.loads(text)) for text in results]


def convert_by_script(calls: Sequence[tuple[Path, str, Path]], root: Path, python: str) -> None:
    """Convert each (folder, type, target) by llama.cpp's own script."""
    arguments = [[str(folder), "--outtype", kind, "--outfile", str(target)] for folder, kind, target in calls]
    _run(_RUN_SCRIPT, [str(ensure_toolchain() / "convert_hf_to_gguf.py"), arguments], root, python)


def _run(code: str, request: object, root: Path, python: str) -> None:
    done = subprocess.run(
        [python, "-c", code],
        input=json.dumps(request),
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
