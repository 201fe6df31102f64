"""Merge a LoRA adapter into its base model, convert to GGUF and quantize."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

from engine.cores import physical_cores
from pipeline.config import DEFAULT_QUANTS, ExportConfig
from pipeline.run import export
from pipeline.terminal import report_errors, show_export, terminal_progress

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    *,
    base: Annotated[str, typer.Option(help="Base model: a folder with safetensors, or a Hub id.")],
    out: Annotated[Path, typer.Option(help="Folder to write to; its last part names the files.")],
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            help="Adapter: a folder or a Hub id, or ADAPTER=0.7 for a part of it. May be repeated; they are "
            "merged in order. Without it, the base alone."
        ),
    ] = None,
    quant: Annotated[
        list[str] | None,
        typer.Option(help=f"Quantization type, may be repeated. Default: {', '.join(DEFAULT_QUANTS)}."),
    ] = None,
    outtype: Annotated[str, typer.Option(help="Full precision to quantize from: f16, bf16 or f32.")] = "f16",
    keep_f16: Annotated[bool, typer.Option("--keep-f16", help="Keep the full-precision GGUF too.")] = False,
    tensor_type: Annotated[
        list[str] | None,
        typer.Option(
            help="PATTERN=TYPE for single tensors, as in 'blk.*.attn_v=q6_k'. May be repeated; the "
            "first that matches counts."
        ),
    ] = None,
    output_type: Annotated[str | None, typer.Option(help="The output matrix's type.")] = None,
    embedding_type: Annotated[str | None, typer.Option(help="The embeddings' type.")] = None,
    pure: Annotated[bool, typer.Option("--pure", help="One type for all, no mixture.")] = False,
    split_max_size: Annotated[
        str | None, typer.Option(help="Split what is larger into shards: 2G, 500M.")
    ] = None,
    calibrate: Annotated[
        Path | None,
        typer.Option(help="Chats (JSONL), best the tuning data: quantizing favours what they use."),
    ] = None,
    imatrix: Annotated[
        Path | None, typer.Option(help="The same from an importance matrix (GGUF) that is there already.")
    ] = None,
    qlora_base: Annotated[
        str | None,
        typer.Option(
            help="nf4: merge into the base rounded to 4 bits, as a QLoRA adapter was trained on it."
        ),
    ] = None,
    output_format: Annotated[
        str, typer.Option("--format", help="model, or adapter: the adapter alone as a GGUF LoRA file.")
    ] = "model",
    revision: Annotated[str | None, typer.Option(help="The base's branch, tag or commit on the Hub.")] = None,
    adapter_revision: Annotated[str | None, typer.Option(help="The same for the adapter.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads. Default: the physical cores that are really yours.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Make all anew, replacing what stands in --out.")
    ] = False,
    resume: Annotated[bool, typer.Option(help="Go on from the last finished step of an earlier run.")] = True,
    json: Annotated[
        bool, typer.Option("--json", help="Print a summary for programs as the last line.")
    ] = False,
) -> None:
    """Merge a LoRA adapter into its base model, convert to GGUF and quantize.

    Writes OUT/NAME-Q4_K_M.gguf and so on, and OUT/manifest.json. Killed at any moment, it leaves no
    half-written file, and run again it goes on from the last finished step.

    Exit codes: 0 done, 2 the input is wrong, 1 anything else.
    """
    with report_errors():
        config = ExportConfig(
            base=base,
            out=out,
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
            threads=threads if threads is not None else physical_cores(),
            force=force,
            resume=resume,
        )
        show_export(export(config, terminal_progress()), as_json=json)


if __name__ == "__main__":
    app()
