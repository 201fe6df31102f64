from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.measure import measure
from pipeline.errors import PipelineError
from tests.pipeline.tiny import make_adapter, make_base

pytestmark = pytest.mark.slow


def test_measure_sees_memory_and_writes_of_a_grandchild(tmp_path: Path, root: Path) -> None:
    size = 200 * 2**20
    inner = f"data = b'x' * {size}; f = open({str(tmp_path / 'out')!r}, 'wb'); f.write(data)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}], check=True)"
    # In a process of its own: the kernel's peak of a child starts at its parent's, and pytest is large.
    code = (
        "import dataclasses, json, sys; from pathlib import Path; from bench.measure import measure; "
        f"usage = measure([sys.executable, '-c', {outer!r}], Path({str(tmp_path / 'log')!r})); "
        "print(json.dumps(dataclasses.asdict(usage)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    usage = json.loads(done.stdout)
    assert size < usage["peak_bytes"] < 2 * size
    assert usage["written_bytes"] >= size
    assert usage["seconds"] > 0


def test_measure_says_what_failed(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="exit code 3"):
        measure([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log")


def test_both_ways_run_and_the_ratios_are_printed(tmp_path: Path, root: Path, python: str) -> None:
    base = make_base(tmp_path / "base", hidden_size=256, intermediate_size=512, head_dim=64)
    adapter = make_adapter(tmp_path / "adapter", base)
    command = [python, "scripts/bench.py", "export", "--base", base, "--adapter", adapter, "--json"]
    command += ["--quant", "Q8_0", "--scratch", tmp_path / "scratch"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["ratios"]) == {"time", "peak_memory", "bytes_written"}
    assert all(ratio > 0 for ratio in result["ratios"].values())
    assert not list((tmp_path / "scratch").glob("*/*.gguf"))


def test_memory_is_measured_for_each_number_of_layers(tmp_path: Path, root: Path, python: str) -> None:
    folder = tmp_path / "scratch" / "shapes"  # what the command finds ready there is tiny
    code = (
        "import bench.random_models as s; from pathlib import Path; "
        "s.SHAPES['smollm2'].update(vocab_size=32000, hidden_size=64, intermediate_size=128, "
        "num_attention_heads=4, num_key_value_heads=2); "
        f"[s.make_shape('smollm2', Path({str(folder)!r}), layers, True) for layers in (1, 2)]"
    )
    subprocess.run([python, "-c", code], cwd=root, check=True, capture_output=True)
    command = [python, "scripts/bench.py", "memory", "--shape", "smollm2", "--dora", "--json"]
    command += ["--layers", "1", "--layers", "2", "--quant", "Q8_0", "--scratch", str(tmp_path / "scratch")]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    result = json.loads(done.stdout.splitlines()[-1])
    assert (folder / "smollm2-2-layers-dora").is_dir()
    written = [result["figures"][layers]["written_bytes"] for layers in ("1", "2")]
    assert 0 < written[0] < written[1]
    assert 1 <= result["ratios"]["peak_memory"] < 1.5
