"""Small plots of a few numbers: bars by name, and curves over a number line. Gradio draws them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import gradio as gr

_HEIGHT = 210
_X, _Y, _SERIES = "x", "y", "series"
_BEFORE, _AFTER = "#a8a29e", "#0f8f80"  # both are seen on light and on dark

Update = Any


def bars(elem_id: str) -> gr.BarPlot:
    """A place for bars by name; empty and hidden until it is filled."""
    return gr.BarPlot(
        x=_X, y=_Y, height=_HEIGHT, color=_SERIES, color_map={"": _AFTER}, colors_in_legend=[],
        visible=False, elem_id=elem_id, tooltip="axis", min_width=220,
    )  # fmt: skip


def curves(elem_id: str) -> gr.LinePlot:
    """A place for curves over a number line; empty and hidden until it is filled."""
    return gr.LinePlot(
        x=_X,
        y=_Y,
        height=_HEIGHT,
        color=_SERIES,
        color_title=" ",
        visible=False,
        elem_id=elem_id,
        min_width=220,
    )


def filled_bars(values: Mapping[str, float | None], x_title: str, y_title: str) -> Update:
    """Bars for the names that have a value; hidden when none has."""
    rows = [[name, value, ""] for name, value in values.items() if value is not None]
    names = [str(name) for name, _, _ in rows]
    value = _data(rows, "bar", "nominal")
    return gr.update(value=value, x_title=x_title, y_title=y_title, sort=names, visible=bool(rows))


def filled_curves(
    x: Sequence[float], series: Mapping[str, Iterable[float]], x_title: str, y_title: str
) -> Update:
    """A curve for each series of as many values as `x` has; the first one is the paler."""
    rows = [[at, y, name] for name, values in series.items() for at, y in zip(x, values, strict=True)]
    colours = dict(zip(series, (_BEFORE, _AFTER) if len(series) > 1 else (_AFTER,), strict=True))
    value = _data(rows, "line", "quantitative")
    return gr.update(value=value, x_title=x_title, y_title=y_title, color_map=colours, visible=bool(rows))


def hidden() -> Update:
    """No plot."""
    return gr.update(visible=False)


def _data(rows: list[list[Any]], mark: str, x: str) -> dict[str, Any]:
    """What the plot's component takes without a data frame: gradio.components.native_plot.PlotData."""
    kinds = {_X: x, _Y: "quantitative", _SERIES: "nominal"}
    return {"columns": [_X, _Y, _SERIES], "data": rows, "datatypes": kinds, "mark": mark}
