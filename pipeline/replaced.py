"""What an earlier export left in the folder of a new one, and the new one does not list."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import InputError
from pipeline.manifest import NAME, Record, load_record, sha256


def listed_in(folder: Path) -> Record:
    """What the folder's manifest says; an empty record where there is none, or none that can be read."""
    try:
        return load_record(folder / NAME) or Record("")
    except InputError:
        return Record("")


def remove_replaced(folder: Path, earlier: Record, record: Record) -> None:
    """Remove the files that `earlier` lists and `record` does not, but none that was touched since."""
    for output in earlier.outputs.values():
        if output.file not in record.outputs and _is_plain(output.file) and output.stands(folder):
            (folder / output.file).unlink()
    matrix = earlier.importance.get("file", "")
    if matrix != record.importance.get("file", "") and _is_plain(matrix):
        path = folder / matrix
        if path.is_file() and sha256(path) == earlier.importance.get("sha256"):
            path.unlink()


def _is_plain(file: str) -> bool:
    """Whether it names a GGUF right in the folder: a manifest may be anyone's."""
    return file.endswith(".gguf") and Path(file).name == file
