"""The commands `export` (scripts/export_gguf.py) and `certify`."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from common.chat_templates import OPTION, current_option
from common.system import physical_cores
from pipeline.certificate.runner.external import ExternalCheck, certify_file
from pipeline.cli.console import (
    RESUME_HINT,
    certificate_path,
    given_path,
    report_errors,
    show_certificate,
    show_export,
    terminal_progress,
)
from pipeline.cli.options import Threads
from pipeline.exporter.certify_step import save_certificate
from pipeline.exporter.config import AUTO_OUTTYPE, DEFAULT_QUANTS, ExportConfig
from pipeline.exporter.run import export
from pipeline.training.recovery_config import OWN_ANSWERS, RecoveryOptions

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

# Options by their panel in --help; those without a panel come first.
types = partial(typer.Option, rich_help_panel="Types")
checks = partial(typer.Option, rich_help_panel="Checks")
running = partial(typer.Option, rich_help_panel="Running")

ChatTemplateOption = Annotated[
    str | None,
    typer.Option(
        OPTION,
        metavar="FILE|NAME",
        help="A Jinja file, or a name such as chatml, llama3 or alpaca, in place of the model's template.",
    ),
]
Evaluation = Annotated[
    Path | None, checks("--eval", metavar="FILE.jsonl", help="Your own chats to check the files with.")
]


@app.command(context_settings={"token_normalize_func": current_option})
def main(
    *,
    base: Annotated[
        str, typer.Option(metavar="BASE", help="Base model: a folder with safetensors, or a Hub id.")
    ],
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="Where to write; its last part names the files.")
    ],
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADAPTER[=W]",
            help="Adapter: a folder or a Hub id, with =0.7 for a part of it. May be repeated; they are "
            "merged in order. Without it, the base alone.",
        ),
    ] = None,
    qlora_base: Annotated[
        str | None,
        typer.Option(
            metavar="nf4",
            help="Merge into the base rounded to 4 bits, as a QLoRA adapter was trained on it. "
            "Those of finetune.py say so themselves.",
        ),
    ] = None,
    output_format: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="base+adapter: the quantized base, and the adapter beside it, unrounded. adapter: that "
            "alone, as a GGUF LoRA file. merged: a safetensors checkpoint.",
        ),
    ] = "model",
    revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="The base's branch, tag or commit on the Hub.")
    ] = None,
    adapter_revision: Annotated[
        str | None, typer.Option(metavar="NAME", help="The same for the adapter.")
    ] = None,
    chat_template: ChatTemplateOption = None,
    quant: Annotated[
        list[str] | None,
        types(
            metavar="TYPE",
            help="Any of llama.cpp's, or auto; may be repeated.",
            show_default=", ".join(DEFAULT_QUANTS),
        ),
    ] = None,
    prefer: Annotated[
        str,
        types(
            metavar="size|speed",
            help="With --quant auto: the smallest type that keeps the tuning, or the fastest.",
        ),
    ] = "size",
    max_size: Annotated[
        str | None,
        types(
            metavar="SIZE",
            help="With --quant auto: the best file of at most this size, 900M or 1.2G, with a type for each "
            "tensor by what rounding it costs this model.",
        ),
    ] = None,
    max_bpw: Annotated[
        str | None, types(metavar="BITS", help="The same by bits a weight, as in 4.5.")
    ] = None,
    outtype: Annotated[
        str,
        types(
            metavar="f16|bf16|f32",
            help="Full precision to quantize from, or of a merged checkpoint.",
            show_default="f16; merged: the base's",
        ),
    ] = AUTO_OUTTYPE,
    keep_f16: Annotated[bool, types("--keep-f16", help="Keep the full-precision GGUF too.")] = False,
    tensor_type: Annotated[
        list[str] | None,
        types(
            metavar="PATTERN=TYPE",
            help="For single tensors, as in 'blk.*.attn_v=q6_k'. May be repeated; the first that matches "
            "counts.",
        ),
    ] = None,
    output_type: Annotated[str | None, types(metavar="TYPE", help="The output matrix's type.")] = None,
    embedding_type: Annotated[str | None, types(metavar="TYPE", help="The embeddings' type.")] = None,
    pure: Annotated[bool, types("--pure", help="One type for all, no mixture.")] = False,
    calibrate: Annotated[
        Path | None,
        types(
            metavar="FILE.jsonl",
            help="Chats, best the tuning data: quantizing favours what they use.",
        ),
    ] = None,
    imatrix: Annotated[
        Path | None,
        types(metavar="FILE.gguf", help="The same from an importance matrix that is there already."),
    ] = None,
    recover: Annotated[
        str | None,
        types(
            metavar="FILE|own",
            help="Train the adapter for each quantized file, on these chats or its own answers "
            "(recover.py has more options).",
        ),
    ] = None,
    split_max_size: Annotated[
        str | None,
        types(
            metavar="SIZE",
            help="Split what is larger into shards: 2G, 500M.",
            show_default="merged: 5G",
        ),
    ] = None,
    verify: Annotated[
        str, checks(metavar="off|fast|full", help="How deeply to check the files that were made.")
    ] = "fast",
    evaluation: Evaluation = None,
    threads: Threads = None,
    force: Annotated[bool, running("--force", help="Make all anew, replacing what stands in --out.")] = False,
    resume: Annotated[
        bool, running("--resume/--no-resume", help="Go on from the last finished step of an earlier run.")
    ] = True,
    json: Annotated[bool, running("--json", help="Print a summary for programs as the last line.")] = False,
) -> None:
    """Merge a LoRA adapter into its base model, convert to GGUF and quantize.

    Writes OUT/NAME-Q4_K_M.gguf and so on, and OUT/manifest.json, which says what they were made of.

    Killed at any moment, it leaves no half-written file; run again, it goes on from the last finished step.

    What was made is held against the model that was tuned: OUT/certificate.json (docs/certificate.md).

    To check a file that someone else made: export_gguf.py certify FILE.gguf; see its --help.

    Exit codes: 0 done, 2 the input is wrong, 1 anything else, such as a certificate that failed.
    """
    with report_errors(RESUME_HINT):
        config = ExportConfig(
            base=base,
            out=given_path("--out", out),
            adapters=tuple(adapter or ()),
            quants=tuple(quant) if quant else DEFAULT_QUANTS,
            outtype=outtype,
            keep_f16=keep_f16,
            revision=revision,
            adapter_revision=adapter_revision,
            qlora_base=qlora_base,
            format=output_format,
            tensor_type=tuple(tensor_type or ()),
            output_type=output_type,
            embedding_type=embedding_type,
            pure=pure,
            split_max_size=split_max_size,
            calibrate=calibrate,
            imatrix=imatrix,
            recover=None if recover is None else RecoveryOptions(None if recover == OWN_ANSWERS else recover),
            prefer=prefer,
            max_size=max_size,
            max_bpw=max_bpw,
            verify=verify,
            evaluation=evaluation,
            chat_template=chat_template,
            threads=threads if threads is not None else physical_cores(),
            force=force,
            resume=resume,
        )
        result = export(config, terminal_progress())
        show_export(result, as_json=json)
    if result.certificate is not None and result.certificate.status == "fail":
        raise SystemExit(1)


certify_app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@certify_app.command(context_settings={"token_normalize_func": current_option})
def certify(
    file: Annotated[Path, typer.Argument(metavar="FILE.gguf", help="The GGUF to check, of any type.")],
    *,
    reference: Annotated[
        str,
        typer.Option(metavar="MODEL", help="What it was made of: a folder with a tokenizer, or a Hub id."),
    ],
    base: Annotated[
        str | None,
        typer.Option(
            metavar="BASE",
            help="The base's checkpoint, for the weights.",
            show_default="the reference, if it has weights",
        ),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(metavar="ADAPTER[=W]", help="What was merged into the base, as in an export."),
    ] = None,
    out: Annotated[
        str | None, typer.Option(metavar="FILE.json", help="Write the certificate to this file.")
    ] = None,
    chat_template: ChatTemplateOption = None,
    verify: Annotated[str, checks(metavar="fast|full", help="How deeply to check.")] = "fast",
    evaluation: Evaluation = None,
    strict: Annotated[
        bool,
        checks("--strict", help="A warning counts as a failure, as from a check that could not be made."),
    ] = False,
    threads: Threads = None,
) -> None:
    """Hold a GGUF that someone else made against the model that it was made of.

    Exit codes: 0 it passed, 1 it failed, 2 the input is wrong.
    """
    with report_errors("nothing was written"):
        target = None if out is None else certificate_path(out)
        wanted = ExternalCheck(
            file=file,
            reference=reference,
            base=base,
            adapters=tuple(adapter or ()),
            verify=verify,
            evaluation=evaluation,
            threads=threads if threads is not None else physical_cores(),
            chat_template=chat_template,
        )
        certificate = certify_file(wanted, terminal_progress())
        show_certificate(certificate)
        if target is not None:
            save_certificate(certificate, target)
    passed = certificate.status == "pass" if strict else certificate.status != "fail"
    raise SystemExit(0 if passed else 1)


def run_script() -> None:
    """Run scripts/export_gguf.py: `certify` as the first word is the second command."""
    if sys.argv[1:2] == ["certify"]:  # without it, all options belong to the export
        certify_app(sys.argv[2:], prog_name="export_gguf.py certify")
    app()
