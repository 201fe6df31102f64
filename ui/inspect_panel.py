"""The Inspect view: what is in the file, and what quantizing does to one of its tensors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from engine.errors import EngineError
from engine.ggml import Floats
from engine.gguf_file import Gguf
from engine.rounding import Rounded
from ui import inspect_view as view
from ui.inspection import TYPES, Look, contents, histogram, look, type_sums
from ui.plots import bars, curves, filled_bars, filled_curves, hidden
from ui.status import error_line
from ui.tables import paragraph
from ui.texts import Words, words
from ui.translation import text

Updates = dict[Any, Any]
FileOf = Callable[[gr.Request, object], Path]
"""The file of a model's key, for who asks. Raises ModelError."""

QUEUE = "quality"
ONE_AT_A_TIME: dict[str, Any] = {
    "concurrency_limit": 1,  # what one visitor looks at must not take all cores from the answers
    "concurrency_id": QUEUE,
    "show_progress": "minimal",
    "api_visibility": "private",
}
_OWN = "own"  # the choice of the type that the tensor has
_FIRST = ("blk.0.attn_q.weight", "blk.0.attn_qkv.weight", "blk.0.ffn_down.weight")
_BINS = 40


class InspectPanel:
    """Lays out the view; `updates` fill it for a file, `wire` connects its own choices."""

    def __init__(self) -> None:
        self._about = gr.HTML(padding=False, elem_id="inspect-types")
        self._tensor = gr.Dropdown([], label=text("inspect.tensor"), info=text("inspect.tensor.info"))
        self._type = gr.Radio([], label=text("inspect.round"), elem_id="inspect-round")
        self._facts = gr.HTML(padding=False, elem_id="inspect-facts")
        with gr.Row(elem_classes="plots"):
            self._values = _figure("inspect.values.info", lambda: curves("plot-values"))
            self._steps = _figure("inspect.steps.info", lambda: curves("plot-steps"))
            self._zeros = _figure("inspect.zeros.info", lambda: curves("plot-zeros"))
            self._errors = _figure("inspect.errors.info", lambda: bars("plot-errors"))
        self._tables = gr.HTML(padding=False, elem_id="inspect-tables")
        self._metadata = gr.HTML(padding=False, elem_id="inspect-metadata")
        self._figures = [self._facts, self._values, self._steps, self._zeros, self._errors, self._tables]
        self.outputs = [self._about, self._tensor, self._type, self._metadata, *self._figures]

    def wire(self, model: gr.Dropdown, file_of: FileOf) -> None:
        """Follow the choice of a tensor and of a type."""

        def chosen(request: gr.Request, key: object, tensor: object, kind: object) -> Updates:
            say = words(request)
            try:
                return self._seen(look(file_of(request, key), str(tensor)), str(kind), say)
            except EngineError as error:
                return self._failed(error, say)

        inputs = [model, self._tensor, self._type]
        self._tensor.input(chosen, inputs, [self._type, *self._figures], **ONE_AT_A_TIME)
        self._type.input(chosen, inputs, [self._type, *self._figures], **ONE_AT_A_TIME)

    def updates(self, path: Path, say: Words) -> Updates:
        """All of the view for a file, with a tensor that most models have. Raises ModelError."""
        found = contents(path)
        names = list(found.tensors)
        name = next((name for name in _FIRST if name in found.tensors), names[0] if names else "")
        choices = [(view.tensor_label(tensor), name) for name, tensor in found.tensors.items()]
        return {
            self._about: view.types_table(type_sums(found), say),
            self._metadata: view.metadata_table(found, say),
            self._tensor: gr.update(choices=choices, value=name, visible=bool(names)),
            **self._first_look(path, found, name, say),
        }

    def empty(self) -> Updates:
        """Nothing to look at."""
        return {one: "" for one in (self._about, self._metadata, self._facts, self._tables)} | {
            one: gr.update(visible=False) for one in self.outputs if not isinstance(one, gr.HTML)
        }

    def _first_look(self, path: Path, found: Gguf, name: str, say: Words) -> Updates:
        try:
            return self._seen(look(path, name), _OWN, say) if found.tensors else {}
        except EngineError as error:  # this tensor cannot be shown, and others can
            return self._failed(error, say)

    def _failed(self, error: EngineError, say: Words) -> Updates:
        plots = (self._values, self._steps, self._zeros, self._errors)
        return {
            self._facts: error_line(error, say=say),
            self._tables: "",
            **{plot: hidden() for plot in plots},
        }

    def _seen(self, seen: Look, wanted: str, say: Words) -> Updates:
        own = seen.tensor.kind.name if seen.reference else None
        possible = [kind for kind, one in seen.after.items() if one is not None]
        kind = wanted if wanted in possible else (own or next(iter(possible), ""))
        choices = [(say("inspect.as_stored", type=one) if one == own else one, one) for one in possible]
        return {
            self._type: gr.update(choices=choices, value=kind or None, visible=bool(possible)),
            self._facts: view.tensor_facts(seen, say),
            self._tables: _tables(seen, seen.after.get(kind), say),
            self._values: _values(seen, seen.after.get(kind), say),
            **self._plots_of_blocks(seen.after.get(kind), say),
            self._errors: filled_bars(
                {kind: 100 * one.error.relative for kind, one in seen.after.items() if one is not None},
                say("inspect.head.type"),
                f"{say('inspect.head.relative')}, %",
            ),
        }

    def _plots_of_blocks(self, one: Rounded | None, say: Words) -> Updates:
        blocks = one.blocks if one is not None else None
        if blocks is None:
            return {self._steps: hidden(), self._zeros: hidden()}
        steps = _spread(np.abs(blocks.step), say("inspect.head.step"), say)
        zeros = hidden() if blocks.symmetric else _spread(blocks.zero_point, say("inspect.head.zero"), say)
        return {self._steps: steps, self._zeros: zeros}


