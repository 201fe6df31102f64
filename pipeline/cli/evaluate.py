"""The command `evaluate` (scripts/evaluate.py), and `evaluate tasks`."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from common.system import physical_cores
from common.terminal import say, terminal_console
from common.text import pluralize
from pipeline.cli.console import given_path, quiet_libraries, report_errors, terminal_progress
from pipeline.cli.options import Columns, Field, Revision, Split, TextTemplate, Threads
from pipeline.data.options import DataOptions
from pipeline.evaluation.config import EvaluateConfig, Evaluation, ModelResult
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.page import number, percent, summary
from pipeline.evaluation.tasks import TASKS, TasksConfig, run_tasks

# Options by their panel in --help; those without a panel come first.
reading = partial(typer.Option, rich_help_panel="Data")
running = partial(typer.Option, rich_help_panel="Running")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    data: Annotated[
        str, typer.Option(metavar="DATA", help="The held-out rows: a file as for finetune, or a Hub id.")
    ],
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="The folder of evaluation.html and results.json.")
    ],
    base: Annotated[
        str | None,
        typer.Option(
            metavar="BASE", help="The model before the tuning: a folder with safetensors, or a Hub id."
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="ADAPTER[=W]", help="What it was tuned by, as in an export; repeat it."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL", help="A whole tuned checkpoint, in place of --adapter; --base may be left out."
        ),
    ] = None,
    gguf: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="A GGUF of the tuned model, BASE.gguf::ADAPTER.gguf, or a folder of them; repeat it.",
        ),
    ] = None,
    questions: Annotated[
        str,
        typer.Option(
            metavar="FILE|N",
            help="Answer these side by side: chats, a .txt of one question a line, or the first N rows.",
        ),
    ] = str(EvaluateConfig.questions),
    force: Annotated[bool, typer.Option("--force", help="Replace the evaluation in --out.")] = False,
    json_summary: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    columns: Columns = None,
    text: TextTemplate = None,
    split: Split = None,
    revision: Revision = None,
    field: Field = None,
    train_on: Annotated[
        str | None,
        reading(
            metavar="last|all", help="The answers to measure.", show_default="as the adapter was trained"
        ),
    ] = None,
    max_length: Annotated[
        int, reading(metavar="N", help="Cut rows to this many tokens.")
    ] = EvaluateConfig.max_length,
    max_tokens: Annotated[
        int, running(metavar="N", help="The longest answer, in tokens.")
    ] = EvaluateConfig.max_tokens,
    qlora_base: Annotated[
        str | None,
        running(
            metavar="nf4",
            help="The adapter was trained on the base in 4 bits.",
            show_default="as the adapter's training.json says",
        ),
    ] = None,
    chat_template: Annotated[
        str | None,
        running(
            metavar="FILE|NAME",
            help="A Jinja file, or a name of llama.cpp's such as chatml, in place of the model's template.",
        ),
    ] = None,
    threads: Threads = None,
) -> None:
    """Compare a base, its tuned model and GGUF files of it on held-out data.

    The loss is that of the wanted answers' tokens; evaluation.html has it with the models' own answers.

    `evaluate tasks MODEL.gguf` runs standard tasks by lm-eval instead.

    Exit codes: 0 all was measured, 1 a file does not run, 2 the input is wrong.
    """
    with report_errors(after_interrupt=f"{out} is as it was before"):
        config = EvaluateConfig(
            data=data,
            out=given_path("--out", out),
            base=base,
            adapters=tuple(adapter or ()),
            model=model,
            gguf=tuple(gguf or ()),
            data_options=DataOptions(columns, text, split, revision, field),
            train_on=train_on,  # type: ignore[arg-type]  # checked by EvaluateConfig
            questions=int(questions) if questions.lstrip("-").isdecimal() else Path(questions),
            max_tokens=max_tokens,
            max_length=max_length,
            qlora_base=qlora_base,
            chat_template=chat_template,
            threads=threads if threads is not None else physical_cores(),
            force=force,
        )
        quiet_libraries()
        found = evaluate(config, terminal_progress())
        show_evaluation(found)
        if json_summary:
            say(json.dumps(summary(found), allow_nan=False))
    if found.failed:
        raise SystemExit(1)


def run(arguments: Sequence[str] | None = None, prog_name: str | None = None) -> None:
    """Run the command; `tasks` as the first word is the second one."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    name = prog_name or "evaluate.py"
    if given[:1] == ["tasks"]:
        tasks_app(given[1:], prog_name=f"{name} tasks")
    app(given, prog_name=name)


