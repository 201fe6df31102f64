"""The Inspect view: a file's contents, and the effect of quantizing on one of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gradio as gr

from common.errors import UserError
from ui.i18n.words import Translator, text, translations, translator
from ui.pages.inspect import view
from ui.pages.inspect.client import Inspector
from ui.pages.inspect.contents import BlockFigures, Curve, Rounded, TensorFigures
from ui.pages.shell import line_of_text
from ui.render.status import error_line
from ui.static import STATIC

_HEIGHT = 210
_X, _Y, _SERIES = "x", "y", "series"
_BEFORE, _AFTER = "#a8a29e", "#0f8f80"  # both are seen on light and on dark
_BLOCK_WORDS = (
    *("title", "number", "earlier", "later", "before", "after", "code", "scale", "error", "clipped"),
    *("choose", "stored", "largest", "least", "teach_scale", "teach_zero", "teach_zero_between"),
    *("teach_symmetric", "teach_asymmetric", "teach_calibration"),
)
Updates = dict[Any, Any]


class Figure:
    """A plot with a line of explanation; its updates are for `outputs`."""

    def __init__(self, plot: type[gr.BarPlot] | type[gr.LinePlot], name: str, info: str) -> None:
        """Lay out the plot; `info` is the locale key of the explanation."""
        with gr.Column(visible=False, min_width=260, elem_id=f"figure-{name}") as self._box:
            self._plot = plot(x=_X, y=_Y, color=_SERIES, color_title=" ", height=_HEIGHT)
            line_of_text(info, "p", elem_classes="teach")
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

    def show(self, values: Mapping[str, float], x_title: str, y_title: str) -> Updates:
        """Show the names that have a value, in their order."""
        rows: list[list[Any]] = [[name, value, ""] for name, value in values.items()]
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


class BlockFigure:
    """One block's numbers and levels, with a scale to choose: ui/static/block_figure.js draws it."""

    def __init__(self) -> None:
        self.box = gr.HTML(
            None,
            html_template=(STATIC / "block_figure.html").read_text(encoding="utf-8"),
            js_on_load=(STATIC / "block_figure.js").read_text(encoding="utf-8"),
            apply_default_css=False,
            elem_id="inspect-block",
        )

    def hide(self) -> Updates:
        """Hide the figure."""
        return {self.box: None}

    def show(self, blocks: BlockFigures | None, kind: str, t: Translator) -> Updates:
        """Show the first blocks of a type; no type without a grid."""
        if blocks is None:
            return self.hide()
        texts = translations(t.language)
        words = {name: texts[f"block.{name}"] for name in _BLOCK_WORDS}
        shown = [asdict(block) for block in blocks.first if block.step and block.minimum is not None]
        value = {"type": kind, "symmetric": blocks.symmetric, "codes": blocks.codes, "blocks": shown}
        return {self.box: value | {"words": words, "language": t.language} if shown else None}


FileOf = Callable[[gr.Request, object], Path]
"""Returns the file of a model's key that the request may use. Raises ModelError."""


ONE_AT_A_TIME: dict[str, Any] = {
    "concurrency_limit": 1,  # one visitor must not take all cores from the answers
    "concurrency_id": "quality",
    "show_progress": "minimal",
    "api_visibility": "private",
}
_FIRST = ("blk.0.attn_q.weight", "blk.0.attn_qkv.weight", "blk.0.ffn_down.weight")  # most models have one


class InspectPanel:
    """The components of the view; `updates` fill it for a file."""

    def __init__(self) -> None:
        self._inspector = Inspector()
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
        self._block = BlockFigure()
        self._tables = gr.HTML(padding=False, elem_id="inspect-tables")
        self._metadata = gr.HTML(padding=False, elem_id="inspect-metadata")
        self._figures = (self._values, self._steps, self._zeros, self._errors)
        plots = [output for figure in self._figures for output in figure.outputs]
        self._seen = [self._type, self._facts, self._tables, self._block.box, *plots]
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
        found = self._inspector.contents(path)
        choices = [(view.tensor_label(tensor), tensor.name) for tensor in found.tensors]
        names = [tensor.name for tensor in found.tensors]
        name = next((name for name in (*_FIRST, *names) if name in names), "")
        return {
            self._types: view.types_table(found.types, t),
            self._metadata: view.metadata_table(found.metadata, t),
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
        updates |= self._block.hide()
        for figure in self._figures:
            updates |= figure.hide()
        return updates

    def _look_at(self, path: Path, name: str, wanted: str, t: Translator) -> Updates:
        """Show a tensor rounded to the type `wanted`, or else to the first type that can hold it."""
        try:
            seen = self._inspector.tensor(path, name)
        except UserError as error:  # this tensor cannot be shown, and others can
            return self._nothing(error_line(error, t=t))
        possible = {one.type: one.result for one in seen.roundings if one.result is not None}
        kind = wanted if wanted in possible else next(iter(possible), "")
        rounded = possible.get(kind)
        choices = [(view.type_label(seen, kind, t), kind) for kind in possible]
        return {
            self._type: gr.update(choices=choices, value=kind or None, visible=bool(possible)),
            self._facts: view.tensor_facts(seen, t),
            self._tables: view.tensor_tables(seen, kind, t),
            **self._plots_of(seen, kind, rounded, t),
            **self._plots_of_blocks(rounded.blocks if rounded else None, t),
            **self._block.show(rounded.blocks if rounded else None, kind, t),
        }

    def _plots_of(self, seen: TensorFigures, kind: str, rounded: Rounded | None, t: Translator) -> Updates:
        if rounded is None:
            return self._values.hide() | self._errors.hide()
        series = {t("inspect.before"): seen.histogram.y, kind: rounded.histogram}
        errors = {
            one.type: 100 * one.result.relative
            for one in seen.roundings
            if one.result is not None and one.result.relative is not None
        }
        relative = f"{t('inspect.head.relative')}, %"
        return {
            **self._values.show(seen.histogram.x, series, t("inspect.value"), t("inspect.share")),
            **self._errors.show(errors, t("inspect.head.type"), relative),
        }

    def _plots_of_blocks(self, blocks: BlockFigures | None, t: Translator) -> Updates:
        if blocks is None:
            return self._steps.hide() | self._zeros.hide()
        return {
            **_show(self._steps, blocks.step_curve, t("inspect.head.step"), t),
            **_show(self._zeros, blocks.zero_curve, t("inspect.head.zero"), t),
        }


def _show(figure: CurveFigure, curve: Curve | None, title: str, t: Translator) -> Updates:
    if curve is None:
        return figure.hide()
    return figure.show(curve.x, {title: curve.y}, title, t("inspect.blocks_share"))