def _figure(info: str, plot: Callable[[], Any]) -> Any:
    """A plot with a line under it that says what it means."""
    made = plot()
    made.caption = text(info)
    return made


def _values(seen: Look, one: Rounded | None, say: Words) -> Any:
    if one is None:
        return hidden()
    middles, before, after = histogram(seen.before.values, one.values)
    series = {say("inspect.before"): before.tolist(), one.kind.name: after.tolist()}
    return filled_curves(middles.tolist(), series, say("inspect.value"), say("inspect.share"))


def _spread(values: Floats, title: str, say: Words) -> Any:
    """How some values are distributed, without the outermost two in a hundred."""
    finite = values[np.isfinite(values)]
    if not finite.size or np.ptp(finite) == 0:
        return hidden()
    counts, edges = np.histogram(finite, _BINS, tuple(np.percentile(finite, [1, 99])))
    middles = ((edges[:-1] + edges[1:]) / 2).tolist()
    shares = (counts * (100 / finite.size)).tolist()
    return filled_curves(middles, {title: shares}, title, say("inspect.blocks_share"))


def _tables(seen: Look, one: Rounded | None, say: Words) -> str:
    left_out = [kind for kind in TYPES if kind in seen.after and seen.after[kind] is None]
    why = say("inspect.left_out", types=", ".join(left_out), width=seen.tensor.width) if left_out else ""
    parts = [
        f"<h2>{say('inspect.errors')}</h2>",
        view.errors_table(seen, say),
        paragraph(say("inspect.errors.teach"), "teach"),
        paragraph(why, "teach") if why else "",
    ]
    if one is not None:
        parts.append(f"<h2>{say('inspect.blocks')} · {one.kind.name}</h2>")
        parts.append(paragraph(say("inspect.blocks.info"), "teach"))
        parts.append(view.blocks_table(one.blocks, one.kind.name, say))
    return "".join(parts)
