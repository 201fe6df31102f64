"""Write a split: train.jsonl, valid.jsonl, test.jsonl and split.json, which says how they were made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from common.files import atomic_directory, sha256
from common.text import pluralize
from pipeline.data.options import DataOptions
from pipeline.data.reader import DataSet, load_data
from pipeline.data.rows import Row, rows_sha256, to_jsonl
from pipeline.data.stratified_split import SplitOptions, count_categories, split_by_category
from pipeline.errors import InputError

RECORD = "split.json"
CATEGORY = "category"
"""The key of a row's category where it comes from its file's name."""


def write_split(
    specs: Sequence[str], reading: DataOptions, options: SplitOptions, out: Path, *, force: bool = False
) -> dict[str, Any]:
    """Split data sets into `out` and return what split.json says.

    Without a field, the category of a row is the name of its file, if there are several. Raises InputError
    before anything is written; an interruption leaves `out` as it was.
    """
    _check_out(out, force)
    loaded = {spec: load_data(spec, reading) for spec in specs}
    rows = [row for spec, data in loaded.items() for row in _categorized(spec, data, reading, len(specs))]
    split = split_by_category(rows, options)
    has_categories = any(row.category is not None for row in rows)
    field = (reading.field or CATEGORY) if has_categories else None
    notes = [note for data in loaded.values() for note in data.notes] + split.notes
    if split.copies:
        notes.append(f"{pluralize(split.copies, 'copy', 'copies')} of other rows left out")
    if split.unused:
        notes.append(f"{pluralize(split.unused, 'row was', 'rows were')} not taken")
    with atomic_directory(out) as folder:
        outputs = {}
        for part, taken in split.parts.items():
            path = folder / f"{part}.jsonl"
            path.write_text(to_jsonl(taken, field), encoding="utf-8")
            outputs[path.name] = {
                "rows": len(taken),
                "sha256": sha256(path),
                "categories": count_categories(taken),
            }
        record = {
            "inputs": [_input(spec, data) for spec, data in loaded.items()],
            "outputs": outputs,
            "options": {
                "data": asdict(reading),
                "split": {**asdict(options), "ratios": list(options.ratios)},
            },
            "copies": split.copies,
            "unused": split.unused,
            "notes": notes,
        }
        (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def _check_out(out: Path, force: bool) -> None:
    if not out.exists():
        return
    if not force:
        raise InputError(f"--out {str(out)!r} exists already: choose another, or give --force to replace it")
    if not out.is_dir() or (any(out.iterdir()) and not (out / RECORD).is_file()):
        raise InputError(
            f"--out {str(out)!r} is no folder of a split, so --force will not replace it: choose another"
        )


def _categorized(spec: str, data: DataSet, reading: DataOptions, files: int) -> list[Row]:
    if reading.field is not None or files == 1:
        return data.rows
    name = Path(spec).name.split(".")[0]
    return [replace(row, category=name) for row in data.rows]


def _input(spec: str, data: DataSet) -> dict[str, Any]:
    of_file = {"sha256": sha256(Path(spec))} if Path(spec).is_file() else {}
    return {
        "name": spec,
        "kind": data.kind,
        "rows": len(data.rows),
        **of_file,
        "rows_sha256": rows_sha256(data.rows),
    }
