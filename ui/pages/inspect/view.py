"""How the contents of a GGUF look: metadata, types, and a tensor's blocks and errors. HTML, all escaped."""

from __future__ import annotations

from html import escape

import numpy as np

from common.text import parameters_text, size_text
from ggufio.blocks import Blocks, RoundTrip, is_symmetric
from ggufio.ggml import Floats, ggml_type_named
from ggufio.untrusted_reader import ArraySummary, GgufHeader, Scalar, TensorInfo
from ui.i18n.words import Translator
from ui.pages.inspect.tensor_sample import Look, TypeSum
from ui.render.tables import NOTHING, paragraph, percent, short_number, table

_MOST_LETTERS = 160  # of a value
_FIRST_BLOCKS = 10


def metadata_table(found: GgufHeader, say: Translator) -> str:
    """All keys and values, long ones cut."""
    label = say("inspect.metadata", count=len(found.metadata))
    rows = [(_cut(key), _value(value, say)) for key, value in found.metadata.items()]
    inner = table([say("inspect.head.key"), say("inspect.head.value")], rows, label)
    return f"<details class='metadata'><summary>{escape(label)}</summary>{inner}</details>"


def types_table(sums: list[TypeSum], say: Translator) -> str:
    """The tensors by type."""
    label = say("inspect.types")
    heads = [say(f"inspect.head.{name}") for name in ("type", "grid", "bits", "tensors", "numbers", "size")]
    rows = [
        (
            one.kind.name,
            grid(one.symmetric, say),
            short_number(one.kind.bits, say),
            say.number(one.tensors),
            parameters_text(one.numbers) if one.numbers >= 1_000_000 else say.number(one.numbers),
            _bytes(one.size, say),
        )
        for one in sums
    ]
    title = f"<h2>{escape(label)}</h2>{paragraph(say('inspect.types.info'), 'teach')}"
    return title + table(heads, rows, label)


def grid(symmetric: bool | None, say: Translator) -> str:
    """In a word, how a type lays its codes over the numbers."""
    if symmetric is None:
        return NOTHING
    return say("inspect.symmetric" if symmetric else "inspect.asymmetric")


def tensor_label(tensor: TensorInfo) -> str:
    """A tensor as the picker lists it."""
    shape = " × ".join(str(side) for side in tensor.shape)
    return f"{_cut(tensor.name)} · {tensor.dtype.name} · {shape}"


def tensor_facts(seen: Look, say: Translator) -> str:
    """What the figures below rest on."""
    tensor, rows = seen.tensor, len(seen.before.values)
    named = say("inspect.before.other", file=seen.reference) if seen.reference else say("inspect.before.own")
    read = (
        say("inspect.all_rows", rows=say.number(rows))
        if seen.before.whole
        else say("inspect.some_rows", rows=say.number(rows), all=say.number(seen.before.of_rows))
    )
    spread = say("inspect.spread", low=_low(seen.before.values, say), high=_high(seen.before.values, say))
    return f"<p><b>{escape(tensor_label(tensor))}</b> · {_bytes(tensor.size, say)}</p>" + paragraph(
        f"{named} {read} {spread}", "teach"
    )


def type_label(seen: Look, kind: str, say: Translator) -> str:
    """A type's name; it is said of the one that the file itself has."""
    stored = seen.reference and kind == seen.tensor.dtype.name
    return say("inspect.as_stored", type=kind) if stored else kind


def tensor_tables(seen: Look, one: RoundTrip | None, say: Translator) -> str:
    """The error of each type, and the first blocks of the one that is looked at."""
    left_out = [kind for kind, after in seen.after.items() if after is None]
    parts = [
        f"<h2>{escape(say('inspect.errors'))}</h2>",
        errors_table(seen, say),
        paragraph(say("inspect.errors.teach"), "teach"),
    ]
    if left_out:
        why = say("inspect.left_out", types=", ".join(left_out), width=say.number(seen.tensor.width))
        parts.append(paragraph(why, "teach"))
    if one is not None:
        parts.append(f"<h2>{escape(say('inspect.blocks'))} · {escape(one.dtype.name)}</h2>")
        parts.append(blocks_table(one.blocks, one.dtype.name, say))
    return "".join(parts)


def errors_table(seen: Look, say: Translator) -> str:
    """Each type that was tried: its grid, scales, zero points, and how far it moved the numbers."""
    names = ("type", "grid", "bits", "step", "zero", "rms", "relative", "worst")
    rows = [_error_row(kind, one, seen, say) for kind, one in seen.after.items()]
    return table([say(f"inspect.head.{name}") for name in names], rows, say("inspect.errors"))


def blocks_table(blocks: Blocks | None, kind: str, say: Translator) -> str:
    """The first blocks one by one."""
    if blocks is None:
        return paragraph(say("inspect.no_blocks", type=kind), "teach")
    names = ("block", "step", "minimum", "zero")
    columns = zip(
        blocks.step[:_FIRST_BLOCKS],
        blocks.minimum[:_FIRST_BLOCKS],
        blocks.zero_point[:_FIRST_BLOCKS],
        strict=True,
    )
    rows = [
        (str(number), *(short_number(float(value), say) for value in values))
        for number, values in enumerate(columns, 1)
    ]
    teach = paragraph(say("inspect.blocks.info"), "teach")
    return teach + table([say(f"inspect.head.{name}") for name in names], rows, say("inspect.blocks"))


def _error_row(kind: str, one: RoundTrip | None, seen: Look, say: Translator) -> list[str]:
    bits = short_number(ggml_type_named(kind).bits, say)
    head = [type_label(seen, kind, say), grid(is_symmetric(ggml_type_named(kind)), say), bits]
    if one is None:
        return [*head, *[NOTHING] * 4, say("inspect.not_whole", width=seen.tensor.width)]
    step = zero = NOTHING
    if one.blocks is not None:
        step = _range(np.abs(one.blocks.step), say)
        zero = say("inspect.fixed") if one.blocks.symmetric else _range(one.blocks.zero_point, say)
    error = one.error
    worst = short_number(error.worst, say)
    return [*head, step, zero, short_number(error.rms, say), percent(error.relative, say, 2), worst]


def _range(values: Floats, say: Translator) -> str:
    """Where the middle nine tenths of some values lie."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return NOTHING
    low, high = (short_number(float(value), say, 2) for value in np.percentile(finite, [5, 95]))
    return low if low == high else f"{low} … {high}"


def _bytes(size: int, say: Translator) -> str:
    return size_text(size) if size >= 1_000_000 else f"{say.number(size / 1000, 1)} kB"


def _low(values: Floats, say: Translator) -> str:
    return short_number(float(values.min()), say)


def _high(values: Floats, say: Translator) -> str:
    return short_number(float(values.max()), say)


def _value(value: Scalar | ArraySummary, say: Translator) -> str:
    if isinstance(value, ArraySummary):
        some = ", ".join(_cut(str(one), 24) for one in value.first)
        return say("inspect.several", count=say.number(value.count), some=some)
    return _cut(str(value))


def _cut(text: str, most: int = _MOST_LETTERS) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
