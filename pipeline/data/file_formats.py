"""Files that are no JSONL: say what a data set is instead, and how to make JSONL of it."""

from __future__ import annotations

import shlex
from itertools import islice
from pathlib import Path

from common.file_kinds import kind_of
from pipeline.errors import InputError

_UNPACK = {"gzip": "zcat", "bzip2": "bzcat", "xz": "xzcat", "zstd": "zstdcat", "zip": "unzip -p"}
_PYTHON = {
    "Parquet": "from datasets import Dataset; Dataset.from_parquet({old!r}).to_json({new!r})",
    "Arrow": "from datasets import Dataset; Dataset.from_file({old!r}).to_json({new!r})",
    "Excel": "import pandas; pandas.read_excel({old!r}).to_json({new!r}, orient='records', lines=True)",
    "CSV": "from datasets import Dataset; Dataset.from_csv({old!r}).to_json({new!r})",
    "TSV": "from datasets import Dataset; Dataset.from_csv({old!r}, sep='\\t').to_json({new!r})",
    "pickle": "import pandas; pandas.read_pickle({old!r}).to_json({new!r}, orient='records', lines=True)",
}
_ADVICE = {
    "Git LFS pointer": "fetch the data itself with `git lfs pull`",
    "HTML": "it is a web page: download the file itself (on the Hub, its link with /resolve/)",
    "7z": "unpack it first",
}
_NOTES = {"pickle": "a pickle can run code when it is opened, so do it where you trust the file: "}


def reject_other_formats(path: Path) -> None:
    """Raise InputError for a folder, or a file that is no JSONL, with the way to make JSONL of it.

    Raises OSError for a file that cannot be read.
    """
    if path.is_dir():
        raise InputError(f"the data set {path} cannot be read: it is a folder: {_inside(path)}")
    kind = kind_of(path) or {".csv": "CSV", ".tsv": "TSV"}.get(path.suffix.lower())
    if kind is not None:
        raise InputError(f"the data set {path} is {_article(kind)}, not JSONL: {_way(path, kind)}")


def _article(kind: str) -> str:
    return {"HTML": "HTML", "Git LFS pointer": "a Git LFS pointer", "pickle": "a pickle"}.get(kind, kind)


def _way(path: Path, kind: str) -> str:
    name, new = path.name, f"{path.name.split('.')[0] or 'chats'}.jsonl"
    if kind in _UNPACK:
        return f"unpack it, as `{_UNPACK[kind]} {shlex.quote(name)} > {shlex.quote(new)}` does"
    if kind == "UTF-16":
        return (
            f"save it as UTF-8, as `iconv -f UTF-16 -t UTF-8 {shlex.quote(name)} > {shlex.quote(new)}` does"
        )
    if kind in _PYTHON:
        command = _command(_PYTHON[kind].format(old=name, new=new))
        return f"{_NOTES.get(kind, '')}convert it with `{command}`"
    return _ADVICE.get(kind, 'write one {"messages": [...]} a line')


def _command(code: str) -> str:
    return f'python -c "{code}"'


def _inside(folder: Path) -> str:
    """Return what to do with a folder that was given as a data set."""
    saved = f"from datasets import load_from_disk; load_from_disk({folder.name!r})"
    if (folder / "dataset_dict.json").is_file():
        command = _command(f"{saved}['train'].to_json('train.jsonl')")
        return f"convert its split with `{command}`"
    if (folder / "state.json").is_file():
        command = _command(f"{saved}.to_json('train.jsonl')")
        return f"convert it with `{command}`"
    found = (
        path for kind in ("jsonl", "json", "parquet", "csv") for path in sorted(folder.glob(f"**/*.{kind}"))
    )
    files = [str(path.relative_to(folder)) for path in islice(found, 1)]
    return f"name a file in it, such as {files[0]}" if files else "name a JSONL file of chats"
