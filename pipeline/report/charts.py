"""The charts: how much of the tuning survives, and how far each file is from the model, by size and speed."""

from __future__ import annotations

import importlib
import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipeline.report.context import FileFacts

if TYPE_CHECKING:
    from matplotlib.axes import Axes


_INCHES = (4.0, 3.0)


# Colours that stand for CSS's own in the finished SVG, so that it is right in light and in dark.
_INK, _ACCENT = "#010203", "#040506"


def get_ready() -> None:
    """Import what drawing needs, which takes half a second. Raises ImportError where it is missing."""
    importlib.import_module("matplotlib.figure")


def charts(files: Sequence[FileFacts]) -> list[str]:
    """SVG elements, two by size and speed for each thing that was measured; none when nothing was."""
    measured = [file for file in files if file.kl is not None]
    if not measured:
        return []
    import matplotlib as mpl

    style: dict[Any, Any] = {
        "svg.fonttype": "none",  # text stays text: readable, and in the page's own font
        "svg.hashsalt": "gguf-chat",  # the same export gives the same file
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
            _chart(shown, by, what) for what, shown in (*rows, ("kl", measured)) for by in ("size", "speed")
        ]


def sheet(charts: Sequence[str]) -> str:
    """The charts in two columns as one SVG element, for a file of its own; empty without any."""
    if not charts:
        return ""
    (wide, high), parts = (72 * inches for inches in _INCHES), list[str]()
    for place, one in enumerate(charts):
        x, y = place % 2 * wide, place // 2 * high
        parts.append(one.replace("<svg", f'<svg x="{x}" y="{y}" width="{wide}" height="{high}"', 1))
    size = f"0 0 {2 * wide} {math.ceil(len(charts) / 2) * high}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{size}">{"".join(parts)}</svg>'


def _chart(files: Sequence[FileFacts], by: str, what: str) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=_INCHES, layout="constrained")
    figure.patch.set_alpha(0)
    _plot(figure.subplots(), files, by, what)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return _for_a_page(out.getvalue())


def _plot(axis: Axes, files: Sequence[FileFacts], by: str, what: str) -> None:
    axis.patch.set_alpha(0)
    for file in files:
        x = file.size / 1e6 if by == "size" else file.decode or 0.0
        if what == "survival":
            assert file.survival is not None
            value, low, high = (100 * share for share in file.survival)
            axis.errorbar(x, value, [[value - low], [high - value]], fmt="o", color=_ACCENT, capsize=3)
        else:
            value = file.kl or 0.0
            axis.plot(x, value, "o", color=_ACCENT)
        axis.annotate(file.type, (x, value), xytext=(5, 5), textcoords="offset points", color=_INK)
    axis.set_xlabel("size (MB)" if by == "size" else "written tokens/s, here")
    axis.set_ylabel("survival of the tuning (%)" if what == "survival" else "KL divergence (nats a token)")
    axis.margins(0.2)
    if by == "speed":
        axis.set_xlim(
            0, 1.25 * max(file.decode or 1.0 for file in files)
        )  # a difference of 1 % looks like one
    if what == "kl":
        axis.set_ylim(bottom=0)


def _for_a_page(svg: str) -> str:
    """The SVG element alone, in the page's colours and as wide as its place."""
    element = svg[svg.index("<svg") :]
    element = element.replace(_INK, "currentColor").replace(_ACCENT, "var(--accent, #4f46e5)")
    return re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"\1\2", element, count=1)
