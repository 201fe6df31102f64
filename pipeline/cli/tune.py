"""The command `tune`: from a data set to files to chat with."""

from __future__ import annotations

import inspect
import json
import shlex
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from common.system import physical_cores
from common.terminal import say
from pipeline.cli import finetune as finetune_command
from pipeline.cli.console import quiet_libraries, report_errors, show_export, terminal_progress
from pipeline.cli.evaluate import show_evaluation
from pipeline.cli.finetune import config_of
from pipeline.evaluation.config import PAGE
from pipeline.exporter.config import DEFAULT_QUANTS
from pipeline.tuning import TuneConfig, tune

exporting = partial(typer.Option, rich_help_panel="Export")

Quants = Annotated[
    list[str] | None,
    exporting(
        "--quant", metavar="TYPE", help="A type, or auto; repeat it.", show_default=", ".join(DEFAULT_QUANTS)
    ),
]
Verify = Annotated[str, exporting(metavar="off|fast|full", help="How deeply the files are checked.")]
Questions = Annotated[int, exporting(metavar="N", help="Held-out questions to answer side by side.")]


def main(
    *,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder of the GGUF files.")],
    quant: Quants = None,
    verify: Verify = "fast",
    questions: Questions = 5,
    **values: Any,
) -> None:
    """Split the data, train, export to GGUF, certify and evaluate, and print how to chat with it.

    All options of finetune are taken. --out is the folder of the GGUF files; NAME-tuning beside it has the
    split data, the adapter and the evaluation. The same command goes on where it was interrupted.
    """
    with report_errors(after_interrupt=GO_ON):
        config = TuneConfig(
            config_of({**values, "out": out}),
            tuple(quant or DEFAULT_QUANTS),
            verify,
            values["threads"] or physical_cores(),
            questions,
        )
        quiet_libraries()
        result = tune(config, terminal_progress())
    finetune_command.print_summary(result.adapter, json_summary=False)
    show_export(result.export, as_json=False, next_command=False)
    if result.evaluation:
        show_evaluation(result.evaluation)
    else:
        say(f"Evaluated by an earlier run -> {result.evaluation_folder / PAGE}")
    folder = shlex.quote(str(result.export.folder))
    if config.training.data_options.text is None:
        say(f"Chat with it: python app.py {folder}")
    else:
        say(f"Let it continue a text: python scripts/chat.py {folder} --raw --prompt TEXT")
    if values["json_summary"]:
        say(json.dumps({"adapter": str(result.adapter), "folder": str(result.export.folder)}))


GO_ON = "run the same command again to go on from the last finished step"


def _with_training_options() -> None:
    """Give the command all options of finetune, with its own beside them or in their place."""
    hints = {
        name: hint
        for command in _COMMANDS
        for name, hint in get_type_hints(command, include_extras=True).items()
    }
    parameters = {
        name: one.replace(annotation=hints[name])
        for command in _COMMANDS
        for name, one in inspect.signature(command).parameters.items()
        if one.kind is one.KEYWORD_ONLY
    }
    main.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined]
    main.__annotations__ = {one.name: one.annotation for one in parameters.values()}


_COMMANDS = (finetune_command.main, main)
_with_training_options()
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
app.command()(main)
