"""The benchmark of trainings: each way trains the same rows, and the table has ours over the others'."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.report import show_training
from bench.train import WAYS, TrainingFigures
from bench.train_run import main
from pipeline.training.config import FinetuneConfig

pytestmark = pytest.mark.slow


def test_each_way_trains_the_same_rows(config: FinetuneConfig, tmp_path: Path) -> None:
    losses = {}
    for way in WAYS:
        main([way, config.base, str(config.data), "8", "4", "1", str(tmp_path / "found.json")])
        found = json.loads((tmp_path / "found.json").read_text())
        assert found["tokens"] == 8 * 39
        assert found["cpu_seconds"] > 0 and found["peak_bytes"] > 1e6
        losses[way] = found["last_loss"]
    assert losses["ours"] == pytest.approx(losses["plain"], abs=0.2)  # without a warm-up


def test_the_table_has_our_share(capsys: pytest.CaptureFixture[str]) -> None:
    figures = [TrainingFigures("ours", [30.0, 20.0, 10.0], [200]), TrainingFigures("other", [10.0], [400])]
    show_training(figures, as_json=True)
    ratios = json.loads(capsys.readouterr().out.splitlines()[-1])["ratios"]
    assert ratios["other"] == {"speed": 2.0, "peak_memory": 0.5}
