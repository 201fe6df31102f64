"""The pictures of docs/quantization.md are those that the script draws, and the document shows each."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.draw_quantization import PICTURES


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_what_the_script_draws(name: str, root: Path) -> None:
    file = root / "docs" / "images" / f"{name}.svg"
    assert file.read_text(encoding="utf-8") == PICTURES[name]()
    assert file.stat().st_size < 40_000
    assert f"](images/{name}.svg)" in (root / "docs" / "quantization.md").read_text(encoding="utf-8")
