"""The command `finetune` (scripts/finetune.py)."""

from __future__ import annotations

import json
import os
import sys
import warnings
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from common.chat_templates import OPTION, current_option
from common.terminal import say
from common.text import pluralize
from pipeline.cli.console import report_errors, terminal_progress
from pipeline.training.config import ALL_LINEAR
from pipeline.training.finetune import RECORD, FinetuneConfig, finetune

DEFAULTS = FinetuneConfig(base="-", data=Path(), out=Path())


# Options by their panel in --help; those without a panel come first.
adapter = partial(typer.Option, rich_help_panel="Adapter")
training = partial(typer.Option, rich_help_panel="Training")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command(context_settings={"token_normalize_func": current_option})
def main(
    *,
    base: Annotated[
        str, typer.Option(metavar="BASE", help="The model to tune: a folder with safetensors, or a Hub id.")
    ],
    data: Annotated[
        Path, typer.Option(metavar="FILE.jsonl", help='The chats, one {"messages": [...]} a line.')
    ],
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="The adapter's folder.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the adapter in --out.")] = False,
    json_summary: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
    rank: Annotated[int, adapter(metavar="N", help="How much it can learn.")] = DEFAULTS.rank,
    alpha: Annotated[
        float | None,
        adapter(metavar="N", help="Scales the update by alpha / rank.", show_default="2 x rank"),
    ] = None,
    dropout: Annotated[float, adapter(metavar="N", help="Dropout on its input.")] = DEFAULTS.dropout,
    target: Annotated[
        list[str] | None,
        adapter(
            metavar="LAYER", help="A layer to adapt, such as q_proj; repeat it.", show_default=ALL_LINEAR
        ),
    ] = None,
    base_name: Annotated[
        str | None,
        adapter(metavar="NAME", help="What the adapter calls its base.", show_default="the base's own name"),
    ] = None,
    chat_template: Annotated[
        str | None,
        training(
            OPTION,
            metavar="FILE|NAME",
            help="A Jinja file, or a name such as chatml, llama3 or alpaca, in place of the base's template.",
        ),
    ] = None,
    lr: Annotated[float, training(metavar="N", help="The highest learning rate.")] = DEFAULTS.learning_rate,
    schedule: Annotated[
        str, training(metavar="NAME", help="constant, linear or cosine, after the warm-up.")
    ] = DEFAULTS.schedule,
    warmup: Annotated[
        float, training(metavar="N", help="The warm-up's share of the steps.")
    ] = DEFAULTS.warmup,
    epochs: Annotated[float, training(metavar="N", help="How often each chat is seen.")] = DEFAULTS.epochs,
    steps: Annotated[
        int | None, training(metavar="N", help="Train this many steps instead of --epochs.")
    ] = None,
    batch_size: Annotated[int, training(metavar="N", help="Chats a step.")] = DEFAULTS.batch_size,
    max_length: Annotated[
        int, training(metavar="N", help="Cut chats to this many tokens.")
    ] = DEFAULTS.max_length,
    held_out: Annotated[
        float, training(metavar="N", help="The share of the chats kept to measure on.")
    ] = DEFAULTS.held_out,
    seed: Annotated[int, training(metavar="N", help="The same seed gives the same adapter.")] = DEFAULTS.seed,
    precision: Annotated[
        str,
        training(metavar="NAME", help="float32, bfloat16, or auto: what this CPU multiplies faster."),
    ] = DEFAULTS.precision,
) -> None:
    """Fine-tune a LoRA adapter on chats, on the CPU.

    The model's own chat template is used, and only the assistant's words are trained on.
    """
    with report_errors(after_interrupt=f"{out} is as it was before"):
        config = FinetuneConfig(
            base=base,
            data=data,
            out=out,
            rank=rank,
            alpha=2 * rank if alpha is None else alpha,
            dropout=dropout,
            targets=tuple(target or DEFAULTS.targets),
            learning_rate=lr,
            schedule=schedule,  # type: ignore[arg-type]  # checked by FinetuneConfig
            warmup=warmup,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            max_length=max_length,
            held_out=held_out,
            seed=seed,
            precision=precision,  # type: ignore[arg-type]  # checked by FinetuneConfig
            base_name=base_name,
            chat_template=chat_template,
            force=force,
        )
        _quiet_libraries()
        folder = finetune(config, terminal_progress())
    _print_summary(folder, json_summary)


def _quiet_libraries() -> None:
    # Their progress bars and hints would garble ours; errors are still shown.
    # PEFT would import bitsandbytes without need, which complains of missing libraries; None disables it.
    sys.modules.setdefault("bitsandbytes", None)  # type: ignore[arg-type]
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def _print_summary(folder: Path, json_summary: bool) -> None:
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
    if cut := report["truncated_chats"]:
        say(f"{pluralize(cut, 'chat was', 'chats were')} longer than --max-length and cut at the end.")
    if dropped := report["dropped_chats"]:
        say(
            f"{pluralize(dropped, 'chat was', 'chats were')} left out: no answer begins within --max-length "
            "tokens; raise it."
        )
