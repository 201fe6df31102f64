"""The command `recover` (scripts/recover.py): an export whose files keep more of the tuning."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, cast

import typer

from common.system import physical_cores
from pipeline.cli.console import (
    RESUME_HINT,
    given_path,
    quiet_libraries,
    report_errors,
    show_export,
    terminal_progress,
)
from pipeline.cli.export import Evaluation
from pipeline.cli.options import Columns, Threads
from pipeline.data.options import DataOptions
from pipeline.exporter.config import MODEL, ExportConfig
from pipeline.exporter.run import export
from pipeline.training.config import Device, Precision
from pipeline.training.recovery_config import MAX_STEPS, RecoveryOptions

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
DEFAULT_QUANT = "Q4_K_M"
DEFAULTS = RecoveryOptions()
learning = partial(typer.Option, rich_help_panel="Learning")
types = partial(typer.Option, rich_help_panel="Types")
running = partial(typer.Option, rich_help_panel="Running")


@app.command()
def main(
    *,
    base: Annotated[str, typer.Option(metavar="BASE", help="The adapter's base: a folder or a Hub id.")],
    adapter: Annotated[str, typer.Option(metavar="ADAPTER", help="A LoRA adapter: a folder or a Hub id.")],
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Where the GGUF files go; it names them.")],
    quant: Annotated[
        list[str] | None,
        typer.Option(metavar="TYPE", help="The file to train for; repeat it.", show_default=DEFAULT_QUANT),
    ] = None,
    chats: Annotated[
        str | None,
        learning(
            metavar="FILE|ID",
            help="Chats to learn on, best the tuning data; without, the model's own answers to questions.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        learning(metavar="FILE.txt", help="Questions of your own, one a line, for those answers."),
    ] = None,
    columns: Columns = None,
    labels: Annotated[
        bool,
        learning("--labels", help="Learn the chats' answers, not the tuned model's words; for experts."),
    ] = False,
    steps: Annotated[
        int | None, learning(metavar="N", help="Steps at most.", show_default=str(MAX_STEPS))
    ] = None,
    rank: Annotated[
        int | None,
        learning(metavar="N", help="Give the adapter N more dimensions first, in every linear layer."),
    ] = None,
    lr: Annotated[float, learning(metavar="N", help="The highest learning rate.")] = DEFAULTS.learning_rate,
    batch_size: Annotated[int, learning(metavar="N", help="Chats a step.")] = DEFAULTS.batch_size,
    max_length: Annotated[
        int, learning(metavar="N", help="Cut chats to this many tokens.")
    ] = DEFAULTS.max_length,
    held_out: Annotated[
        float, learning(metavar="N", help="The share of the chats that says when to stop.")
    ] = DEFAULTS.held_out,
    seed: Annotated[int, learning(metavar="N", help="The same seed gives the same files.")] = DEFAULTS.seed,
    precision: Annotated[
        str, learning(metavar="NAME", help="float32, bfloat16 or auto.")
    ] = DEFAULTS.precision,
    device: Annotated[str, learning(metavar="NAME", help="auto, cpu or cuda.")] = DEFAULTS.device,
    output_format: Annotated[
        str,
        types(
            "--format",
            metavar="model|base+adapter",
            help="base+adapter: the quantized base, and the adapter beside it, unrounded.",
        ),
    ] = MODEL,
    calibrate: Annotated[
        Path | None,
        types(metavar="FILE.jsonl", help="Chats for an importance matrix; training goes through it too."),
    ] = None,
    imatrix: Annotated[Path | None, types(metavar="FILE.gguf", help="An importance matrix.")] = None,
    outtype: Annotated[str, types(metavar="f16|bf16|f32", help="Full precision to quantize from.")] = "f16",
    verify: Annotated[
        str, running(metavar="off|fast|full", help="How deeply to check the files that were made.")
    ] = "fast",
    evaluation: Evaluation = None,
    threads: Threads = None,
    force: Annotated[bool, running("--force", help="Make all anew, replacing what stands in --out.")] = False,
    resume: Annotated[
        bool, running("--resume/--no-resume", help="Go on from where an earlier run was interrupted.")
    ] = True,
    json: Annotated[bool, running("--json", help="Print a summary for programs as the last line.")] = False,
) -> None:
    """Train a finished adapter for the quantized file that ships, export it, and certify it.

    Rounding takes part of a tuning away. This distils the tuned model into its own adapter through the
    rounded weights, until a held-out part gains no more; no labels are needed, and the file does not grow.

    Writes OUT/NAME-TYPE.gguf (with --format base+adapter two files: OUT/NAME-base-TYPE.gguf and
    NAME-TYPE-LoRA-F16.gguf), judged against the model before; the adapters go to NAME-recovery beside it.

    Exit codes: 0 done, 2 the input is wrong, 1 anything else, such as a certificate that failed.
    """
    with report_errors(RESUME_HINT):
        options = RecoveryOptions(
            data=chats,
            data_options=DataOptions(columns=columns),
            prompts=prompts,
            steps=steps,
            learning_rate=lr,
            batch_size=batch_size,
            max_length=max_length,
            held_out=held_out,
            labels=labels,
            rank=rank,
            seed=seed,
            precision=cast(Precision, precision),  # checked there
            device=cast(Device, device),
        )
        config = ExportConfig(
            base=base,
            out=given_path("--out", out),
            adapters=(adapter,),
            quants=tuple(quant or (DEFAULT_QUANT,)),
            format=output_format,
            outtype=outtype,
            calibrate=calibrate,
            imatrix=imatrix,
            recover=options,
            verify=verify,
            evaluation=evaluation,
            threads=threads if threads is not None else physical_cores(),
            force=force,
            resume=resume,
        )
        quiet_libraries()
        result = export(config, terminal_progress())
        show_export(result, as_json=json)
    if result.certificate is not None and result.certificate.status == "fail":
        raise SystemExit(1)
