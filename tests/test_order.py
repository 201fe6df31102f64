"""The order of the suite's files."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import LONGEST


def test_the_longest_files_are_there_and_named_once(root: Path) -> None:
    assert [name for name in LONGEST if not (root / name).is_file()] == []
    assert len({*LONGEST}) == len(LONGEST)
