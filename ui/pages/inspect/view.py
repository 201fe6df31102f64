"""The HTML of a GGUF's contents: metadata, types, and a tensor's blocks and errors."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from common.text import parameters_text, size_text
from ggufio.blocks import Blocks, RoundTrip, is_symmetric
from ggufio.ggml import Floats, ggml_type_named
from ggufio.reader import ArraySummary, GgufHeader, Scalar, TensorInfo
from ui.i18n.words import Translator
from ui.pages.inspect.tensor_sample import Look, TypeSum
from ui.render.html import html
from ui.render.tables import NOTHING, heading, paragraph, percent, short_number, table

_MAX_CHARACTERS = 160  # of a value
_FIRST_BLOCKS = 10


def metadata_table(found: GgufHeader, t: Translator) -> Markup:
    """Render all keys and values, long ones cut."""
    label = t("inspect.metadata", count=len(found.metadata))
    rows = [(_cut(key), _value(value, t)) for key, value in found.metadata.items()]
    inner = table([t("inspect.head.key"), t("inspect.head.value")], rows, label)
    source = "<details class='metadata'><summary>{{ label }}</summary>{{ inner }}</details>"
    return html(source, label=label, inner=inner)


def types_table(sums: list[TypeSum], t: Translator) -> Markup:
    """Render the tensors by type."""
    label = t("inspect.types")
    heads = [t(f"inspect.head.{name}") for name in ("type", "grid", "bits", "tensors", "numbers", "size")]
    rows = [
        (
            one.kind.name,
            grid(one.symmetric, t),
            short_number(one.kind.bits, t),
            t.number(one.tensors),
            parameters_text(one.numbers) if one.numbers >= 1_000_000 else t.number(one.numbers),
            _bytes(one.size, t),
        )
        for one in sums
    ]
    return heading(label) + paragraph(t("inspect.types.info"), "teach") + table(heads, rows, label)


def grid(symmetric: bool | None, t: Translator) -> str:
    """Return the word for a type's grid: symmetric or asymmetric."""
    if symmetric is None:
        return NOTHING
    return t("inspect.symmetric" if symmetric else "inspect.asymmetric")


def tensor_label(tensor: TensorInfo) -> str:
    """Return a tensor's label in the picker: its name, type and shape."""
    shape = " × ".join(str(side) for side in tensor.shape)
    return f"{_cut(tensor.name)} · {tensor.kind.name} · {shape}"


def tensor_facts(seen: Look, t: Translator) -> Markup:
    """Render the source of the figures: the tensor, its reference and the rows sampled."""
    tensor, rows = seen.tensor, len(seen.before.values)
    named = t("inspect.before.other", file=seen.reference) if seen.reference else t("inspect.before.own")
    read = (
        t("inspect.all_rows", rows=t.number(rows))
        if seen.before.whole
        else t("inspect.some_rows", rows=t.number(rows), all=t.number(seen.before.of_rows))
    )
    spread = t("inspect.spread", low=_low(seen.before.values, t), high=_high(seen.before.values, t))
    head = html(
        "<p><b>{{ label }}</b> · {{ size }}</p>", label=tensor_label(tensor), size=_bytes(tensor.size, t)
    )
    return head + paragraph(f"{named} {read} {spread}", "teach")


def type_label(seen: Look, kind: str, t: Translator) -> str:
    """Return a type's name, marked if it is the file's own type."""
    stored = seen.reference and kind == seen.tensor.kind.name
    return t("inspect.as_stored", type=kind) if stored else kind


def tensor_tables(seen: Look, one: RoundTrip | None, t: Translator) -> Markup:
    """Render the errors of all types, and the first blocks of the chosen one."""
    left_out = [kind for kind, after in seen.after.items() if after is None]
    parts = [
        heading(t("inspect.errors")),
        errors_table(seen, t),
        paragraph(t("inspect.errors.teach"), "teach"),
    ]
    if left_out:
        why = t("inspect.left_out", types=", ".join(left_out), width=t.number(seen.tensor.width))
        parts.append(paragraph(why, "teach"))
    if one is not None:
        parts.append(heading(f"{t('inspect.blocks')} · {one.kind.name}"))
        parts.append(blocks_table(one.blocks, one.kind.name, t))
    return Markup().join(parts)


def errors_table(seen: Look, t: Translator) -> Markup:
    """Render each type's grid, scales, zero points and errors."""
    names = ("type", "grid", "bits", "step", "zero", "rms", "relative", "worst")
    rows = [_error_row(kind, one, seen, t) for kind, one in seen.after.items()]
    return table([t(f"inspect.head.{name}") for name in names], rows, t("inspect.errors"))


def blocks_table(blocks: Blocks | None, kind: str, t: Translator) -> Markup:
    """Render the first blocks' scales, minimums and zero points."""
    if blocks is None:
        return paragraph(t("inspect.no_blocks", type=kind), "teach")
    names = ("block", "step", "minimum", "zero")
    columns = zip(
        blocks.step[:_FIRST_BLOCKS],
        blocks.minimum[:_FIRST_BLOCKS],
        blocks.zero_point[:_FIRST_BLOCKS],
        strict=True,
    )
    rows = [
        (str(number), *(short_number(float(value), t) for value in values))
        for number, values in enumerate(columns, 1)
    ]
    teach = paragraph(t("inspect.blocks.info"), "teach")
    return teach + table([t(f"inspect.head.{name}") for name in names], rows, t("inspect.blocks"))


def _error_row(kind: str, one: RoundTrip | None, seen: Look, t: Translator) -> list[str]:
    bits = short_number(ggml_type_named(kind).bits, t)
    head = [type_label(seen, kind, t), grid(is_symmetric(ggml_type_named(kind)), t), bits]
    if one is None:
        return [*head, *[NOTHING] * 4, t("inspect.not_whole", width=seen.tensor.width)]
    step = zero = NOTHING
    if one.blocks is not None:
        step = _range(np.abs(one.blocks.step), t)
        zero = t("inspect.fixed") if one.blocks.symmetric else _range(one.blocks.zero_point, t)
    error = one.error
    worst = short_number(error.worst, t)
    return [*head, step, zero, short_number(error.rms, t), percent(error.relative, t, 2), worst]


def _range(values: Floats, t: Translator) -> str:
    """Return the 5th and 95th percentiles as text."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return NOTHING
    low, high = (short_number(float(value), t, 2) for value in np.percentile(finite, [5, 95]))
    return low if low == high else f"{low} … {high}"


def _bytes(size: int, t: Translator) -> str:
    return size_text(size) if size >= 1_000_000 else f"{t.number(size / 1000, 1)} kB"


def _low(values: Floats, t: Translator) -> str:
    return short_number(float(values.min()), t)


def _high(values: Floats, t: Translator) -> str:
    return short_number(float(values.max()), t)


def _value(value: Scalar | ArraySummary, t: Translator) -> str:
    if isinstance(value, ArraySummary):
        some = ", ".join(_cut(str(one), 24) for one in value.first)
        return t("inspect.several", count=t.number(value.count), some=some)
    return _cut(str(value))


def _cut(text: str, limit: int = _MAX_CHARACTERS) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"
