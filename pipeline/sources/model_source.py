"""Find or download a base model or an adapter: a folder or Hub id -> a local folder of safetensors."""

from __future__ import annotations

import fnmatch
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import MissingPackage
from common.files import read_input, read_json_input
from common.hub_errors import hub_refusal
from common.paths import expanded
from pipeline.errors import InputError
from pipeline.sources.other_kinds import (
    damaged_weights,
    reject_empty_tensors,
    reject_encoder,
    reject_integer_weights,
    reject_mlx,
    reject_trainer_folder,
)
from pipeline.sources.tensor_info import TensorInfo

__all__ = [
    "BESIDE_WEIGHTS",
    "HUB_ID",
    "WEIGHTS",
    "Source",
    "TensorInfo",
    "adapter_source",
    "base_source",
    "read_json",
    "tensors_of",
]
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""A model's name on the Hub: owner/name."""

WEIGHTS = "adapter_model.safetensors"
"""The file of an adapter's tensors."""

BESIDE_WEIGHTS = (
    *("*.json", "*.jinja", "*.txt", "*.model", "*.model.v*", "*.tiktoken", "*.spm", "*.vocab", "*.bpe"),
    *("LICENSE*", "NOTICE*", "USE_POLICY*"),
)
"""What a model has beside its weights: configurations, tokenizers, templates, licences."""

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_BASE_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "LICENSE*", "README.md")
_ADAPTER_FILES = ("adapter_config.json", WEIGHTS, "*.json", "*.jinja", "*.model")
_JSON_FILES = ("config.json", ".index.json", "tokenizer.json", "_map.json", "tokens.json", "vocab.json")
_LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")  # config.json's names for their number
_IGNORED_FILES = ("original/*", "consolidated*", "onnx/*", "*.bin.index.json", "checkpoint-*/*")


@dataclass(frozen=True)
class Source:
    """A model or adapter on disk. `revision` is the Hub's commit, None for a local folder."""

    spec: str
    folder: Path
    revision: str | None

    def weight_files(self) -> list[Path]:
        """Return the model's safetensors files, in order: those in its index, as llama.cpp takes them.

        The folder may hold others, such as Mistral's consolidated.safetensors, a second copy of all weights.
        """
        if shards := _indexed_shards(self):
            return [self.folder / shard for shard in shards]
        return sorted(self.folder.glob("model*.safetensors"))

    def files(self) -> list[Path]:
        """Return all files that an export may depend on, in order."""
        return sorted(
            path for path in self.folder.iterdir() if path.is_file() and not path.name.startswith(".")
        )


def base_source(spec: str, revision: str | None = None) -> Source:
    """Find or download a base model, and check that it can be read. Raises InputError."""
    source = _locate("base", spec, revision, _BASE_FILES)
    reject_trainer_folder("base model", source.folder, "model*.safetensors")
    if _has_only(source, "adapter_config.json", "config.json"):
        base = read_json(source.folder / "adapter_config.json", "the adapter").get("base_model_name_or_path")
        raise InputError(
            f"--base {spec!r} is an adapter: give the model that it was trained on ({base}) as --base"
        )
    _require_safetensors("base model", source, "model*.safetensors")
    config = read_json(source.folder / "config.json", f"the base model {spec!r}")
    if not config.get("architectures"):
        raise InputError(
            f"{source.folder / 'config.json'} names no architectures: it is no transformers model"
        )
    reject_encoder(spec, source.folder, config)
    _check_shards(source)
    _check_config(source, config)
    return source


def adapter_source(spec: str, revision: str | None = None) -> Source:
    """Find or download a PEFT adapter. Raises InputError."""
    source = _locate("adapter", spec, revision, _ADAPTER_FILES)
    reject_mlx(spec, source.folder)
    reject_trainer_folder("adapter", source.folder, WEIGHTS)
    if _has_only(source, "config.json", "adapter_config.json"):
        raise InputError(
            f"--adapter {spec!r} is a whole model: give it as --base, and an adapter's folder here"
        )
    _require_safetensors("adapter", source, WEIGHTS)
    return source


def read_json(path: Path, owner: str) -> dict[str, Any]:
    """Read a JSON object. Raises InputError when the file is missing or malformed."""
    try:
        content = read_json_input(path)
    except FileNotFoundError:
        raise InputError(f"{owner} has no {path.name} in {path.parent}: is it the right folder?") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content


def tensors_of(source: Source, files: Iterable[Path] | None = None) -> dict[str, TensorInfo]:
    """Return the shape and type of every tensor in `files`, by default the model's. Reads headers only.

    Raises InputError.
    """
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingPackage("safetensors") from error
    found: dict[str, TensorInfo] = {}
    for path in source.weight_files() if files is None else files:
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    header = file.get_slice(name)
                    found[name] = TensorInfo(tuple(header.get_shape()), header.get_dtype())
        except (SafetensorError, OSError) as error:
            raise InputError(damaged_weights(path, error)) from None
        reject_empty_tensors(path, found)
    return found


def _locate(kind: str, spec: str, revision: str | None, patterns: tuple[str, ...]) -> Source:
    folder = expanded(spec)
    if folder.is_dir():
        if revision:
            raise InputError(f"--{kind} {spec!r} is a folder: a revision goes with a Hub id only")
        source = Source(spec, folder.resolve(), None)
        _check_inputs(source)
        return source
    if folder.exists():
        raise InputError(f"--{kind} {spec!r} is a file: give the folder that holds it, or a Hub id")
    if not HUB_ID.fullmatch(spec):
        raise InputError(f"--{kind} {spec!r}: there is no such folder, and a Hub id looks like owner/name")
    return _download(kind, spec, revision, patterns)


