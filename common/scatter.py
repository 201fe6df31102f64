"""Scatter plot of a few named points with intervals, as SVG: scatter.svg.j2, in the colours of scatter.css.

Gradio's plots have neither error bars nor names beside points, matplotlib takes half a second to import and
lets names overlap. Names are untrusted and escaped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

Number = Callable[[float, int], str]
"""Formats a number with so many decimals in the reader's language."""

WIDTH, HEIGHT = 360, 230
STYLE = Path(__file__).with_name("scatter.css")
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 346, 28, 186  # of the plane; around it are the scales and their titles
_STEPS = (1, 2, 5, 10)
_MAX_STEPS = 5
_LETTER, _LINE = 8, 13  # how wide and high the names' font is, at most
_MAX_NAME = 18


# Offsets of a name from its point, in order of preference: to the right (or left) and down to the base line.
_PLACES = [(right, down) for down in (-5, 14, -18, 27, -31, 40) for right in (8, -8)]


@dataclass(frozen=True)
class Box:
    """An occupied rectangle."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Return whether the two overlap."""
        beside = self.left >= other.right or self.right <= other.left
        return not beside and self.top < other.bottom and self.bottom > other.top


@dataclass(frozen=True)
class Point:
    """A point with the interval of its `y`, if known; a `chosen` one is highlighted."""

    name: str
    x: float
    y: float
    interval: tuple[float, float] | None = None
    chosen: bool = False


@dataclass(frozen=True)
class Axis:
    """An axis: its title with the unit.

    `best` is a value that is always in view, `limit` one that is marked with a dashed line across.
    """

    title: str
    best: float | None = None
    limit: float | None = None

    @property
    def shown(self) -> list[float]:
        """The values that are always in view."""
        return [value for value in (self.best, self.limit) if value is not None]


@dataclass(frozen=True)
class Scale:
    """Maps values to coordinates, with ticks at even steps."""

    low: float
    high: float
    step: float
    begin: float
    end: float

    def __call__(self, value: float) -> float:
        """The place of a value."""
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)

    @property
    def ticks(self) -> list[float]:
        """The values of the ticks."""
        return [
            self.low + self.step * place for place in range(round((self.high - self.low) / self.step) + 1)
        ]

    @property
    def decimals(self) -> int:
        """The number of decimals that distinguishes the ticks."""
        return max(0, -math.floor(math.log10(self.step)))


def scale_of(values: Sequence[float], begin: float, end: float) -> Scale:
    """Return a scale with round ticks that contains all values, and spans a percent of them or more."""
    low, high = min(values), max(values)
    room = max(high - low, abs(high) / 100) if high > low else abs(high) or 1.0
    size = 10 ** math.floor(math.log10(room / _MAX_STEPS))
    step = next(size * factor for factor in _STEPS if room / (size * factor) <= _MAX_STEPS)
    first, last = math.floor(low / step), math.ceil(high / step)
    return Scale(first * step, max(last, first + 1) * step, step, begin, end)


def scatter(points: Sequence[Point], x: Axis, y: Axis, label: str, number: Number) -> Markup:
    """Draw at least one point, all finite, as SVG; screen readers read `label`."""
    across = scale_of([*(point.x for point in points), *x.shown], _LEFT + 14, _RIGHT - 14)
    heights = [value for point in points for value in (point.y, *(point.interval or ()))]
    up = scale_of([*heights, *y.shown], _BOTTOM, _TOP)
    drawing = _template().render(
        width=WIDTH,
        height=HEIGHT,
        left=_LEFT,
        right=_RIGHT,
        bottom=_BOTTOM,
        label=label,
        x_title=x.title,
        y_title=y.title,
        rows=_ticks(up, number),
        columns=_ticks(across, number),
        limit=None if y.limit is None else up(y.limit),
        points=_placed(points, across, up),
    )
    return Markup(drawing)


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["at"] = "{:.1f}".format
    return environment.get_template("scatter.svg.j2")


def _ticks(scale: Scale, number: Number) -> list[tuple[float, str]]:
    return [(scale(value), number(value, scale.decimals)) for value in scale.ticks]


def _placed(points: Sequence[Point], across: Scale, up: Scale) -> list[dict[str, Any]]:
    """Return the coordinates of each point, its interval and its name, which covers no other if possible."""
    spots = [(across(point.x), up(point.y)) for point in points]
    taken = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in spots]
    placed: dict[int, dict[str, Any]] = {}
    # The chosen point's name is placed first, as it may find no room later.
    for number in sorted(range(len(points)), key=lambda one: not points[one].chosen):
        point, (x, y) = points[number], spots[number]
        name = point.name[:_MAX_NAME]
        right, down = _free_place(name, x, y, taken)
        taken.append(_box(name, x + right, y + down, left=right < 0))
        interval = [up(value) for value in point.interval or ()]
        place = {"x": x, "y": y, "interval": interval, "chosen": point.chosen}
        placed[number] = place | {"name": name, "right": right, "name_x": x + right, "name_y": y + down}
    return [placed[number] for number in range(len(points))]


def _free_place(name: str, x: float, y: float, taken: Sequence[Box]) -> tuple[float, float]:
    """Return the first offset where the name covers nothing, or else the first that is not cut off."""
    inside = []
    for right, down in _PLACES:
        box = _box(name, x + right, y + down, left=right < 0)
        is_inside = box.left >= _LEFT and box.right <= WIDTH and box.bottom <= _BOTTOM
        if is_inside and box.top >= _TOP - 10:
            inside.append((right, down))
            if not any(box.meets(other) for other in taken):
                return right, down
    return inside[0] if inside else _PLACES[0]


def _box(name: str, x: float, y: float, *, left: bool) -> Box:
    """Return the rectangle of a name that begins at x or, on the left, ends there."""
    width = _LETTER * len(name)
    return Box(x - width if left else x, y - _LINE + 3, x if left else x + width, y + 3)
