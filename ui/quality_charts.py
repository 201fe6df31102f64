"""The files of an export as points: survival of the tuning, and KL, by size and by speed."""

from __future__ import annotations

from collections.abc import Sequence

from ui.quality_view import FileFigures
from ui.scatter import Axis, Point, scatter
from ui.tables import paragraph
from ui.texts import Words

GOOD_SURVIVAL = 95.0  # percent; these two are the certificate's own limits (docs/survival.md)
GOOD_KL = 0.1
_GB = 2e9  # bytes from which sizes are told in GB
_MOST = 24  # points; an export has fewer files, a stranger's certificate may have any number


def charts(figures: Sequence[FileFigures], chosen: str, say: Words) -> str:
    """The charts of what was measured, the file `chosen` standing out; empty when nothing was."""
    parts = []
    for what in ("survival", "kl"):
        drawn = [_chart(figures, what, by, chosen, say) for by in ("size", "speed")]
        if any(drawn):
            parts.append(f"<div class='scatters'>{''.join(drawn)}</div>")
            parts.append(paragraph(say(f"quality.{what}.info"), "teach"))
    return "".join(parts)


def _chart(figures: Sequence[FileFigures], what: str, by: str, chosen: str, say: Words) -> str:
    unit = 1e9 if max((one.size or 0 for one in figures), default=0) >= _GB else 1e6
    points = [point for one in figures if (point := _point(one, what, by, chosen, unit))][:_MOST]
    if not points:
        return ""
    limit = GOOD_SURVIVAL if what == "survival" else GOOD_KL
    size = f"{say('quality.head.size')}, {'GB' if unit == 1e9 else 'MB'}"
    x = Axis(size if by == "size" else say("quality.speed"))
    y = Axis(say(f"quality.{what}"), 100.0 if what == "survival" else 0.0, limit)
    return scatter(points, x, y, say("quality.chart", y=y.title, x=x.title), say.number)


def _point(one: FileFigures, what: str, by: str, chosen: str, unit: float) -> Point | None:
    """A file in one chart; None where it was not measured, or where no real file can be."""
    x = one.decode if by == "speed" else one.size and one.size / unit
    if what == "kl":
        y, interval = one.kl, None
    else:
        y, interval = one.survival and 100 * one.survival, _percent(one.interval)
    if x is None or y is None or not 0 < x < 1e6 or not -1e3 < y < 1e3:
        return None
    return Point(one.label, x, y, interval, one.name == chosen)


def _percent(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    if interval is None or not -10 < interval[0] <= interval[1] < 10:
        return None
    return 100 * interval[0], 100 * interval[1]
