"""The Inspect view: a file's contents, and the effect of quantizing on one of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np

from common.errors import UserError
from ggufio.blocks import Blocks, RoundTrip
from ggufio.ggml import Floats
from ui.i18n.gradio import text
from ui.i18n.words import Translator, translator
from ui.pages.inspect import view
from ui.pages.inspect.tensor_sample import Look, contents, histogram, look, type_sums
from ui.render.status import error_line

_HEIGHT = 210
_X, _Y, _SERIES = "x", "y", "series"
_BEFORE, _AFTER = "#a8a29e", "#0f8f80"  # both are seen on light and on dark
Updates = dict[Any, Any]


class Figure:
    """A plot with a line of explanation; its updates are for `outputs`."""

    def __init__(self, plot: type[gr.BarPlot] | type[gr.LinePlot], name: str, info: str) -> None:
        """Lay out the plot; `info` is the locale key of the explanation."""
        with gr.Column(visible=False, min_width=260, elem_id=f"figure-{name}") as self._box:
            self._plot = plot(x=_X, y=_Y, color=_SERIES, color_title=" ", height=_HEIGHT)
            gr.Markdown(text(info), elem_classes="teach")
        self.outputs: list[Any] = [self._box, self._plot]

    def hide(self) -> Updates:
        """Hide the figure."""
        return {self._box: gr.update(visible=False)}

    def _show(self, rows: list[list[Any]], kind: str, **looks: Any) -> Updates:
        if not rows:
            return self.hide()
        value = {  # what the component takes without a data frame: gradio.components.native_plot.PlotData
            "columns": [_X, _Y, _SERIES],
            "data": rows,
            "datatypes": {_X: kind, _Y: "quantitative", _SERIES: "nominal"},
            "mark": self._plot.get_mark(),
        }
        return {self._box: gr.update(visible=True), self._plot: gr.update(value=value, **looks)}


class BarFigure(Figure):
    """A bar chart by name."""

    def __init__(self, name: str, info: str) -> None:
        super().__init__(gr.BarPlot, name, info)

    def show(self, values: Mapping[str, float | None], x_title: str, y_title: str) -> Updates:
        """Show the names that have a value, in their order."""
        rows: list[list[Any]] = [[name, value, ""] for name, value in values.items() if value is not None]
        names = [row[0] for row in rows]
        looks: dict[str, Any] = {"sort": names, "color_map": {"": _AFTER}, "colors_in_legend": []}
        return self._show(rows, "nominal", x_title=x_title, y_title=y_title, **looks)


class CurveFigure(Figure):
    """A curve for each series; the first of two is paler."""

    def __init__(self, name: str, info: str) -> None:
        super().__init__(gr.LinePlot, name, info)

    def show(
        self, x: Sequence[float], series: Mapping[str, Iterable[float]], x_title: str, y_title: str
    ) -> Updates:
        """Show curves; each series has as many values as `x`."""
        rows = [[at, y, name] for name, values in series.items() for at, y in zip(x, values, strict=True)]
        colours = (_BEFORE, _AFTER) if len(series) > 1 else (_AFTER,)
        looks: dict[str, Any] = {"color_map": dict(zip(series, colours, strict=True))}
        looks["colors_in_legend"] = list(series) if len(series) > 1 else []
        return self._show(rows, "quantitative", x_title=x_title, y_title=y_title, **looks)


FileOf = Callable[[gr.Request, object], Path]
"""Returns the file of a model's key that the request may use. Raises ModelError."""


ONE_AT_A_TIME: dict[str, Any] = {
    "concurrency_limit": 1,  # one visitor must not take all cores from the answers
    "concurrency_id": "quality",
    "show_progress": "minimal",
    "api_visibility": "private",
}
_FIRST = ("blk.0.attn_q.weight", "blk.0.attn_qkv.weight", "blk.0.ffn_down.weight")  # most models have one
_BINS = 40


