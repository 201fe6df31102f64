"""The loss of a training as an SVG: each step's, smoothed, and the held-out losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_WIDTH, _HEIGHT = 560, 220
_LEFT, _TOP, _RIGHT, _BOTTOM = 46, 16, 12, 30
_MOST_POINTS = 500
_SMOOTHING = 0.9
_STYLE = (
    "text{font:11px system-ui,sans-serif;fill:#6b665e}path{fill:none;stroke-width:2;stroke-linejoin:round}"
    ".grid{stroke:#e8e4dd;stroke-width:1}.raw{stroke:#b5d8d3;stroke-width:1}.smooth{stroke:#0f766e}"
    ".held{stroke:#b45309}circle{fill:#b45309}"
)
Points = Sequence[tuple[float, float]]


def loss_curve(metrics: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the curve of the lines of metrics.jsonl; None for fewer than two steps with a loss."""
    raw = [(float(line["step"]), float(line["loss"])) for line in metrics if "loss" in line]
    held = [
        (float(line["step"]), float(line["held_out_loss"])) for line in metrics if "held_out_loss" in line
    ]
    if len(raw) < 2:
        return None
    smooth = _thinned(_smoothed(raw))
    raw = _thinned(raw)
    values = [value for _, value in (*raw, *held)]
    low, high = min(values), max(values)
    if high == low:
        high = low + 1
    first, last = raw[0][0], raw[-1][0]

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x = _LEFT + (point[0] - first) / (last - first) * (_WIDTH - _LEFT - _RIGHT)
        y = _TOP + (high - point[1]) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        return round(x, 1), round(y, 1)

    ticks = [low + share * (high - low) for share in (0, 0.25, 0.5, 0.75, 1)]
    grid = "".join(
        f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/><text x="{_LEFT - 6}" y="{y + 4}" '
        f'text-anchor="end">{value:.2f}</text>'
        for value, y in ((value, place((first, value))[1]) for value in ticks)
    )
    dots = "".join(f'<circle cx="{x}" cy="{y}" r="3"/>' for x, y in map(place, held))
    held_line = f'<path class="held" d="{_path([place(one) for one in held])}"/>' if held else ""
    legend = "step (loss in nats a token" + ("; dots: held out)" if held else ")")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Training loss from {raw[0][1]:.2f} to {smooth[-1][1]:.2f} nats a token">'
        f'<style>{_STYLE}</style><rect width="100%" height="100%" fill="#fff"/>{grid}'
        f'<path class="raw" d="{_path([place(one) for one in raw])}"/>'
        f'<path class="smooth" d="{_path([place(one) for one in smooth])}"/>{held_line}{dots}'
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">{first:.0f}</text>'
        f'<text x="{_WIDTH / 2:.0f}" y="{_HEIGHT - 8}" text-anchor="middle">{legend}</text>'
        f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">{last:.0f}</text></svg>\n'
    )


def _smoothed(points: Points) -> list[tuple[float, float]]:
    """Return the exponential moving average, without the bias of its start (Kingma and Ba, 2014)."""
    smooth, total, weight = [], 0.0, 0.0
    for step, value in points:
        total = _SMOOTHING * total + (1 - _SMOOTHING) * value
        weight = _SMOOTHING * weight + (1 - _SMOOTHING)
        smooth.append((step, total / weight))
    return smooth


def _thinned(points: Points) -> list[tuple[float, float]]:
    every = -(-len(points) // _MOST_POINTS)
    return [*points[:-1:every], points[-1]]


def _path(points: Points) -> str:
    return "M" + "L".join(f"{x} {y}" for x, y in points)
