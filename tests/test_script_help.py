"""--help of the scripts at 80 columns: defaults, groups, and no line breaks within a paragraph."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest
import typer
from typer.testing import CliRunner

from pipeline.cli import dataset, evaluate, export, finetune, make_base
from publish.cli import space
from scripts import bench
from ui.terminal import cli as chat

COMMANDS: dict[str, Callable[..., None]] = {
    "export": export.main,
    "certify": export.certify,
    "finetune": finetune.main,
    "dataset inspect": dataset.inspect,
    "dataset convert": dataset.convert,
    "dataset render": dataset.render,
    "dataset split": dataset.split_command,
    "evaluate": evaluate.main,
    "chat": chat.main,
    "publish space": space.space,
}


def shown(command: Callable[..., None]) -> str:
    """Return the help as one line, without the frames of its boxes."""
    cli = typer.Typer()
    cli.command()(command)
    text = CliRunner().invoke(cli, ["--help"], env={"COLUMNS": "80"}).stdout
    assert max(map(len, text.splitlines())) <= 80
    return " ".join(text.replace("│", " ").split())


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (
            "export",
            ["[default: (Q4_K_M, Q5_K_M)]", "─ Types ─", "─ Checks ─", "─ Running ─", "'blk.*.attn_v=q6_k'"],
        ),
        ("certify", ["[default: (the reference, if it has weights)]", "─ Checks ─", "─ Running ─"]),
        ("finetune", ["(2 x rank)", "(all-linear)", "(the base's own name)", "─ Adapter ─", "─ Training ─"]),
        ("evaluate", ["(as the adapter was trained)", "─ Data ─", "─ Running ─", "evaluate tasks"]),
        (
            "dataset inspect",
            ["[default: 1024]", "─ Data ─", "─ Model ─", "'Quote: {quote}'", "FILE..."],
        ),
        ("dataset convert", ["OUT.jsonl", "question=Q,answer=A"]),
        ("dataset render", ["[default: all]", "─ Model ─"]),
        ("dataset split", ["(as many as possible)", "(the file's name, of several)", "[default: 0.1]"]),
        ("publish space", ["─ The Space ─", "OWNER/NAME/FILE", "NAME[=VALUE]", "[default: 3600.0]"]),
        ("chat", ["--prompt -p TEXT", "─ Answers ─", "─ Running ─"]),
    ],
)
def test_help_says_defaults_and_is_in_groups(command: str, wanted: list[str]) -> None:
    text = shown(COMMANDS[command])
    assert [words for words in wanted if words not in text] == []
    assert "<list[" not in text


def test_a_paragraph_of_help_is_one_line() -> None:
    """typer keeps the line breaks of all but the first paragraph."""
    benchmarks = [command.callback for command in bench.app.registered_commands]
    for command in (*COMMANDS.values(), make_base.main, *filter(None, benchmarks)):
        for paragraph in inspect.cleandoc(command.__doc__ or "").split("\n\n"):
            assert "\n" not in paragraph, command


APPS = (export.app, export.certify_app, finetune.app, chat.cli)


@pytest.mark.parametrize("app", APPS)
def test_the_chat_template_is_taken_by_its_earlier_name_which_help_leaves_out(app: typer.Typer) -> None:
    command = typer.main.get_command(app)
    context = command.context_class(command, **command.context_settings)
    values, _, _ = command.make_parser(context).parse_args(["--chat-template", "alpaca"])
    assert values["chat_template"] == "alpaca"
    text = CliRunner().invoke(app, ["--help"]).stdout
    assert "--template" in text
    assert "--chat-templ" not in text
