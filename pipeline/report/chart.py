"""The chart: how much of the tuning survives, and how far each file is from the model, by size and speed."""

from __future__ import annotations

import importlib
import io
import re
from collections.abc import Sequence
from typing import Any

from pipeline.report.facts import FileFacts

# Colours that stand for CSS's own in the finished SVG, so that it is right in light and in dark.
_INK, _ACCENT = "#010203", "#040506"


def get_ready() -> None:
    """Import what drawing needs, which takes half a second. Raises ImportError where it is missing."""
    importlib.import_module("matplotlib.figure")


def chart(files: Sequence[FileFacts]) -> str:
    """An SVG element with up to four plots; empty when nothing was measured."""
    measured = [file for file in files if file.kl is not None]
    if not measured:
        return ""
    import matplotlib as mpl
    from matplotlib.figure import Figure

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
    with mpl.rc_context(style):
        figure = Figure(figsize=(8, 6 if survived else 3.2), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.subplots(2 if survived else 1, 2, squeeze=False)
        for column, by in enumerate(("size", "speed")):
            if survived:
                _plot(axes[0][column], survived, by, "survival")
            _plot(axes[-1][column], measured, by, "kl")
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
    return _for_a_page(out.getvalue())


def _plot(axis: object, files: Sequence[FileFacts], by: str, what: str) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axis, Axes)
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
    if what == "kl":
        axis.set_ylim(bottom=0)


def _for_a_page(svg: str) -> str:
    """The SVG element alone, in the page's colours and as wide as its place."""
    element = svg[svg.index("<svg") :]
    element = element.replace(_INK, "currentColor").replace(_ACCENT, "var(--accent, #4f46e5)")
    return re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"\1\2", element, count=1)
