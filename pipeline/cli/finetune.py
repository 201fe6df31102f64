"""The command `finetune` (scripts/finetune.py)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import click
import typer

from common.chat_templates import OPTION, current_option
from common.terminal import say
from common.text import pluralize
from pipeline.cli.console import quiet_libraries, report_errors, terminal_progress
from pipeline.cli.options import Columns, Field, Revision, Split, TextTemplate
from pipeline.data.options import DataOptions
from pipeline.errors import InputError
from pipeline.evaluation.config import PAGE
from pipeline.progress import NoProgress
from pipeline.sources.trained_for import read_trained_for
from pipeline.training.config import ALL_LINEAR, FinetuneConfig
from pipeline.training.device import is_main_process
from pipeline.training.finetune import RECORD, finetune
from pipeline.training.recipe import RECIPE, read_recipe
from pipeline.training.recovery_job import Recovery

DEFAULTS = FinetuneConfig(base="-", data="-", out=Path())


# Options by their panel in --help; those without a panel come first.
adapter_options = partial(typer.Option, rich_help_panel="Adapter")
data_options = partial(typer.Option, rich_help_panel="Data")
training = partial(typer.Option, rich_help_panel="Training")
measuring = partial(typer.Option, rich_help_panel="Held-out loss")
running = partial(typer.Option, rich_help_panel="Running")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


def use_recipe(context: click.Context, path: Path | None) -> Path | None:
    """Make a recipe's values the defaults of the options that are not given."""
    if path is None:
        return None
    with report_errors():
        known = {
            spelling.removeprefix("--"): one
            for one in context.command.params
            for spelling in one.opts
            if one.name not in ("recipe", "help", "json_summary")
        }
        for name, value in read_recipe(path).items():
            if name not in known:
                raise InputError(
                    f"--recipe {str(path)!r} has {name!r}, which is no option: use {', '.join(sorted(known))}"
                )
            default = _recipe_value(context, known[name], value, f"--recipe {str(path)!r}: {name} {value!r}")
            context.default_map = {**(context.default_map or {}), str(known[name].name): default}
    return path


def _recipe_value(context: click.Context, option: click.Parameter, value: object, where: str) -> object:
    """Return a recipe's value as the option takes it. Raises InputError, beginning with `where`."""
    flag, repeated = bool(getattr(option, "is_flag", False)), bool(getattr(option, "multiple", False))
    values = value if repeated and isinstance(value, list) else [value]
    if not all(isinstance(one, bool) if flag else _is_scalar(one) for one in values):
        raise InputError(f"{where} is not {'true or false' if flag else 'a text or a number'}: write one")
    try:
        option.process_value(context, values if repeated else value)
    except typer.BadParameter as error:
        raise InputError(f"{where}: {error.message[:1].lower()}{error.message[1:]}") from None
    return values if repeated else value


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


