"""Small figures of a few numbers, each with a line that says what it means. Gradio draws the plots.

Bars stand by name, curves over a number line. A figure takes no room until there is something to see.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gradio as gr

from ui.translation import text

_HEIGHT = 210
_X, _Y, _SERIES = "x", "y", "series"
_BEFORE, _AFTER = "#a8a29e", "#0f8f80"  # both are seen on light and on dark

Updates = dict[Any, Any]


class Figure:
    """A plot and the line below it; `outputs` are what its updates are for."""

    def __init__(self, plot: type[gr.BarPlot] | type[gr.LinePlot], name: str, info: str) -> None:
        """`info` is the key of the line's text."""
        with gr.Column(visible=False, min_width=260, elem_id=f"figure-{name}") as self._box:
            self._plot = plot(x=_X, y=_Y, color=_SERIES, color_title=" ", height=_HEIGHT)
            gr.Markdown(text(info), elem_classes="teach")
        self.outputs: list[Any] = [self._box, self._plot]

    def hidden(self) -> Updates:
        """Nothing to see."""
        return {self._box: gr.update(visible=False)}

    def _shown(self, rows: list[list[Any]], kind: str, **looks: Any) -> Updates:
        if not rows:
            return self.hidden()
        value = {  # what the component takes without a data frame: gradio.components.native_plot.PlotData
            "columns": [_X, _Y, _SERIES],
            "data": rows,
            "datatypes": {_X: kind, _Y: "quantitative", _SERIES: "nominal"},
            "mark": self._plot.get_mark(),
        }
        return {self._box: gr.update(visible=True), self._plot: gr.update(value=value, **looks)}


class Bars(Figure):
    """A bar for each name."""

    def __init__(self, name: str, info: str) -> None:
        super().__init__(gr.BarPlot, name, info)

    def filled(self, values: Mapping[str, float | None], x_title: str, y_title: str) -> Updates:
        """The names that have a value, in their order."""
        rows: list[list[Any]] = [[name, value, ""] for name, value in values.items() if value is not None]
        names = [row[0] for row in rows]
        looks: dict[str, Any] = {"sort": names, "color_map": {"": _AFTER}, "colors_in_legend": []}
        return self._shown(rows, "nominal", x_title=x_title, y_title=y_title, **looks)


class Curves(Figure):
    """A curve for each series; the first of two is the paler."""

    def __init__(self, name: str, info: str) -> None:
        super().__init__(gr.LinePlot, name, info)

    def filled(
        self, x: Sequence[float], series: Mapping[str, Iterable[float]], x_title: str, y_title: str
    ) -> Updates:
        """Each series has as many values as `x`."""
        rows = [[at, y, name] for name, values in series.items() for at, y in zip(x, values, strict=True)]
        colours = (_BEFORE, _AFTER) if len(series) > 1 else (_AFTER,)
        looks: dict[str, Any] = {"color_map": dict(zip(series, colours, strict=True))}
        looks["colors_in_legend"] = list(series) if len(series) > 1 else []
        return self._shown(rows, "quantitative", x_title=x_title, y_title=y_title, **looks)
