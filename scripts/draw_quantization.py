"""Draw the pictures of docs/quantization.md from tensors of the demo's base model.

The same numbers give the same files; nothing is random. Run it after a change, from any folder.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # run as a script, from any folder

import numpy as np
import typer

from ggufio.blocks import blocks_of, error_of, round_trip
from ggufio.ggml import Floats, dequantize, ggml_type_named, quantize
from ggufio.untrusted_reader import read_header, read_rows
from pipeline.quantize.inspection import float_bits
from pipeline.sources.bundled import embedded_gguf

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
EMBEDDINGS, DOWN = "token_embd.weight", "blk.0.ffn_down.weight"
_STYLE = """<style>
text { font: 12px sans-serif; fill: #24292f } .small { font-size: 10px } .bold { font-weight: 600 }
.line { stroke: #8c959f } .grid { stroke: #0969da } .number { fill: #cf222e } .move { stroke: #cf222e }
.sign { fill: #ffcecb } .exponent { fill: #b6e3ff } .fraction { fill: #aceebb } .bar { fill: #54aeff }
.soft { fill: #ddf4ff; stroke: #54aeff }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .line { stroke: #6e7681 } .grid { stroke: #58a6ff } .number { fill: #ff7b72 }
  .move { stroke: #ff7b72 } .sign { fill: #8e1519 } .exponent { fill: #0c2d6b } .fraction { fill: #0f5323 }
  .bar { fill: #388bfd } .soft { fill: #0c2d6b; stroke: #388bfd }
}
</style>"""


def numbers(name: str, rows: Iterable[int]) -> Floats:
    """Return rows of the bundled model's tensor: [rows, width]."""
    tensor, places = read_header(embedded_gguf()).tensors[name], list(rows)
    return dequantize(tensor.dtype, read_rows(tensor, places)).reshape(len(places), tensor.width)


def svg(width: int, height: int, title: str, parts: Iterable[str]) -> str:
    """Return a picture that follows the reader's light or dark colours."""
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">'
    )
    return "\n".join((head, f"<title>{title}</title>", _STYLE, *parts, "</svg>", ""))


def text(x: float, y: float, words: str, style: str = "", anchor: str = "start") -> str:
    """Return a line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{words}</text>'


def line(x: float, y: float, to_x: float, to_y: float, style: str = "line") -> str:
    """Return a straight line."""
    return f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}" class="{style}"/>'


def box(x: float, y: float, width: float, height: float, style: str) -> str:
    """Return a rectangle."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" class="{style}"/>'


def dot(x: float, y: float, style: str = "number") -> str:
    """Return a small filled circle."""
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" class="{style}"/>'


def float_formats() -> str:
    """One weight's bits in the three formats."""
    value = float(numbers(EMBEDDINGS, [0])[0, 0])
    parts = []
    for row, name in enumerate(("F32", "F16", "BF16")):
        y = 34 + 44 * row
        parts.append(text(8, y + 15, name, "bold"))
        at = 60.0
        for style, bits in zip(("sign", "exponent", "fraction"), float_bits(value, name), strict=True):
            for bit in bits:
                parts += [box(at, y, 17, 22, style), text(at + 8.5, y + 15, bit, "small", "middle")]
                at += 18
            at += 5
    legend = zip((60, 130, 230), ("sign", "exponent", "fraction"), strict=True)
    parts += [part for x, s in legend for part in (box(x, 8, 12, 12, s), text(x + 17, 18, s))]
    return svg(680, 168, f"The weight {value:.7f} in three formats", parts)


def symmetric_and_asymmetric() -> str:
    """A block of 32 weights, and the 16 levels that Q4_0 and Q4_1 give it."""
    block = numbers(EMBEDDINGS, [0])[:, :32]
    low, high = float(block.min()) - 0.04, float(block.max()) + 0.04

    def x_of(value: float) -> float:
        return 20 + 640 * (value - low) / (high - low)

    parts = []
    for row, (name, words) in enumerate((("Q4_0", "symmetric: zero is a level"), ("Q4_1", "asymmetric"))):
        kind, y = ggml_type_named(name), 40 + 120 * row
        data = quantize(kind, block)
        found, after = blocks_of(kind, data), dequantize(kind, data)
        assert found is not None
        levels = [float(found.step[0]) * code + float(found.minimum[0]) for code in range(16)]
        parts.append(text(20, y - 16, f"{name}, {words}; scale {abs(float(found.step[0])):.4f}", "bold"))
        parts += [line(x_of(level), y + 36, x_of(level), y + 58, "grid") for level in levels]
        parts.append(line(x_of(0), y - 4, x_of(0), y + 64))
        parts.append(text(x_of(0), y + 76, "0", "small", "middle"))
        for value, near in zip(block[0].tolist(), after.tolist(), strict=True):
            parts += [line(x_of(value), y + 8, x_of(near), y + 46, "move"), dot(x_of(value), y + 8)]
    return svg(680, 250, "32 weights and the 16 levels of two types", parts)


def super_block() -> str:
    """The ranges of the 8 blocks of a super-block of Q4_K."""
    kind, numbers_of = ggml_type_named("Q4_K"), numbers(DOWN, [0])[:, :256]
    found = blocks_of(kind, quantize(kind, numbers_of))
    assert found is not None
    low, high = float(found.minimum.min()), float((found.minimum + 15 * found.step).max())

    def y_of(value: float) -> float:
        return 40 + 180 * (high - value) / (high - low)

    parts = [text(20, 20, "Q4_K: 8 blocks of 32, each with a scale and a minimum of 6 bits", "bold")]
    parts += [line(20, y_of(0), 660, y_of(0)), text(664, y_of(0) + 4, "0", "small")]
    for i in range(8):
        x, step, start = 30 + 79 * i, float(found.step[i]), float(found.minimum[i])
        parts.append(box(x, y_of(start + 15 * step), 62, y_of(start) - y_of(start + 15 * step), "soft"))
        parts += [line(x, y_of(start + c * step), x + 62, y_of(start + c * step), "grid") for c in range(16)]
        values = numbers_of[0, 32 * i : 32 * i + 32].tolist()
        parts += [dot(x + 3 + 1.8 * k, y_of(value)) for k, value in enumerate(values)]
        parts.append(text(x + 31, 240, f"{step:.3f}", "small", "middle"))
    return svg(680, 262, "A super-block of Q4_K", [*parts, text(20, 256, "scales", "small")])


def error_by_bits() -> str:
    """The error of each type on the embeddings, on a logarithmic axis."""
    rows = numbers(EMBEDDINGS, range(0, 49152, 512))
    names = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL")
    found = [(name, round_trip(rows, name)) for name in names]
    errors = [(name, one.error.relative, one.dtype.bits) for name, one in found if one is not None]
    errors.insert(0, ("BF16", error_of(rows, _bf16(rows)).relative, 16.0))
    parts = [text(20, 20, "Rounding error of the embeddings, relative to the weights", "bold")]
    for row, (name, error, bits) in enumerate(sorted(errors, key=lambda one: -one[2])):
        y, width = 34 + 26 * row, 150 * float(np.log10(max(error, 1e-4) * 1e4))
        label = f"{error:.2%}" if error else "0 %: the base had this type"
        parts += [text(20, y + 14, name), text(130, y + 14, f"{bits:g} bits", "small", "end")]
        parts += [box(140, y, width, 18, "bar"), text(146 + width, y + 14, label, "small")]
    return svg(680, 40 + 26 * len(errors), "Rounding error by type", parts)


def _bf16(rows: Floats) -> Floats:
    found = round_trip(rows, "BF16")
    assert found is not None
    return found.values


def snapping() -> str:
    """A change of a fifth of a step: gone where the weights lie on levels, kept in the mean elsewhere."""
    parts = []
    titles = ("Weights on Q4_1's levels: a small change is taken back", "Others: some move a whole step")
    for row, (title, name) in enumerate(zip(titles, (DOWN, EMBEDDINGS), strict=True)):
        y, kind, block = 34 + 122 * row, ggml_type_named("Q4_1"), numbers(name, [0])[:, :32]
        found = blocks_of(kind, quantize(kind, block))
        assert found is not None
        places = ((block[0, :14] - found.minimum[0]) / found.step[0]).astype(np.float64)
        parts.append(text(20, y - 14, title, "bold"))
        parts += [line(40 + 40 * level, y, 40 + 40 * level, y + 78, "grid") for level in range(16)]
        for i, place in enumerate(places.tolist()):
            height, moved = y + 4 + 5 * i, place + 0.2
            parts.append(line(40 + 40 * moved, height, 40 + 40 * round(moved), height, "move"))
            parts.append(dot(40 + 40 * moved, height))
    return svg(680, 244, "What rounding does to a change of a fifth of a step", parts)


def ternary() -> str:
    """A layer's weights before and after rounding to three values by BitNet's rule."""
    row = numbers(DOWN, [0])[:, :256].ravel()
    scale = float(np.abs(row).mean())
    after = scale * np.rint(row / scale).clip(-1, 1)
    edges = np.linspace(float(row.min()), float(row.max()), 41)
    parts = [
        text(20, 20, f"256 weights, and the same at three values: {-scale:.2f}, 0 and {scale:.2f}", "bold")
    ]
    for values, style, base in ((row, "bar", 130), (after, "number", 250)):
        counts: Sequence[int] = np.histogram(values, edges)[0].tolist()
        for i, count in enumerate(counts):
            height = 80 * count / max(counts)
            parts += [box(20 + 16 * i, base - height, 13, height, style)] if count else []
        parts.append(line(20, base, 660, base))
    return svg(680, 262, "Three values", parts)


PICTURES = {
    "float-formats": float_formats,
    "symmetric-asymmetric": symmetric_and_asymmetric,
    "super-block": super_block,
    "error-by-bits": error_by_bits,
    "snapping": snapping,
    "ternary": ternary,
}


def main(out: Path = IMAGES) -> None:
    """Write all pictures to a folder."""
    out.mkdir(parents=True, exist_ok=True)
    for name, draw in PICTURES.items():
        (out / f"{name}.svg").write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