tasks_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@tasks_app.command()
def tasks(
    model: Annotated[Path, typer.Argument(metavar="MODEL.gguf", help="The GGUF to evaluate.")],
    *,
    names: Annotated[
        list[str],
        typer.Option("--tasks", metavar="TASK,...", help="Tasks of lm_eval, such as arc_easy; repeat it."),
    ],
    out: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="The folder of tasks.json.", show_default="the model's"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(metavar="N", help="Examples of each task.", show_default="all")
    ] = None,
    few_shot: Annotated[
        int | None,
        typer.Option(metavar="N", help="Solved examples before each.", show_default="the task's own"),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            metavar="BASE",
            help="The base's folder or Hub id, for its tokenizer.",
            show_default="as manifest.json beside the model says",
        ),
    ] = None,
    chat: Annotated[
        bool, typer.Option("--chat", help="Ask by the chat template, for tasks that generate, such as gsm8k.")
    ] = False,
    include: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="A folder of your own tasks, in lm_eval's YAML.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace tasks.json in --out.")] = False,
    json_summary: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    threads: Threads = None,
) -> None:
    """Run standard tasks of lm_eval on a GGUF, through a server of it that is started for them.

    lm_eval fetches the tasks' data from the Hub. It is installed by `pip install -r requirements-tasks.txt`.

    Exit codes: 0 all was measured, 1 lm_eval or the server failed, 2 the input is wrong.
    """
    with report_errors(after_interrupt="nothing was written"):
        folder = given_path("--out", out) if out is not None else model.parent
        config = TasksConfig(
            model=model,
            out=folder,
            tasks=tuple(names),
            limit=limit,
            few_shot=few_shot,
            tokenizer=tokenizer,
            chat=chat,
            include=include,
            threads=threads if threads is not None else physical_cores(),
            force=force,
        )
        quiet_libraries()
        scores = run_tasks(config, terminal_progress())
    table = Table(title=model.name, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("task", overflow="fold")
    table.add_column("metric", overflow="fold")
    table.add_column("value", justify="right")
    table.add_column("standard error", justify="right")
    for one in scores:
        error = "" if one.error is None else number(one.error)
        table.add_row(Text(one.task), Text(one.metric), number(one.value), error)
    terminal_console().print(table)
    say(f"-> {folder / TASKS}")
    if json_summary:
        say(json.dumps({"results": str(folder / TASKS), "scores": [asdict(one) for one in scores]}))


def show_evaluation(evaluation: Evaluation) -> None:
    """Print the table of the models, the notes and the page's path."""
    console = terminal_console()
    rows = pluralize(evaluation.rows, "held-out row")
    table = Table(title=rows, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("model", overflow="fold")
    for heading in ("loss (95 %)", "perplexity", "below base", "rows likelier"):
        table.add_column(heading, justify="right")
    for model in evaluation.models:
        table.add_row(Text(model.name), *_cells(model))
    console.print(table)
    for model in evaluation.failed:
        say(f"{model.name} does not run: {model.failure}", sys.stderr)
    for note in evaluation.notes:
        console.print(f"note: {note}", markup=False)
    say(f"-> {evaluation.page}")


def _cells(model: ModelResult) -> list[str]:
    found, paired = model.summary, model.paired
    if found is None:
        return ["does not run", "", "", ""]
    known = "" if math.isnan(found.low) else f" ({number(found.low, 2)}-{number(found.high, 2)})"
    return [
        f"{number(found.loss)}{known}",
        number(found.perplexity, 2),
        number(paired.gain) if paired else "",
        f"{percent(paired.share)} ({percent(paired.low)}-{percent(paired.high)})" if paired else "",
    ]
