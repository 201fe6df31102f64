"""The charts of an export: survival of the tuning and KL divergence of each file, by size and by speed."""

from __future__ import annotations

import importlib
import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.report.context import ReportedFile

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_INCHES = (4.0, 3.0)


# Placeholders that are replaced by CSS colours in the SVG, so that it fits light and dark pages.
_INK, _ACCENT = "#010203", "#040506"


def get_ready() -> None:
    """Import matplotlib ahead of time, which takes half a second. Raises ImportError when it is missing."""
    importlib.import_module("matplotlib.figure")


def charts(files: Sequence[ReportedFile]) -> list[str]:
    """Draw SVG elements of survival, if measured, and KL, each by size and by speed; none without any KL."""
    measured = [file for file in files if file.kl is not None]
    if not measured:
        return []
    import matplotlib as mpl

    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text: readable, and in the page's own font
        "svg.hashsalt": "gguf-chat",  # equal exports give equal files
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        **dict.fromkeys(
            ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK
        ),
    }
    survived = [file for file in measured if file.survival is not None]
    rows = [("survival", survived)] if survived else []
    with mpl.rc_context(style):
        return [
            _chart(shown, by, metric)
            for metric, shown in (*rows, ("kl", measured))
            for by in ("size", "speed")
        ]


def sheet(charts: Sequence[str]) -> str:
    """Arrange the charts in two columns as a single SVG element; empty without any."""
    if not charts:
        return ""
    (width, height), parts = (72 * inches for inches in _INCHES), list[str]()
    for index, chart in enumerate(charts):
        x, y = index % 2 * width, index // 2 * height
        parts.append(chart.replace("<svg", f'<svg x="{x}" y="{y}" width="{width}" height="{height}"', 1))
    size = f"0 0 {2 * width} {math.ceil(len(charts) / 2) * height}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}">{"".join(parts)}</svg>'


def _chart(files: Sequence[ReportedFile], by: str, metric: str) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, layout="constrained")
    figure.patch.set_alpha(0)
    _plot(figure.subplots(), files, by, metric)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return _adapt_to_page(out.getvalue())


def _plot(axis: Axes, files: Sequence[ReportedFile], by: str, metric: str) -> None:
    axis.patch.set_alpha(0)
    for file in files:
        x = file.size / 1e6 if by == "size" else file.decode or 0.0
        if metric == "survival":
            assert file.survival is not None
            value, low, high = (100 * share for share in file.survival)
            axis.errorbar(x, value, [[value - low], [high - value]], fmt="o", color=_ACCENT, capsize=3)
        else:
            value = file.kl or 0.0
            axis.plot(x, value, "o", color=_ACCENT)
        axis.annotate(file.type, (x, value), xytext=(5, 5), textcoords="offset points", color=_INK)
    axis.set_xlabel("size (MB)" if by == "size" else "written tokens/s, here")
    axis.set_ylabel("survival of the tuning (%)" if metric == "survival" else "KL divergence (nats a token)")
    axis.margins(0.2)
    if by == "speed":
        # From 0, so that a difference of 1 % looks like one.
        axis.set_xlim(0, 1.25 * max(file.decode or 1.0 for file in files))
    if metric == "kl":
        axis.set_ylim(bottom=0)


def _adapt_to_page(svg: str) -> str:
    """Return only the SVG element, with the page's colours and without a fixed size."""
    element = svg[svg.index("<svg") :]
    element = element.replace(_INK, "currentColor").replace(_ACCENT, "var(--accent, #4f46e5)")
    return re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"\1\2", element, count=1)
