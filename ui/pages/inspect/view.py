"""The HTML of a GGUF's contents: metadata, types, and a tensor's blocks and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from common.text import parameters_text, size_text
from ui.i18n.words import Translator
from ui.pages.inspect.contents import Array, BlockFigures, Range, Rounding, Tensor, TensorFigures, TypeSum
from ui.render.html import html
from ui.render.tables import NOTHING, heading, paragraph, percent, short_number, table

_MAX_CHARACTERS = 160  # of a value


def metadata_table(metadata: Mapping[str, str | Array], t: Translator) -> Markup:
    """Render all keys and values, long ones cut."""
    label = t("inspect.metadata", count=len(metadata))
    rows = [(_cut(key), _value(value, t)) for key, value in metadata.items()]
    inner = table([t("inspect.head.key"), t("inspect.head.value")], rows, label)
    source = "<details class='metadata'><summary>{{ label }}</summary>{{ inner }}</details>"
    return html(source, label=label, inner=inner)


def types_table(sums: Sequence[TypeSum], t: Translator) -> Markup:
    """Render the tensors by type."""
    label = t("inspect.types")
    heads = [t(f"inspect.head.{name}") for name in ("type", "grid", "bits", "tensors", "numbers", "size")]
    rows = [
        (
            one.type,
            grid(one.symmetric, t),
            short_number(one.bits, t),
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


def tensor_label(tensor: Tensor) -> str:
    """Return a tensor's label in the picker: its name, type and shape."""
    shape = " × ".join(str(side) for side in tensor.shape)
    return f"{_cut(tensor.name)} · {tensor.type} · {shape}"


def tensor_facts(seen: TensorFigures, t: Translator) -> Markup:
    """Render the source of the figures: the tensor, its reference and the rows sampled."""
    named = t("inspect.before.other", file=seen.reference) if seen.reference else t("inspect.before.own")
    read = (
        t("inspect.all_rows", rows=t.number(seen.rows))
        if seen.rows == seen.of_rows
        else t("inspect.some_rows", rows=t.number(seen.rows), all=t.number(seen.of_rows))
    )
    spread = t("inspect.spread", low=short_number(seen.low, t), high=short_number(seen.high, t))
    label, size = tensor_label(seen.tensor), _bytes(seen.tensor.size, t)
    head = html("<p><b>{{ label }}</b> · {{ size }}</p>", label=label, size=size)
    return head + paragraph(f"{named} {read} {spread}", "teach")


def type_label(seen: TensorFigures, kind: str, t: Translator) -> str:
    """Return a type's name, marked if it is the file's own type."""
    stored = seen.reference and kind == seen.tensor.type
    return t("inspect.as_stored", type=kind) if stored else kind


def tensor_tables(seen: TensorFigures, kind: str, t: Translator) -> Markup:
    """Render the errors of all types, and the first blocks of the type `kind`."""
    left_out = [one.type for one in seen.roundings if one.result is None]
    parts = [
        heading(t("inspect.errors")),
        errors_table(seen, t),
        paragraph(t("inspect.errors.teach"), "teach"),
    ]
    if left_out:
        why = t("inspect.left_out", types=", ".join(left_out), width=t.number(seen.tensor.shape[0]))
        parts.append(paragraph(why, "teach"))
    rounded = next((one.result for one in seen.roundings if one.type == kind), None)
    if rounded is not None:
        parts.append(heading(f"{t('inspect.blocks')} · {kind}"))
        parts.append(blocks_table(rounded.blocks, kind, t))
    return Markup().join(parts)


def errors_table(seen: TensorFigures, t: Translator) -> Markup:
    """Render each type's grid, scales, zero points and errors."""
    names = ("type", "grid", "bits", "step", "zero", "rms", "relative", "worst")
    rows = [_error_row(one, seen, t) for one in seen.roundings]
    return table([t(f"inspect.head.{name}") for name in names], rows, t("inspect.errors"))


def blocks_table(blocks: BlockFigures | None, kind: str, t: Translator) -> Markup:
    """Render the first blocks' scales, minimums and zero points."""
    if blocks is None:
        return paragraph(t("inspect.no_blocks", type=kind), "teach")
    names = ("block", "step", "minimum", "zero")
    rows = [
        (str(number), *(short_number(value, t) for value in (block.step, block.minimum, block.zero)))
        for number, block in enumerate(blocks.first, 1)
    ]
    teach = paragraph(t("inspect.blocks.info"), "teach")
    return teach + table([t(f"inspect.head.{name}") for name in names], rows, t("inspect.blocks"))


def _error_row(one: Rounding, seen: TensorFigures, t: Translator) -> list[str]:
    head = [type_label(seen, one.type, t), grid(one.symmetric, t), short_number(one.bits, t)]
    if one.result is None:
        return [*head, *[NOTHING] * 4, t("inspect.not_whole", width=seen.tensor.shape[0])]
    step = zero = NOTHING
    if (blocks := one.result.blocks) is not None:
        step = _range(blocks.steps, t)
        zero = t("inspect.fixed") if blocks.symmetric else _range(blocks.zeros, t)
    error = one.result
    worst = short_number(error.worst, t)
    return [*head, step, zero, short_number(error.rms, t), percent(error.relative, t, 2), worst]


def _range(found: Range | None, t: Translator) -> str:
    if found is None:
        return NOTHING
    low, high = (short_number(value, t, 2) for value in found)
    return low if low == high else f"{low} … {high}"


def _bytes(size: int, t: Translator) -> str:
    return size_text(size) if size >= 1_000_000 else f"{t.number(size / 1000, 1)} kB"


def _value(value: str | Array, t: Translator) -> str:
    if isinstance(value, Array):
        some = ", ".join(_cut(one, 24) for one in value.first)
        return t("inspect.several", count=t.number(value.count), some=some)
    return _cut(value)


def _cut(text: str, limit: int = _MAX_CHARACTERS) -> str:
    return text if len(text) <= limit else f"{text[:limit]}…"