@app.command(context_settings={"token_normalize_func": current_option})
def main(
    *,
    base: Annotated[
        str, typer.Option(metavar="BASE", help="The model to tune: a folder with safetensors, or a Hub id.")
    ],
    data: Annotated[
        str, typer.Option(metavar="FILE|ID", help="The data set: a file (docs/data.md), or a Hub id.")
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The adapter's folder.")],
    recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.yaml",
            help="Options from a file, such as an adapter's recipe.yaml; those given here win.",
            is_eager=True,
            callback=use_recipe,
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what is in --out.")] = False,
    json_summary: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    rank: Annotated[int, adapter_options(metavar="N", help="How much it can learn.")] = DEFAULTS.rank,
    alpha: Annotated[
        float | None,
        adapter_options(metavar="N", help="Scales the update by alpha / rank.", show_default="2 x rank"),
    ] = None,
    dropout: Annotated[float, adapter_options(metavar="N", help="Dropout on its input.")] = DEFAULTS.dropout,
    target: Annotated[
        list[str] | None,
        adapter_options(
            metavar="LAYER", help="A layer to adapt, such as q_proj; repeat it.", show_default=ALL_LINEAR
        ),
    ] = None,
    rslora: Annotated[
        bool, adapter_options("--rslora", help="Scale by alpha / sqrt(rank), for high ranks.")
    ] = False,
    dora: Annotated[
        bool, adapter_options("--dora", help="Train directions and magnitudes apart (DoRA).")
    ] = False,
    qlora: Annotated[
        str | None,
        adapter_options(metavar="nf4", help="Round the base to 4 bits first; the export does the same."),
    ] = None,
    full: Annotated[
        bool, adapter_options("--full", help="Train all weights, without an adapter; for small models.")
    ] = False,
    ternary: Annotated[
        bool, adapter_options("--ternary", help="Go on training a ternary (1.58-bit) base; --lr is 2e-4.")
    ] = False,
    adapter: Annotated[
        str | None, adapter_options(metavar="ADAPTER", help="Go on from this adapter, with its shape.")
    ] = None,
    base_name: Annotated[
        str | None,
        adapter_options(
            metavar="NAME", help="What the adapter calls its base.", show_default="the base's own name"
        ),
    ] = None,
    for_quant: Annotated[
        str | None,
        adapter_options(
            "--for",
            metavar="TYPE",
            help="Train it for the file that ships, such as Q4_0: at the end the tuned model is distilled "
            "into itself through the rounded weights.",
        ),
    ] = None,
    calibrate: Annotated[
        Path | None,
        adapter_options(metavar="FILE.jsonl", help="With --for: chats for that file's importance matrix."),
    ] = None,
    for_labels: Annotated[
        bool,
        adapter_options(
            "--for-labels",
            help="With --for: learn the data's answers through the rounded weights, not the model's words.",
        ),
    ] = False,
    columns: Columns = None,
    text: TextTemplate = None,
    split: Split = None,
    revision: Revision = None,
    field: Field = None,
    chat_template: Annotated[
        str | None,
        data_options(
            OPTION,
            metavar="FILE|NAME",
            help="A Jinja file, or a name such as chatml, llama3 or alpaca, in place of the base's template.",
        ),
    ] = None,
    train_on: Annotated[
        str, data_options(metavar="all|last", help="Learn all answers of a chat, or the last one.")
    ] = DEFAULTS.train_on,
    max_length: Annotated[
        int, data_options(metavar="N", help="Cut chats to this many tokens.")
    ] = DEFAULTS.max_length,
    packing: Annotated[
        bool, data_options("--packing", help="Fill rows of --max-length tokens with whole chats.")
    ] = False,
    lr: Annotated[
        float | None,
        training(metavar="N", help="The highest learning rate.", show_default="3e-4, or 2e-5 with --full"),
    ] = None,
    schedule: Annotated[
        str,
        training(
            metavar="NAME", help="constant, linear, cosine, cosine-restarts or plateau, after the warm-up."
        ),
    ] = DEFAULTS.schedule,
    cycles: Annotated[int, training(metavar="N", help="Cycles of cosine-restarts.")] = DEFAULTS.cycles,
    warmup: Annotated[
        float, training(metavar="N", help="The warm-up's share of the steps; plateau has none.")
    ] = DEFAULTS.warmup,
    ternary_warmup: Annotated[
        float, training(metavar="N", help="The share of the steps over which --ternary rounds more and more.")
    ] = DEFAULTS.ternary_warmup,
    epochs: Annotated[float, training(metavar="N", help="How often each chat is seen.")] = DEFAULTS.epochs,
    steps: Annotated[
        int | None, training(metavar="N", help="Train this many steps instead of --epochs.")
    ] = None,
    batch_size: Annotated[int, training(metavar="N", help="Chats in memory at once.")] = DEFAULTS.batch_size,
    accumulate: Annotated[
        int, training(metavar="N", help="Batches a step (gradient accumulation).")
    ] = DEFAULTS.accumulate,
    weight_decay: Annotated[float, training(metavar="N", help="AdamW's.")] = DEFAULTS.weight_decay,
    max_grad_norm: Annotated[
        float, training(metavar="N", help="Clip gradients to this norm; 0 does not.")
    ] = DEFAULTS.max_grad_norm,
    neftune: Annotated[
        float, training(metavar="ALPHA", help="Noise on the embeddings (NEFTune), such as 5.")
    ] = DEFAULTS.neftune,
    optimizer: Annotated[
        str, training(metavar="NAME", help="adamw, adamw-8bit, paged-adamw or paged-adamw-8bit.")
    ] = DEFAULTS.optimizer,
    checkpointing: Annotated[
        bool, training("--checkpointing", help="Less memory, a third more time (gradient checkpointing).")
    ] = False,
    seed: Annotated[int, training(metavar="N", help="The same seed gives the same adapter.")] = DEFAULTS.seed,
    held_out: Annotated[
        float, measuring(metavar="N", help="The share of the chats kept to measure on.")
    ] = DEFAULTS.held_out,
    valid: Annotated[
        str | None, measuring(metavar="FILE|ID", help="Held-out chats, in place of --held-out.")
    ] = None,
    eval_every: Annotated[
        int | None, measuring(metavar="N", help="Measure each N steps; else before and after.")
    ] = None,
    early_stopping: Annotated[
        int | None, measuring(metavar="N", help="Stop after N measures without gain; keep the best weights.")
    ] = None,
    answers: Annotated[
        int, measuring(metavar="N", help="Held-out chats to answer before and after, side by side.")
    ] = DEFAULTS.answers,
    precision: Annotated[
        str,
        running(metavar="NAME", help="float32, bfloat16, float16, or auto: what multiplies faster here."),
    ] = DEFAULTS.precision,
    device: Annotated[str, running(metavar="NAME", help="auto, cpu, cuda or mps.")] = DEFAULTS.device,
    threads: Annotated[
        int | None,
        running(
            metavar="N", help="Threads of the CPU.", show_default="the physical cores that are really yours"
        ),
    ] = None,
    save_every: Annotated[
        int | None,
        running(
            metavar="N", help="Save a checkpoint each N steps; 0 does not.", show_default="about a minute"
        ),
    ] = None,
    resume: Annotated[
        bool, running("--resume/--no-resume", help="Go on from the last checkpoint of the same training.")
    ] = True,
    track: Annotated[
        list[str] | None, running(metavar="NAME", help="Report to trackio, tensorboard or wandb; repeat it.")
    ] = None,
) -> None:
    """Fine-tune a LoRA adapter on chats or texts, on a CPU or a GPU.

    The model's own chat template is used, and only the assistant's words are trained on.
    """
    values = locals()
    with report_errors(after_interrupt=GO_ON):
        config = config_of(values)
        quiet_libraries()
        folder = finetune(config, terminal_progress() if is_main_process() else NoProgress())
    if is_main_process():
        print_summary(folder, json_summary)


def config_of(values: Mapping[str, Any]) -> FinetuneConfig:
    """Return the configuration of the options' values. Raises InputError."""
    own = {name: values[name] for name in (one.name for one in fields(FinetuneConfig)) if name in values}
    rank, alpha = values["rank"], values["alpha"]
    for name in ("base", "data"):
        if not str(values[name]).strip():
            raise InputError(f"--{name} is empty: give a folder, a file or a Hub id")
    out = values["out"]
    if out.name in ("", ".."):  # as "." is
        own["out"] = out.resolve()
        if not own["out"].name:
            raise InputError(f"--out {str(out)!r} names no folder to make: give its name")
    return FinetuneConfig(
        **{**own, "alpha": 2 * rank if alpha is None else alpha},
        targets=tuple(values["target"] or DEFAULTS.targets),
        learning_rate=values["lr"],
        data_options=DataOptions(*(values[one.name] for one in fields(DataOptions))),
        trackers=tuple(values["track"] or ()),
    )


_FEW_STEPS = 50
"""After fewer, an adapter of the default rate has hardly learned."""

GO_ON = "run the same command again to go on from the last checkpoint"


def print_summary(folder: Path, json_summary: bool) -> None:
    """Print the results of a training, or one line of JSON."""
    report: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))["report"]
    if json_summary:
        say(json.dumps({"adapter": str(folder), **report}))
        return
    say(
        f"{pluralize(report['steps'], 'step')} on {pluralize(report['train_chats'], 'chat')} "
        f"in {report['seconds']:.0f} s -> {folder}"
    )
    say(f"Loss on trained chats    {report['train_loss_before']:.3f} -> {report['train_loss']:.3f}")
    if report["held_out_loss"] is not None:
        say(f"Loss on held-out chats   {report['held_out_loss_before']:.3f} -> {report['held_out_loss']:.3f}")
        _print_held_out(report["evaluation"], folder)
    if report["best_step"] not in (None, report["steps"]):
        say(f"The weights are those of step {report['best_step']}, the best on held-out chats.")
    if report["steps"] < _FEW_STEPS and not report["best_step"]:
        few = pluralize(report["steps"], "step is", "steps are")
        say(f"note: {few} few: with little data, --epochs 10 --lr 1e-3 learn more")
    if cut := report["truncated_chats"]:
        say(f"{pluralize(cut, 'chat was', 'chats were')} longer than --max-length and cut at the end.")
    if dropped := report["dropped_chats"]:
        say(
            f"{pluralize(dropped, 'chat was', 'chats were')} left out: no answer begins within --max-length "
            "tokens; raise it."
        )
    for note in report.get("notes") or ():
        say(f"note: {note}")
    _print_trained_for(folder)


def _print_trained_for(folder: Path) -> None:
    """Say what training for a quantized file gained, or that it gained nothing."""
    wanted = read_recipe(folder / RECIPE).get("for") if (folder / RECIPE).is_file() else None
    if (record := read_trained_for(folder)) is not None:
        say(Recovery(**record.recovery, seconds=0).describe(record.quant))
    elif wanted:
        say(
            f"note: training for {wanted} gained nothing beyond chance on the held-out chats; this is the "
            "adapter before"
        )


def _print_held_out(evaluation: Mapping[str, Any], folder: Path) -> None:
    tuned, paired = evaluation["tuned"], evaluation["paired"]
    if tuned["low"] is not None:
        say(f"  95 % interval          {tuned['low']:.3f} to {tuned['high']:.3f}")
    say(f"  perplexity             {evaluation['base']['perplexity']:.2f} -> {tuned['perplexity']:.2f}")
    say(f"  wanted answer likelier in {paired['better']} of {pluralize(paired['rows'], 'chat')}")
    for name, one in evaluation["categories"].items():
        say(f"  {name}: {one['base']['loss']:.3f} -> {one['tuned']['loss']:.3f}")
    say(f"  answers side by side   {folder / PAGE}")
