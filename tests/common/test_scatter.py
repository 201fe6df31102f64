"""Names beside the points of a chart: whole, and over no other where there is room."""

from __future__ import annotations

from common.scatter import WIDTH, Point, _placed, scale_of


def test_a_chosen_points_name_is_whole_in_a_crowd() -> None:
    crowd = [Point(f"Q5_K_{place}", 0.95 + place / 1000, 91.0 + place, None) for place in range(6)]
    points = [*crowd, Point("AUTO-900M", 1.0, 95.5, None, chosen=True)]
    across = scale_of([point.x for point in points], 58, 332)
    up = scale_of([point.y for point in points], 186, 28)
    placed = _placed(points, across, up)
    [chosen] = [one for one in placed if one["chosen"]]
    begin = chosen["name_x"] if chosen["right"] > 0 else chosen["name_x"] - 8 * len(chosen["name"])
    assert begin >= 44
    assert begin + 8 * len(chosen["name"]) <= WIDTH
