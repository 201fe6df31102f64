"""A Hub id or a folder -> a local folder with safetensors, config and tokenizer."""

from __future__ import annotations

import fnmatch
import json
import math
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import MissingPackage
from pipeline.errors import InputError

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
"""How the Hub names a model: owner/name."""


_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_BASE_FILES = ("*.json", "*.safetensors", "*.model", "*.jinja", "*.txt", "LICENSE*", "README.md")
_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors", "*.json", "*.jinja", "*.model")
_NOT_WANTED = ("original/*", "consolidated*", "onnx/*", "*.bin.index.json", "checkpoint-*/*")


@dataclass(frozen=True)
class Source:
    """A model or adapter on disk. `revision` is the Hub's commit, None for a folder of one's own."""

    spec: str
    folder: Path
    revision: str | None

    def request(self) -> list[str | None]:
        """The source as a child process takes it."""
        return [self.spec, str(self.folder), self.revision]

    @classmethod
    def of_request(cls, fields: Sequence[Any]) -> Source:
        """The source out of a child's request."""
        spec, folder, revision = fields
        return cls(spec, Path(folder), revision)

    def weights(self) -> list[Path]:
        """The files of the model's tensors, in order: those that its index names, as for llama.cpp.

        Others may lie beside them, such as Mistral's consolidated.safetensors, which holds all once more.
        """
        if shards := _indexed(self):
            return [self.folder / shard for shard in shards]
        return sorted(self.folder.glob("model*.safetensors"))

    def files(self) -> list[Path]:
        """All files that an export may depend on, in order."""
        return sorted(
            path for path in self.folder.iterdir() if path.is_file() and not path.name.startswith(".")
        )


@dataclass(frozen=True)
class TensorInfo:
    """A tensor as a safetensors header describes it."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def base_source(spec: str, revision: str | None = None) -> Source:
    """Find or fetch a base model and check that it can be read; raises InputError."""
    source = _locate("base", spec, revision, _BASE_FILES)
    if _holds(source, "adapter_config.json", "config.json"):
        of = read_json(source.folder / "adapter_config.json", "the adapter").get("base_model_name_or_path")
        raise InputError(
            f"--base {spec!r} is an adapter: give the model that it was trained on ({of}) as --base"
        )
    _refuse_pickles("base model", source, "model*.safetensors")
    config = read_json(source.folder / "config.json", f"the base model {spec!r}")
    if not config.get("architectures"):
        raise InputError(
            f"{source.folder / 'config.json'} names no architectures: it is no transformers model"
        )
    _check_shards(source)
    return source


def adapter_source(spec: str, revision: str | None = None) -> Source:
    """Find or fetch a PEFT adapter; raises InputError."""
    source = _locate("adapter", spec, revision, _ADAPTER_FILES)
    if _holds(source, "config.json", "adapter_config.json"):
        raise InputError(
            f"--adapter {spec!r} is a whole model: give it as --base, and an adapter's folder here"
        )
    _refuse_pickles("adapter", source, "adapter_model.safetensors")
    return source


def read_json(path: Path, owner: str) -> dict[str, Any]:
    """Read a JSON object; raises InputError when it is missing or malformed."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{owner} has no {path.name} in {path.parent}: is it the right folder?") from None
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no JSON object")
    return content


def tensors_of(source: Source, files: Iterable[Path] | None = None) -> dict[str, TensorInfo]:
    """Name -> shape and dtype of every tensor (in those files), from the headers alone; raises InputError."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise MissingPackage("safetensors") from error
    found: dict[str, TensorInfo] = {}
    for path in source.weights() if files is None else files:
        try:
            with safe_open(path, framework="numpy") as file:
                for name in file.keys():  # noqa: SIM118 - not a dict
                    part = file.get_slice(name)
                    found[name] = TensorInfo(tuple(part.get_shape()), part.get_dtype())
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path} is damaged or incomplete ({error}): download it again") from None
    return found


def _locate(kind: str, spec: str, revision: str | None, patterns: tuple[str, ...]) -> Source:
    folder = Path(spec).expanduser()
    if folder.is_dir():
        if revision:
            raise InputError(f"--{kind} {spec!r} is a folder: a revision goes with a Hub id only")
        return Source(spec, folder.resolve(), None)
    if folder.exists():
        raise InputError(f"--{kind} {spec!r} is a file: give the folder that holds it, or a Hub id")
    if not HUB_ID.fullmatch(spec):
        raise InputError(f"--{kind} {spec!r}: there is no such folder, and a Hub id looks like owner/name")
    return _fetch(kind, spec, revision, patterns)


def _fetch(kind: str, spec: str, revision: str | None, patterns: tuple[str, ...]) -> Source:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        path = huggingface_hub.snapshot_download(
            spec, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(_NOT_WANTED)
        )
    except errors.GatedRepoError:
        reason = "the Hub wants you to accept its licence on its page and to log in (`hf auth login`)"
    except errors.RevisionNotFoundError:
        reason = f"the Hub has it, but not the revision {revision!r}"
    except errors.RepositoryNotFoundError:
        reason = "there is no such folder here and no such public repository on the Hub"
    except errors.LocalEntryNotFoundError:
        reason = "there is no such folder here, and the Hub cannot be reached: check the network"
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        reason = f"it could not be downloaded ({type(error).__name__})"
    else:
        # huggingface_hub keeps each snapshot in a folder named after its commit.
        return Source(spec, Path(path), Path(path).name)
    raise InputError(f"--{kind} {spec!r}: {reason}")


def _holds(source: Source, file: str, other: str) -> bool:
    return (source.folder / file).is_file() and not (source.folder / other).is_file()


def _refuse_pickles(what: str, source: Source, pattern: str) -> None:
    if list(source.folder.glob(pattern)):
        return
    names = [path.name for path in source.files()] if source.revision is None else _on_the_hub(source)
    pickles = sorted(name for glob in _PICKLES for name in fnmatch.filter(names, glob))
    ggufs = sorted(fnmatch.filter(names, "*.gguf"))
    if pickles:
        raise InputError(
            f"the {what} {source.spec!r} is stored as a pickle ({pickles[0]}), which can run code when "
            "it is opened: convert it once, where you trust it, "
            f"with `{_conversion(what, source, pickles[0])}`"
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


def _on_the_hub(source: Source) -> list[str]:
    """The files right in the repository, also those that were not fetched; none offline."""
    import huggingface_hub
    from huggingface_hub import errors

    try:
        names = huggingface_hub.list_repo_files(source.spec, revision=source.revision)
    except (errors.HfHubHTTPError, OSError):
        return []
    return [name for name in names if "/" not in name]


def _conversion(what: str, source: Source, pickle: str) -> str:
    """The command for a shell; of a repository on the Hub it makes a folder first, which is given then."""
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


def _indexed(source: Source) -> list[str]:
    """The names of the weight files in the index, in order; none without one."""
    index = source.folder / "model.safetensors.index.json"
    if not index.is_file():
        return []
    shards = read_json(index, f"the base model {source.spec!r}").get("weight_map", {}).values()
    return sorted({Path(shard).name for shard in shards})


def _check_shards(source: Source) -> None:
    shards = _indexed(source)
    missing = [shard for shard in shards if not (source.folder / shard).is_file()]
    if missing:
        raise InputError(
            f"the base model in {source.folder} is incomplete: {len(missing)} of {len(shards)} weight files "
            f"{'is' if len(missing) == 1 else 'are'} missing ({missing[0]} first): download it again"
        )
