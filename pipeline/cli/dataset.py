"""The command `dataset` (scripts/dataset.py): inspect, convert, render and split data sets."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, cast

import typer

from common.chat_templates import read_template
from common.files import write_atomically
from common.terminal import say, terminal_console
from common.text import pluralize
from pipeline.cli.console import given_path, quiet_libraries, report_errors
from pipeline.cli.dataset_tables import print_row, print_summary, print_tokens
from pipeline.cli.options import Columns, Field, Revision, Split, TextTemplate
from pipeline.data.encoding import TrainOn, encode_row, require_train_on
from pipeline.data.inspection import count_tokens, overlaps, summarize
from pipeline.data.options import DataOptions
from pipeline.data.reader import DataSet, load_data
from pipeline.data.rows import Chat, Row, to_jsonl
from pipeline.data.split_folder import write_split
from pipeline.data.stratified_split import SplitOptions
from pipeline.errors import InputError
from pipeline.sources.model_source import base_source
from pipeline.training.base_model import load_tokenizer

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
)

data_panel = partial(typer.Option, rich_help_panel="Data")
model = partial(typer.Option, rich_help_panel="Model")

File = Annotated[
    str,
    typer.Argument(metavar="FILE", help="JSONL, JSON, CSV, TSV, Parquet (or .gz), a folder, or owner/name."),
]
Files = Annotated[list[str], typer.Argument(metavar="FILE...", hidden=True)]
Base = Annotated[
    str | None, model(metavar="BASE", help="The model whose tokens count: a folder, or a Hub id.")
]
Template = Annotated[
    str | None,
    model(
        "--template", "--chat-template", metavar="FILE|NAME", help="A chat template in place of the base's."
    ),
]
TrainOnOption = Annotated[str, model(metavar="all|last", help="The answers of a chat that are trained on.")]
Force = Annotated[bool, typer.Option("--force", help="Replace what is at --out.")]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]


@app.callback()
def main() -> None:
    """Look into data sets, convert them to JSON Lines, and split them."""
    quiet_libraries()


@app.command()
def inspect(
    files: Files,
    *,
    base: Base = None,
    template: Template = None,
    max_length: Annotated[int, model(metavar="N", help="Where training would cut, in tokens.")] = 1024,
    train_on: TrainOnOption = "all",
    columns: Columns = None,
    text: TextTemplate = None,
    split: Split = None,
    revision: Revision = None,
    field: Field = None,
    as_json: Json = False,
) -> None:
    """Show what is in data sets: forms, roles, lengths, copies within and between them, and a rendered row.

    A FILE is JSONL, JSON, CSV, TSV, Parquet (or .gz of one), a folder, or a name on the Hub (owner/name).

    Without --base, lengths are in characters and no row is rendered.
    """
    with report_errors():
        options = DataOptions(columns, text, split, revision, field)
        require_train_on(train_on)
        _require_different(files)
        loaded = {name: load_data(name, options) for name in files}
        tokenizer = _tokenizer(base, template, [row for data in loaded.values() for row in data.rows])
        trained = cast(TrainOn, train_on)
        summaries = [
            summarize(
                name,
                data,
                count_tokens(data.rows, tokenizer, max_length, trained) if tokenizer is not None else None,
            )
            for name, data in loaded.items()
        ]
        shared = overlaps({name: data.rows for name, data in loaded.items()})
        if as_json:
            pairs = [
                {"files": [one, other], "rows": same, "questions": asked}
                for one, other, same, asked in shared
            ]
            say(json.dumps({"files": [asdict(summary) for summary in summaries], "overlaps": pairs}))
            return
        console = terminal_console()
        for summary in summaries:
            print_summary(console, summary)
        for one, other, same, asked in shared:
            say(
                f"{other} has {pluralize(same, 'row')} of {one}"
                + (f", and {pluralize(asked, 'row')} with a question of it" if asked > same else "")
            )
        if tokenizer is not None:
            _show_first(console, tokenizer, loaded, trained)


@app.command()
def convert(
    file: File,
    *,
    out: Annotated[str, typer.Option(metavar="OUT.jsonl", help="The file to write.")],
    columns: Columns = None,
    text: TextTemplate = None,
    split: Split = None,
    revision: Revision = None,
    field: Field = None,
    force: Force = False,
) -> None:
    """Write a data set as JSON Lines: {"messages": [...]} a chat, {"text": ...} a plain text."""
    with report_errors():
        target = given_path("--out", out)
        if target.is_dir() or (target.exists() and not force):
            raise InputError(
                f"--out {out!r} "
                + (
                    "is a folder: name a file"
                    if target.is_dir()
                    else "exists: choose another, or give --force"
                )
            )
        if not target.absolute().parent.is_dir():
            raise InputError(f"--out {out!r}: the folder {target.parent} does not exist: make it first")
        data = load_data(file, DataOptions(columns, text, split, revision, field))
        write_atomically(target, to_jsonl(data.rows, field))
        for note in data.notes:
            say(f"note: {note}")
        say(f"{pluralize(len(data.rows), 'row')} of {file} -> {target}")


@app.command()
def render(
    file: File,
    *,
    base: Annotated[str, model(metavar="BASE", help="The model: a folder, or a Hub id.")],
    row: Annotated[int, typer.Option(metavar="N", help="Which row, counted from 1.")] = 1,
    template: Template = None,
    train_on: TrainOnOption = "all",
    columns: Columns = None,
    text: TextTemplate = None,
    split: Split = None,
    revision: Revision = None,
    as_json: Json = False,
) -> None:
    """Show a row as the model is trained on it: its text and its tokens, with the trained part marked."""
    with report_errors():
        require_train_on(train_on)
        rows = load_data(file, DataOptions(columns, text, split, revision)).rows
        if not 1 <= row <= len(rows):
            raise InputError(f"--row {row} is out of range: {file} has {pluralize(len(rows), 'row')}")
        chosen = rows[row - 1]
        tokenizer = _tokenizer(base, template, [chosen])
        example = encode_row(tokenizer, chosen, 2**62, train_on=cast(TrainOn, train_on))
        if as_json:
            say(json.dumps({"where": chosen.where, "input_ids": example.input_ids, "labels": example.labels}))
            return
        console = terminal_console()
        print_row(console, tokenizer, chosen, example)
        print_tokens(console, tokenizer, example)


@app.command("split")
def split_command(
    files: Files,
    *,
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="The folder of train.jsonl, valid.jsonl, test.jsonl.")
    ],
    ratio: Annotated[
        list[str] | None,
        typer.Option(metavar="CATEGORY=SHARE", help="A category's share of the total; repeat it."),
    ] = None,
    total: Annotated[
        int | None, typer.Option(metavar="N", help="Rows in all parts.", show_default="as many as possible")
    ] = None,
    valid: Annotated[
        str, typer.Option(metavar="SHARE", help="The share for validation.")
    ] = SplitOptions.valid,
    test: Annotated[str, typer.Option(metavar="SHARE", help="The share for the test.")] = SplitOptions.test,
    seed: Annotated[
        int, typer.Option(metavar="N", help="The same seed gives the same files.")
    ] = SplitOptions.seed,
    columns: Columns = None,
    text: TextTemplate = None,
    hub_split: Split = None,
    revision: Revision = None,
    field: Annotated[
        str | None,
        data_panel(
            metavar="COLUMN",
            help="The column that is a row's category.",
            show_default="the file's name, of several",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Split data sets into train, valid and test, each with the same proportions of the categories.

    A FILE is JSONL, JSON, CSV, TSV, Parquet (or .gz of one), a folder, or a name on the Hub (owner/name).

    Copies of a row are taken once. split.json has the counts, the options, and hashes of all files.
    """
    with report_errors(after_interrupt=f"{out} is as it was before"):
        options = SplitOptions(tuple(ratio or ()), total, valid, test, seed)
        _require_different(files)
        record = write_split(
            files,
            DataOptions(columns, text, hub_split, revision, field),
            options,
            given_path("--out", out),
            force=force,
        )
        if as_json:
            say(json.dumps({"folder": out, **record}))
            return
        for note in record["notes"]:
            say(f"note: {note}")
        for name, part in record["outputs"].items():
            shown = ", ".join(
                f"{category or 'all'} {count}" for category, count in part["categories"].items()
            )
            say(f"{Path(out) / name}: {pluralize(part['rows'], 'row')} ({shown})")


def _require_different(files: list[str]) -> None:
    paths = [Path(name).resolve() for name in files]
    if twice := next((name for name, path in zip(files, paths, strict=True) if paths.count(path) > 1), None):
        raise InputError(f"{twice} is given twice: name each data set once")


def _show_first(console: Any, tokenizer: Any, loaded: dict[str, DataSet], train_on: TrainOn) -> None:
    for data in loaded.values():
        for row in data.rows:
            try:
                example = encode_row(tokenizer, row, 2**62, train_on=train_on)
            except InputError:
                continue
            print_row(console, tokenizer, row, example)
            return


def _tokenizer(base: str | None, template: str | None, rows: list[Row]) -> Any:
    """Load the base's tokenizer; None without a base. Raises InputError if chats have no template."""
    if base is None:
        if template is not None:
            raise InputError("--template is of no use without --base: name the model")
        return None
    given = read_template(template) if template is not None else None
    needs_template = any(isinstance(row, Chat) for row in rows)
    return load_tokenizer(base_source(base), given, needs_template=needs_template)
