"""Files that hold no records which are read: say what a data set is instead, and how to make JSONL of it."""

from __future__ import annotations

import shlex
from pathlib import Path

from pipeline.errors import InputError

_UNPACK = {"bzip2": "bzcat", "xz": "xzcat", "zstd": "zstdcat", "zip": "unzip -p"}
_PYTHON = {
    "Arrow": "from datasets import Dataset; Dataset.from_file({old!r}).to_json({new!r})",
    "Excel": "import pandas; pandas.read_excel({old!r}).to_json({new!r}, orient='records', lines=True)",
    "pickle": "import pandas; pandas.read_pickle({old!r}).to_json({new!r}, orient='records', lines=True)",
}
_ADVICE = {
    "Git LFS pointer": "fetch the data itself with `git lfs pull`",
    "HTML": "it is a web page: download the file itself (on the Hub, its link with /resolve/)",
    "7z": "unpack it first",
}
_NOTES = {"pickle": "a pickle can run code when it is opened, so do it where you trust the file: "}
SUFFIXES = (".jsonl", ".json", ".ndjson", ".csv", ".tsv", ".parquet", ".gz", ".txt", ".arrow", ".zst")
"""What the names of data files end with."""


def delimited(path: Path) -> str | None:
    """Return the separator of a table, by the file's name: a tab, or "" for unknown; None for no table."""
    suffixes = [suffix.lower() for suffix in path.suffixes if suffix.lower() != ".gz"]
    return {".csv": "", ".tsv": "\t"}.get(suffixes[-1]) if suffixes else None


def refuse_kind(path: Path, kind: str) -> InputError:
    """Return the error for a file of a kind that is not read, with the way to make JSONL of it."""
    return InputError(
        f"the data set {path} is {_article(kind)}, not JSON, CSV or Parquet: {_way(path, kind)}"
    )


def _article(kind: str) -> str:
    return {"HTML": "HTML", "Git LFS pointer": "a Git LFS pointer", "pickle": "a pickle"}.get(kind, kind)


def _way(path: Path, kind: str) -> str:
    name, new = path.name, f"{path.name.split('.')[0] or 'chats'}.jsonl"
    if kind in _UNPACK:
        return f"unpack it, as `{_UNPACK[kind]} {shlex.quote(name)} > {shlex.quote(new)}` does"
    if kind == "UTF-16":
        to = name if path.suffix.lower() in (".csv", ".tsv") else new
        to = f"utf8-{to}" if to == name else to
        return f"save it as UTF-8, as `iconv -f UTF-16 -t UTF-8 {shlex.quote(name)} > {shlex.quote(to)}` does"
    if kind in _PYTHON:
        return (
            f'{_NOTES.get(kind, "")}convert it with `python -c "{_PYTHON[kind].format(old=name, new=new)}"`'
        )
    return _ADVICE.get(kind, 'write one {"messages": [...]} a line')
