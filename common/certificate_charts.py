"""The charts of a certificate: each file's survival of the tuning and KL divergence, by size and by speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup

from common.scatter import Axis, Number, Point, scatter

Title = Literal["survival", "kl", "size", "speed", "chart"]
GOOD_SURVIVAL = 95.0  # percent; both limits are the certificate's (docs/survival.md)
GOOD_KL = 0.1
_GB = 2e9  # from this many bytes on sizes are in GB
_MAX_NAME = 40
_MAX_POINTS = 24  # an export has fewer files, an untrusted certificate may have any number


@dataclass(frozen=True)
class ChartedFile:
    """The measurements of a file: `size` in bytes, `kl` in nats per token, `decode` in tokens per second.

    `survival` is a share with its `interval`. None is not measured. A `chosen` file is highlighted.
    """

    label: str
    size: int | None
    decode: float | None
    kl: float | None
    survival: float | None
    interval: tuple[float, float] | None = None
    chosen: bool = False


def certificate_charts(
    files: Sequence[ChartedFile], titles: Mapping[Title, str], number: Number
) -> dict[Title, list[Markup]]:
    """Draw the charts of "survival" and "kl", each by size and by speed; what was not measured is left out.

    The title "chart" names a chart for screen readers, with {x} and {y} for its axes.
    """
    drawn: dict[Title, list[Markup]] = {}
    measures: tuple[Title, ...] = ("survival", "kl")
    for what in measures:
        axes: tuple[Title, ...] = ("size", "speed")
        charts = [_chart(files, what, by, titles, number) for by in axes]
        if any(charts):
            drawn[what] = [chart for chart in charts if chart]
    return drawn


def size_charts(files: Sequence[ChartedFile], titles: Mapping[Title, str], number: Number) -> list[Markup]:
    """Draw survival and KL by size, of files that were tried; what was not measured is left out."""
    measures: tuple[Title, ...] = ("survival", "kl")
    charts = [_chart(files, what, "size", titles, number) for what in measures]
    return [chart for chart in charts if chart]


def tried_files(tried: object, chosen: object) -> list[ChartedFile]:
    """Return the trials of `--quant auto` in a manifest or a certificate, which may be a stranger's."""
    entries = [one for one in tried if isinstance(one, Mapping)] if isinstance(tried, list | tuple) else []
    return [_tried(one, chosen) for one in entries[:_MAX_POINTS]]


def _tried(one: Mapping[str, object], chosen: object) -> ChartedFile:
    def number(key: str) -> float | None:
        value = one.get(key)
        usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
        return float(value) if usable and isinstance(value, int | float) else None

    size, low, high = number("size"), number("low"), number("high")
    return ChartedFile(
        str(one.get("type", ""))[:_MAX_NAME],
        None if size is None else int(size),
        number("decode"),
        number("mean_kl"),
        number("survival"),
        None if low is None or high is None else (low, high),
        one.get("type") == chosen,
    )


def _chart(
    files: Sequence[ChartedFile], what: Title, by: Title, titles: Mapping[Title, str], number: Number
) -> Markup:
    unit, name = (1e9, "GB") if max((one.size or 0 for one in files), default=0) >= _GB else (1e6, "MB")
    points = [point for one in files if (point := _point(one, what, by, unit))][:_MAX_POINTS]
    if not points:
        return Markup()
    # Speed begins at 0, so that a difference of 1 % looks like one.
    x = Axis(titles["speed"], 0.0) if by == "speed" else Axis(f"{titles['size']}, {name}")
    y = Axis(titles[what], *((100.0, GOOD_SURVIVAL) if what == "survival" else (0.0, GOOD_KL)))
    return scatter(points, x, y, titles["chart"].format(y=y.title, x=x.title), number)


def _point(one: ChartedFile, what: Title, by: Title, unit: float) -> Point | None:
    """Return a file's point in a chart; None if it was not measured, or the values are impossible."""
    x = one.decode if by == "speed" else one.size and one.size / unit
    if what == "kl":
        y, interval = one.kl, None
    else:
        y, interval = one.survival and 100 * one.survival, _percent(one.interval)
    if x is None or y is None or not 0 < x < 1e6 or not -1e3 < y < 1e3:
        return None
    return Point(one.label, x, y, interval, one.chosen)


def _percent(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    if interval is None or not -10 < interval[0] <= interval[1] < 10:
        return None
    return 100 * interval[0], 100 * interval[1]
