"""Recipes: what a training writes repeats it, and options given on the command line win."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.cli import finetune as command
from pipeline.data.options import DataOptions
from pipeline.errors import InputError
from pipeline.training.config import FinetuneConfig
from pipeline.training.recipe import read_recipe, recipe_of, write_recipe


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[FinetuneConfig]:
    """The configurations that the command would train with."""
    configs: list[FinetuneConfig] = []

    def record(config: FinetuneConfig, _progress: Any) -> Path:
        configs.append(config)
        return config.out

    monkeypatch.setattr(command, "finetune", record)
    monkeypatch.setattr(command, "print_summary", lambda *_: None)
    return configs


def invoke(*words: str) -> Any:
    return CliRunner().invoke(command.app, list(words))


EVERY = FinetuneConfig(
    base="b",
    data="d.csv",
    out=Path("o"),
    rank=4,
    alpha=9,
    dropout=0.1,
    targets=("q_proj", "v_proj"),
    rslora=True,
    qlora="nf4",
    learning_rate=1e-3,
    schedule="cosine-restarts",
    cycles=2,
    steps=7,
    accumulate=3,
    train_on="last",
    packing=True,
    neftune=5.0,
    checkpointing=True,
    valid="v.csv",
    eval_every=2,
    early_stopping=3,
    precision="bfloat16",
    device="cpu",
    base_name="me/base",
    chat_template="chatml",
    data_options=DataOptions(columns="question=Q,answer=A", field="kind"),
    save_every=5,
    trackers=("tensorboard",),
)


def test_a_written_recipe_repeats_the_training(tmp_path: Path, seen: list[FinetuneConfig]) -> None:
    write_recipe(EVERY, tmp_path / "recipe.yaml")
    result = invoke("--recipe", str(tmp_path / "recipe.yaml"), "--out", "o")
    assert result.exit_code == 0, result.output
    assert seen == [EVERY]


def test_a_zero_is_a_value(tmp_path: Path, seen: list[FinetuneConfig]) -> None:
    zeros: dict[str, Any] = {"seed": 0, "warmup": 0.0, "held_out": 0.0, "max_grad_norm": 0.0, "save_every": 0}
    config = FinetuneConfig(base="b", data="d", out=Path("o"), **zeros)
    write_recipe(config, tmp_path / "recipe.yaml")
    assert invoke("--recipe", str(tmp_path / "recipe.yaml"), "--out", "o").exit_code == 0
    assert seen == [config]


def test_options_that_are_given_win(tmp_path: Path, seen: list[FinetuneConfig]) -> None:
    (tmp_path / "r.yaml").write_text(
        "base: b\ndata: d\nrank: 4\nbatch_size: 2\ntarget: [q_proj]\nrslora: true\n"
    )
    result = invoke("--recipe", str(tmp_path / "r.yaml"), "--out", "o", "--rank", "16", "--target", "k_proj")
    assert result.exit_code == 0, result.output
    (config,) = seen
    assert (config.rank, config.alpha, config.batch_size, config.targets, config.rslora) == (
        16,
        32,
        2,
        ("k_proj",),
        True,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate: 1", "has 'learning-rate', which is no option: use accumulate, adapter,"),
        ("- a", "is no list of `option: value` lines"),
        ("a: [", "is no YAML"),
        ("rank: many\nbase: b\ndata: d", "unable to parse string as an integer"),
        ("rank: 0\nbase: b\ndata: d", "--rank 0 is out of range"),
        ("rank: [8, 16]", "r.yaml': rank [8, 16] is not a text or a number: write one"),
        ("rank: true", "rank True is not a text or a number"),
        ("rank: 8.5", "r.yaml': rank 8.5: input should be a valid integer"),
        ("data: [a, b]", "data ['a', 'b'] is not a text or a number"),
        ("base: {a: 1}", "base {'a': 1} is not a text or a number"),
        ("base: 2020-01-01", "is not a text or a number"),
        ("target: [[q_proj], 1]", "is not a text or a number"),
        ("packing: maybe", "packing 'maybe' is not true or false: write one"),
        ("rank: 4\nrank: 8", "has 'rank' 2 times: keep one"),
        ("base: ' '\ndata: d", "--base is empty: give a folder, a file or a Hub id"),
    ],
)
def test_a_wrong_recipe_is_named(tmp_path: Path, seen: list[FinetuneConfig], text: str, message: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    result = invoke("--recipe", str(tmp_path / "r.yaml"), "--out", "o")
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.replace("│", " ").split())
    assert not seen


def test_a_single_value_is_a_list_of_one(tmp_path: Path, seen: list[FinetuneConfig]) -> None:
    (tmp_path / "r.yaml").write_text("base: b\ndata: d\nrank: &n 4\nalpha: *n\ntarget: q_proj\n")
    result = invoke("--recipe", str(tmp_path / "r.yaml"), "--out", "o")
    assert result.exit_code == 0, result.output
    assert (seen[0].rank, seen[0].alpha, seen[0].targets) == (4, 4, ("q_proj",))


def test_a_folder_without_a_name_gets_its_own(
    tmp_path: Path, seen: list[FinetuneConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for out in (".", "x/.."):
        assert invoke("--base", "b", "--data", "d", "--out", out).exit_code == 0
    assert [config.out for config in seen] == [tmp_path, tmp_path]


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_recipe(tmp_path / "none.yaml")


def test_a_recipe_has_the_names_of_the_command_line() -> None:
    names = {name for parameter in _parameters() for name in parameter}
    assert recipe_of(replace(EVERY, full=False)).keys() <= names
    assert json.dumps(recipe_of(EVERY))


def _parameters() -> list[list[str]]:
    import typer.main

    return [
        [option.removeprefix("--") for option in parameter.opts]
        for parameter in typer.main.get_command(command.app).params
    ]
