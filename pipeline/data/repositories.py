"""The records of a data set on the Hub, in a folder laid out like there, or in one of save_to_disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from common.errors import MissingPackage
from common.files import read_json_input
from common.hub_errors import hub_refusal
from common.text import first_line
from pipeline.data.file_formats import SUFFIXES
from pipeline.data.options import DataOptions
from pipeline.data.record_files import Records, file_records
from pipeline.errors import InputError
from pipeline.sources.model_source import HUB_ID

_DATA_FILES = ("jsonl", "json", "parquet", "csv", "tsv", "jsonl.gz", "json.gz", "csv.gz", "arrow")


def is_hub_id(spec: str) -> bool:
    """Return whether a name that is no path here can be one on the Hub: owner/name, or owner/name:subset."""
    name = spec.partition(":")[0]
    parent = Path(spec).parent
    return bool(HUB_ID.fullmatch(name)) and not spec.lower().endswith(SUFFIXES) and not parent.is_dir()


def hub_records(spec: str, options: DataOptions) -> Records:
    """Download a data set by the library datasets. Raises InputError with the reason of a failure."""
    name, _, subset = spec.partition(":")

    def fault(error: Exception) -> str:
        refusal = hub_refusal(error, "path", options.revision)
        if refusal is None and isinstance(error, FileNotFoundError | ConnectionError):
            refusal = _access_refusal(name, options.revision)
        return refusal or f"the library datasets cannot load it ({_said(error)})"

    found = _load(f"the data set {spec!r}", fault, options, name, subset or None, revision=options.revision)
    return Records(spec, "Hub", "row", enumerate(found, 1))


def _access_refusal(name: str, revision: str | None) -> str | None:
    """Ask the Hub why a data set cannot be had, as the library replaces its answer by one without a cause."""
    from huggingface_hub import HfApi, errors

    try:
        HfApi().auth_check(name, repo_type="dataset")
    except (errors.HfHubHTTPError, OSError) as error:
        return hub_refusal(error, "path", revision)
    return None


def folder_records(folder: Path, options: DataOptions) -> Records:
    """Open a folder that save_to_disk wrote, or one with the files and card of a repository on the Hub."""
    if (folder / "dataset_dict.json").is_file():
        splits = _json(folder / "dataset_dict.json").get("splits") or []
        folder = folder / _choose_split(splits, options.split, str(folder))
    elif (folder / "state.json").is_file() and options.split is not None:
        raise InputError(f"the data set {folder} has no splits: leave --split {options.split} out")
    if (folder / "state.json").is_file():
        return Records(str(folder), "Arrow", "row", enumerate(_saved(folder), 1))
    files = [path for kind in _DATA_FILES for path in sorted(folder.glob(f"**/*.{kind}"))]
    if len(files) == 1 and options.split is None:
        return file_records(files[0])
    if not files:
        raise InputError(
            f"the data set {folder} cannot be read: it is a folder without data: name a file of chats"
        )

    def fault(error: Exception) -> str:
        example = files[0].relative_to(folder)
        return (
            f"it is a folder that the library datasets cannot load ({_said(error)}): "
            f"name a file in it, such as {example}"
        )

    found = _load(f"the data set {folder} cannot be read", fault, options, str(folder), None)
    return Records(str(folder), "folder", "row", enumerate(found, 1))


def _load(
    what: str, fault: Callable[[Exception], str], options: DataOptions, *names: str | None, **more: Any
) -> Any:
    try:
        import datasets
    except ImportError:
        raise MissingPackage("datasets") from None
    try:
        found = datasets.load_dataset(*names, split=options.split, **more)
    except Exception as error:  # noqa: BLE001 - its builders raise errors of many kinds
        raise InputError(f"{what}: {fault(error)}") from None
    if options.split is None:
        found = found[_choose_split(list(found), None, what.removeprefix("the data set "))]
    return found


def _said(error: Exception) -> str:
    """Return an error's message in one line; the names to choose from are on its further lines."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _choose_split(splits: Sequence[str], wanted: str | None, name: str) -> str:
    """Return the split that is wanted; without a wish "train", or the only one."""
    if wanted is None:
        if "train" in splits or len(splits) == 1:
            return "train" if "train" in splits else splits[0]
        raise InputError(f"{name} has the splits {', '.join(splits) or 'none'}: choose one with --split")
    if wanted not in splits:
        close = get_close_matches(wanted, splits, 1)
        raise InputError(
            f"{name} has no split {wanted!r}: use " + (close[0] if close else f"one of {', '.join(splits)}")
        )
    return wanted


def _saved(folder: Path) -> Iterator[object]:
    """Yield the rows of one data set in Arrow files, as save_to_disk writes them."""
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingPackage("pyarrow") from None
    state = _json(folder / "state.json")
    files = [folder / Path(str(one.get("filename"))).name for one in state.get("_data_files") or []]
    if not files or state.get("_indices_data_files"):
        raise InputError(
            f"{folder}: state.json is of another version of datasets: save the data set anew, as JSONL"
        )
    for path in files:
        try:
            with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
                for batch in reader:
                    yield from batch.to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{path} is damaged or missing ({first_line(error)}): save the data set anew"
            ) from None


def _json(path: Path) -> dict[str, Any]:
    try:
        found = read_json_input(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({first_line(error)}): save the data set anew") from None
    return found if isinstance(found, dict) else {}