def _check_inputs(source: Source) -> None:
    """Raise InputError for what the libraries that read the files would hang or break on."""
    for path in sorted(source.folder.iterdir()):
        if path.exists() and not path.is_dir() and not path.is_file():
            raise InputError(f"{path} is no regular file: replace it by the file itself")
        try:
            if path.name.endswith(_JSON_FILES) and path.is_file():
                read_json_input(path)
            if path.suffix == ".jinja" and path.is_file():
                read_input(path).decode("utf-8")
        except (ValueError, OSError) as error:
            raise InputError(f"{path} cannot be read: {error}") from None


def _download(kind: str, spec: str, revision: str | None, patterns: tuple[str, ...]) -> Source:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        path = huggingface_hub.snapshot_download(
            spec, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(_IGNORED_FILES)
        )
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError, RuntimeError) as error:
        failed = f"it could not be downloaded ({type(error).__name__})"
        if isinstance(error, errors.LocalEntryNotFoundError):
            failed = "there is no such folder here, and the Hub cannot be reached: check the network"
        reason = hub_refusal(error, "folder", revision) or failed
    else:
        # huggingface_hub keeps each snapshot in a folder named after its commit.
        source = Source(spec, Path(path), Path(path).name)
        _check_inputs(source)
        return source
    raise InputError(f"--{kind} {spec!r}: {reason}")


def _has_only(source: Source, file: str, other: str) -> bool:
    return (source.folder / file).is_file() and not (source.folder / other).is_file()


def _require_safetensors(what: str, source: Source, pattern: str) -> None:
    """Raise InputError, with the way out, unless there is a file like `pattern`."""
    if list(source.folder.glob(pattern)):
        return
    names = [path.name for path in source.files()] if source.revision is None else _hub_files(source)
    pickles = sorted(name for glob in _PICKLES for name in fnmatch.filter(names, glob))
    ggufs = sorted(fnmatch.filter(names, "*.gguf"))
    if pickles:
        raise InputError(
            f"the {what} {source.spec!r} is stored as a pickle ({pickles[0]}), which can run code when "
            "it is opened: convert it once, where you trust it, "
            f"with `{_conversion_command(what, source, pickles[0])}`"
        )
    if ggufs:
        raise InputError(
            f"the {what} {source.spec!r} is already a GGUF ({ggufs[0]}): give the safetensors model"
        )
    if source.revision is not None:
        raise InputError(
            f"the {what} {source.spec!r} has no {pattern} on the Hub: is it the right repository?"
        )
    raise InputError(f"the {what} in {source.folder} has no {pattern}: is it the right folder?")


def _hub_files(source: Source) -> list[str]:
    """Return the names of all files in the repository's root; none offline."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        names = huggingface_hub.list_repo_files(source.spec, revision=source.revision)
    except (errors.HfHubHTTPError, OSError):
        return []
    return [name for name in names if "/" not in name]


def _conversion_command(what: str, source: Source, pickle: str) -> str:
    """Return the shell command that converts a pickle; for a Hub repository it downloads it first."""
    folder, fetch = source.folder, ""
    if source.revision is not None:
        folder = Path(source.spec.rpartition("/")[2])
        fetch = f"hf download {source.spec} --revision {source.revision} --local-dir {folder} && "
    if what == "adapter":
        return fetch + (
            'python -c "import sys, torch; from safetensors.torch import save_file; '
            'save_file(torch.load(sys.argv[1], weights_only=True), sys.argv[2])" '
            f"{shlex.quote(str(folder / pickle))} {shlex.quote(str(folder / 'adapter_model.safetensors'))}"
        )
    return fetch + (
        'python -c "import sys; from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; '
        '[c.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[2]) for c in (M, T)]" '
        f"{shlex.quote(str(folder))} {shlex.quote(f'{folder}-safetensors')}"
    )


def _check_config(source: Source, config: dict[str, Any]) -> None:
    """Raise InputError for fields of a type that transformers never writes, or more layers than tensors."""
    found = tensors_of(source)
    reject_integer_weights(source.folder, config, found)
    tensors = len(found)
    for part in (config, config.get("text_config") or {}):
        if not isinstance(part, dict):
            raise InputError(_malformed(source, "text_config", part))
        for field in ("vocab_size", *_LAYERS):
            value = part.get(field)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool)):
                raise InputError(_malformed(source, field, value))
        for field in _LAYERS:
            if (value := part.get(field) or 0) > tensors:
                raise InputError(
                    f"{source.folder / 'config.json'} has {field} = {str(value)[:80]}, and the weights are "
                    f"{tensors} tensors: they do not belong together"
                )


def _malformed(source: Source, field: str, value: object) -> str:
    return (
        f"{source.folder / 'config.json'} has {field} = {str(value)[:80]!r}, which transformers never writes "
        "there: download it again, or correct the value"
    )


def _indexed_shards(source: Source) -> list[str]:
    """Return the file names in model.safetensors.index.json, in order; none without an index."""
    index = source.folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    shards = read_json(index, f"the base model {source.spec!r}").get("weight_map")
    if not isinstance(shards, dict) or not all(map(_is_file_name, shards.values())):
        raise InputError(f"{index} is damaged: its weight_map does not name a file for each tensor")
    return sorted({Path(shard).name for shard in shards.values()})


def _is_file_name(value: object) -> bool:
    return isinstance(value, str) and len(value.encode("utf-8", "replace")) < 256


def _check_shards(source: Source) -> None:
    shards = _indexed_shards(source)
    missing = [shard for shard in shards if not (source.folder / shard).is_file()]
    if missing:
        raise InputError(
            f"the base model in {source.folder} is incomplete: {len(missing)} of {len(shards)} weight files "
            f"{'is' if len(missing) == 1 else 'are'} missing ({missing[0]} first): download it again"
        )
