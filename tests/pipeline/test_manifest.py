from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.manifest import Record, load_record


@pytest.mark.parametrize(
    "change", [{"invented": 1}, {"fingerprint": None}, {"outputs": [{"file": "a.gguf"}]}], ids=str
)
def test_a_record_with_other_fields_is_of_another_version(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    Record("f").save(path)
    assert load_record(path) == Record("f")
    content = {**json.loads(path.read_text()), **change}
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    with pytest.raises(InputError, match="written by another version"):
        load_record(path)
