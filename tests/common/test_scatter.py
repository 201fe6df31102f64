"""Names beside the points of a chart: whole, and over no other where there is room."""

from __future__ import annotations

from common.scatter import WIDTH, Point, _placed, scale_of


def test_a_chosen_points_name_is_whole_in_a_crowd() -> None:
    points = [
        Point("Q4_K_S", 0.813, 72.6),
        Point("Q4_1", 0.884, 62.3),
        Point("Q5_K_S", 0.963, 90.7),
        Point("Q5_0", 0.963, 87.9),
        Point("Q5_K_M", 0.985, 91.2),
        Point("AUTO-1M", 0.9999, 95.5, chosen=True),
    ]
    across = scale_of([point.x for point in points], 58, 332)
    up = scale_of([100.0, 95.0, *(point.y for point in points)], 186, 28)
    placed = _placed(points, across, up)
    assert [one["name"] for one in placed] == [point.name for point in points]
    chosen = placed[-1]
    begin = chosen["name_x"] if chosen["right"] > 0 else chosen["name_x"] - 8 * len(chosen["name"])
    assert begin >= 44
    assert begin + 8 * len(chosen["name"]) <= WIDTH
