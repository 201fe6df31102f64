"""The command `inspect`: how a model's tensors are stored, and what each type makes of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from common.terminal import terminal_console
from ggufio.ggml import Floats, ggml_type_named
from pipeline.cli.console import report_errors
from pipeline.errors import InputError
from pipeline.quantize.grid_survey import distinct_levels, grid_of
from pipeline.quantize.imatrix_file import read_imatrix
from pipeline.quantize.inspection import (
    TYPES,
    BlockView,
    Weights,
    block_view,
    float_bits,
    measure,
    rounded,
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
_SHOWN = 8  # numbers of a block
_FLOATS = ("F32", "F16", "BF16")
_ALL = ("F32", *TYPES)


@app.command()
def main(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A .gguf file, or a checkpoint's folder.")],
    tensor: Annotated[str, typer.Option(help="Measure each type's error on this matrix.")] = "",
    block: Annotated[int | None, typer.Option(help="Show a block of --tensor in --type, from 0 on.")] = None,
    kind: Annotated[str, typer.Option("--type", help="The type of --block: Q4_0, Q4_K, F16, ...")] = "Q4_0",
    imatrix: Annotated[
        Path | None, typer.Option(help="An importance matrix: errors weighted by it, with and without.")
    ] = None,
) -> None:
    """Show how a model's tensors are stored, and how each type would round one of them.

    Errors are relative: the root mean square of the rounding error divided by that of the numbers.
    """
    with report_errors():
        console = terminal_console(soft_wrap=True, highlight=False)
        if (block is not None or imatrix is not None) and not tensor:
            raise InputError("--block and --imatrix are of one tensor: add --tensor NAME")
        weights = Weights(file)
        if not tensor:
            _print_types(console, file, weights)
            return
        rows = weights.sample(tensor)
        if block is None:
            _print_errors(console, weights, tensor, rows, _importance(imatrix, tensor, rows))
        else:
            _print_block(console, rows, _type(kind), block)


def _type(name: str) -> str:
    if name.upper() not in _ALL:
        raise InputError(f"--type {name!r} is not shown: use one of {', '.join(_ALL)}")
    return name.upper()


def _importance(path: Path | None, tensor: str, rows: Floats) -> Floats | None:
    """Return the importance of the tensor's columns, [width]. Raises InputError."""
    if path is None:
        return None
    found = read_imatrix(path).importance().get(tensor)
    if found is None or found.shape[-1] != rows.shape[1]:
        raise InputError(
            f"--imatrix {path.name} has nothing for {tensor}: use the names of the GGUF's tensors"
        )
    values: Floats = np.ascontiguousarray(found.reshape(-1, rows.shape[1])[0])
    return values


def _table(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(Text(heading), justify="left" if heading == "type" else "right")
    return table


def _print_types(console: Console, file: Path, weights: Weights) -> None:
    table = _table("type", "tensors", "numbers", "bits a number")
    for kind, count, numbers, bits in weights.types():
        table.add_row(kind, str(count), f"{numbers:,}", f"{bits:g}")
    console.print(Text(file.name))
    console.print(table)


def _print_errors(
    console: Console, weights: Weights, tensor: str, rows: Floats, importance: Floats | None
) -> None:
    kind, shape = weights.tensors[tensor]
    console.print(
        Text(f"{tensor}: {kind}, {' x '.join(map(str, shape))}, {rows.min():.4g} to {rows.max():.4g}")
    )
    if rows.shape[1] % 32 == 0:
        grid = grid_of(rows[:8])
        on_grid = f": the weights lie on {grid}'s grid" if grid else ""
        console.print(Text(f"At most {distinct_levels(rows)} values in a block of 32{on_grid}."))
    headings = ("type", "bits a number", "block", "error")
    table = _table(*headings, *(("weighted", "with imatrix") if importance is not None else ()))
    for found in measure(rows, importance):
        cells = [found.kind.name, f"{found.kind.bits:g}", str(found.kind.block), f"{found.relative:.3%}"]
        if found.weighted is not None and found.calibrated is not None:
            cells += [f"{found.weighted:.3%}", f"{found.calibrated:.3%}"]
        table.add_row(*cells)
    console.print(table)


def _print_block(console: Console, rows: Floats, kind: str, index: int) -> None:
    if kind in _FLOATS:
        _print_floats(console, rows.ravel()[32 * index :][:_SHOWN], kind)
        return
    view = block_view(rows, ggml_type_named(kind), index)
    console.print(Text(f"{kind}: {view.kind.block} numbers in {view.kind.size} bytes"))
    _print_scales(console, view)
    table, codes = _table("number", "code", "rounded", "error"), view.codes
    for i in range(_SHOWN):
        number, after = float(view.numbers[i]), float(view.rounded[i])
        code = str(codes[i]) if codes is not None else "-"
        table.add_row(f"{number:.5f}", code, f"{after:.5f}", f"{after - number:+.5f}")
    console.print(table)


def _print_scales(console: Console, view: BlockView) -> None:
    found = view.blocks
    if found is None:
        return
    zeros = ["-" if not np.isfinite(zero) else f"{zero:.3g}" for zero in found.zero_point]
    how = "symmetric" if found.symmetric else "asymmetric"
    console.print(Text(f"{len(found.step)} x {found.length} numbers of {found.codes} codes, {how}"))
    table = _table("scale", "minimum", "zero point")
    for step, low, zero in zip(found.step, found.minimum, zeros, strict=True):
        table.add_row(f"{step:.6f}", f"{low:.6f}", zero)
    console.print(table)


def _print_floats(console: Console, values: Floats, kind: str) -> None:
    table = _table("number", "sign", "exponent", "fraction", "stored", "error")
    after = rounded(values.reshape(1, -1), ggml_type_named(kind)).ravel().tolist()
    for value, stored in zip(values.tolist(), after, strict=True):
        error = f"{abs(stored / value - 1):.1e}" if value else "0"
        table.add_row(f"{value:.7g}", *float_bits(value, kind), f"{stored:.7g}", error)
    console.print(table)