class InspectPanel:
    """The components of the view; `updates` fill it for a file."""

    def __init__(self) -> None:
        self._types = gr.HTML(padding=False)
        self._tensor = gr.Dropdown(
            [], label=text("inspect.tensor"), info=text("inspect.tensor.info"), elem_id="inspect-tensor"
        )
        self._type = gr.Radio([], label=text("inspect.round"), elem_id="inspect-round")
        self._wanted = gr.State("")  # Gradio refuses a Radio's value when its choices changed meanwhile
        self._facts = gr.HTML(padding=False, elem_id="inspect-facts")
        with gr.Row(elem_classes="plots"):
            self._values = CurveFigure("values", "inspect.values.info")
            self._steps = CurveFigure("steps", "inspect.steps.info")
            self._zeros = CurveFigure("zeros", "inspect.zeros.info")
            self._errors = BarFigure("errors", "inspect.errors.info")
        self._tables = gr.HTML(padding=False, elem_id="inspect-tables")
        self._metadata = gr.HTML(padding=False, elem_id="inspect-metadata")
        self._figures = (self._values, self._steps, self._zeros, self._errors)
        plots = [output for figure in self._figures for output in figure.outputs]
        self._seen = [self._type, self._facts, self._tables, *plots]
        self.outputs = [self._types, self._tensor, self._metadata, *self._seen]

    def wire(self, model: gr.Dropdown, file_of: FileOf) -> None:
        """Connect the choices of a tensor and of a type."""

        def chosen(request: gr.Request, key: object, tensor: object, kind: object) -> Updates:
            t = translator(request)
            try:
                return self._look_at(file_of(request, key), str(tensor), str(kind), t)
            except UserError as error:
                return self._nothing(error_line(error, t=t))

        self._tensor.input(chosen, [model, self._tensor, self._wanted], self._seen, **ONE_AT_A_TIME)
        follow = self._type.input(lambda kind: kind, self._type, self._wanted, **ONE_AT_A_TIME)
        follow.then(chosen, [model, self._tensor, self._wanted], self._seen, **ONE_AT_A_TIME)

    def updates(self, path: Path, t: Translator) -> Updates:
        """Fill the view for a file, with a tensor that most models have. Raises ModelError."""
        found = contents(path)
        choices = [(view.tensor_label(tensor), name) for name, tensor in found.tensors.items()]
        name = next((name for name in _FIRST if name in found.tensors), choices[0][1] if choices else "")
        return {
            self._types: view.types_table(type_sums(found), t),
            self._metadata: view.metadata_table(found, t),
            self._tensor: gr.update(choices=choices, value=name or None, visible=bool(choices)),
            **self._look_at(path, name, "", t),
        }

    def empty(self) -> Updates:
        """Empty the view."""
        return {
            self._types: "",
            self._metadata: "",
            self._tensor: gr.update(visible=False),
            **self._nothing(""),
        }

    def _nothing(self, why: str) -> Updates:
        """Hide the tensor, for the reason `why`."""
        updates: Updates = {self._facts: why, self._tables: "", self._type: gr.update(visible=False)}
        for figure in self._figures:
            updates |= figure.hide()
        return updates

    def _look_at(self, path: Path, name: str, wanted: str, t: Translator) -> Updates:
        """Show a tensor rounded to the type `wanted`, or else to the first type that can hold it."""
        try:
            seen = look(path, name)
        except UserError as error:  # this tensor cannot be shown, and others can
            return self._nothing(error_line(error, t=t))
        possible = [kind for kind, one in seen.after.items() if one is not None]
        kind = wanted if wanted in possible else next(iter(possible), None)
        one = seen.after[kind] if kind else None
        choices = [(view.type_label(seen, kind, t), kind) for kind in possible]
        return {
            self._type: gr.update(choices=choices, value=kind, visible=bool(possible)),
            self._facts: view.tensor_facts(seen, t),
            self._tables: view.tensor_tables(seen, one, t),
            **self._plots_of(seen, one, t),
            **self._plots_of_blocks(one.blocks if one else None, t),
        }

    def _plots_of(self, seen: Look, one: RoundTrip | None, t: Translator) -> Updates:
        if one is None:
            return self._values.hide() | self._errors.hide()
        middles, before, after = histogram(seen.before.values, one.values)
        series = {t("inspect.before"): before.tolist(), one.kind.name: after.tolist()}
        errors = {kind: 100 * one.error.relative for kind, one in seen.after.items() if one is not None}
        relative = f"{t('inspect.head.relative')}, %"
        return {
            **self._values.show(middles.tolist(), series, t("inspect.value"), t("inspect.share")),
            **self._errors.show(errors, t("inspect.head.type"), relative),
        }

    def _plots_of_blocks(self, blocks: Blocks | None, t: Translator) -> Updates:
        if blocks is None:
            return self._steps.hide() | self._zeros.hide()
        steps = _spread(self._steps, np.abs(blocks.step), t("inspect.head.step"), t)
        if blocks.symmetric:
            return steps | self._zeros.hide()
        return steps | _spread(self._zeros, blocks.zero_point, t("inspect.head.zero"), t)


def _spread(figure: CurveFigure, values: Floats, title: str, t: Translator) -> Updates:
    """Show the distribution of values between their 1st and 99th percentiles."""
    finite = values[np.isfinite(values)]
    if not finite.size or np.ptp(finite) == 0:
        return figure.hide()
    low, high = np.percentile(finite, [1, 99])
    counts, edges = np.histogram(finite, _BINS, (float(low), float(high)))
    middles = ((edges[:-1] + edges[1:]) / 2).tolist()
    shares = (counts * (100 / finite.size)).tolist()
    return figure.show(middles, {title: shares}, title, t("inspect.blocks_share"))
