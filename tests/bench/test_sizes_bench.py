"""The comparison of files for a size with llama.cpp's types."""

from __future__ import annotations

import json

import pytest

from bench.report import show_sizes
from bench.sizes import MAX_RATIO, MeasuredFile, SizeComparison, export_limit
from pipeline.errors import InputError


def test_the_ratio_is_that_to_the_best_type_that_fits_and_what_is_worse_is_counted(
    capsys: pytest.CaptureFixture[str],
) -> None:
    ready = MeasuredFile("IQ4_XS", 91_000_000, 0.2)
    found = [
        SizeComparison("92M", MeasuredFile("AUTO-92M", 92_000_000, 0.08), ready),
        SizeComparison("99M", MeasuredFile("IQ4_XS", 91_000_000, 0.2), ready),
        SizeComparison("98M", MeasuredFile("AUTO-98M", 98_000_000, 0.21), ready),
        SizeComparison("80M", MeasuredFile("AUTO-80M", 80_000_000, 0.5), None),
    ]
    show_sizes(found, MAX_RATIO, as_json=True)
    printed = capsys.readouterr().out
    assert "At 1 of 3 sizes at most 0.85 of the KL, at 1 more than it." in printed
    assert "none fits" in printed
    found_json = json.loads(printed.splitlines()[-1])
    assert list(found_json["ratios"].values()) == [pytest.approx(0.4), 1.0, pytest.approx(1.05), None]
    assert found_json["figures"]["98M"]["ours"]["type"] == "AUTO-98M"


def test_a_size_is_checked_before_anything_is_exported() -> None:
    assert export_limit("98.5M") == 98_500_000
    with pytest.raises(InputError, match="--max-size '98' is no size"):
        export_limit("98")
