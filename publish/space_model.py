"""The model of a Space: a GGUF on the Hub, with the adapter that an export wrote for it or that is named."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.certificate import type_in_name
from common.shard_names import ADAPTER_SEPARATOR, whole_name
from common.shard_names import names as shard_names
from publish.hub import HubClient
from publish.refusals import PublishError, refusals
from ui.models.files import is_model_name
from ui.models.hub import MANIFEST, HubName, parse_hub_name, recorded_loras

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo


@dataclass(frozen=True)
class NamedModel:
    """The names on the Hub in the text `BASE` or `BASE::ADAPTER`."""

    text: str
    base: HubName
    adapter: HubName | None


@dataclass(frozen=True)
class SpaceModel:
    """A model that was found: `base` names its file, `setting` is the text for the app.

    `preload` has the files that a build may download, at a `commit` unless that is the newest. `closed` has
    the repository for which a token is needed, and why.
    """

    base: str
    setting: str
    preload: tuple[str, ...]
    commit: str | None
    closed: tuple[str, str] | None


def parse_model(text: str) -> NamedModel:
    """Parse a model's name in any form that the app takes for the Hub. Raises PublishError."""
    base, is_pair, adapter = text.partition(ADAPTER_SEPARATOR)
    return NamedModel(text, _parse(text, base), _parse(text, adapter) if is_pair else None)


def _parse(text: str, part: str) -> HubName:
    name = None if Path(part).is_absolute() else parse_hub_name(part)
    if name is None:
        raise PublishError(
            f"--model {text!r} is no model on the Hub: write owner/name/file.gguf or owner/name:Q4_K_M "
            "(`publish model` uploads one)"
        )
    if name.file is not None and ".." in name.file.split("/"):
        raise PublishError(f"--model {text!r} names no GGUF file: write owner/name/file.gguf")
    return name


def find_model(hub: HubClient, named: NamedModel) -> SpaceModel:
    """Ask the Hub for a model and its adapter. Raises PublishError for what is missing or ambiguous."""
    info = _model_info(hub, named.base, named.text)
    file = _choose(info, named.base)
    infos, files = [info], shard_names(file)
    setting = named.base.with_file(file)
    if named.adapter is not None:
        other = _model_info(hub, named.adapter, named.text)
        infos.append(other)
        setting += f"{ADAPTER_SEPARATOR}{named.adapter.with_file(_choose(other, named.adapter))}"
    elif named.base.file is None and (lora := _lora_beside(hub, info, named.base, file)):
        files = [*files, lora]
        setting += f"{ADAPTER_SEPARATOR}{named.base.with_file(lora)}"
    closed = next(((one.id, _closed(one)) for one in infos if _closed(one)), None)
    can_preload = not closed and not any(re.search(r"[\s,]", one) for one in files)
    return SpaceModel(
        base=named.base.with_file(file),
        setting=setting,
        preload=tuple(files) if can_preload else (),
        commit=info.sha if named.base.revision not in (None, "main") else None,
        closed=closed,
    )


def _closed(info: ModelInfo) -> str:
    return "private" if info.private else "gated" if info.gated else ""


def _model_info(hub: HubClient, name: HubName, text: str) -> ModelInfo:
    """Return what the Hub says of a model. Raises PublishError, with a hint where it is a path here."""
    try:
        with refusals(name.repository):
            return hub.api.model_info(name.repository, revision=name.revision)
    except PublishError as error:
        if not Path(text).exists():
            raise
        raise PublishError(f"{error}; {text} is here: bring it there first with `publish model`") from error


def _file_names(info: ModelInfo) -> list[str]:
    return sorted(item.rfilename for item in info.siblings or [] if item.rfilename.endswith(".gguf"))


def _lora_beside(hub: HubClient, info: ModelInfo, name: HubName, file: str) -> str | None:
    """Return the adapter that an export wrote for a file of the repository, as the app takes it."""
    if MANIFEST not in {item.rfilename for item in info.siblings or []}:
        return None
    with refusals(name.repository):
        manifest = hub.api.hf_hub_download(name.repository, MANIFEST, revision=info.sha)
    lora = recorded_loras(Path(manifest)).get(whole_name(file))
    return lora if lora in _file_names(info) else None


def _choose(info: ModelInfo, name: HubName) -> str:
    """Return the GGUF file of a repository that is meant. Raises PublishError with those that are there."""
    names = _file_names(info)
    firsts = [file for file in names if shard_names(file)[0] == file]
    meant = _meant(names, firsts, name)
    if len(meant) == 1:
        if missing := sorted(set(shard_names(meant[0])) - set(names)):
            raise PublishError(f"the model {info.id} lacks {', '.join(missing)}: upload all of its parts")
        return meant[0]
    if not firsts:
        raise PublishError(f"the model {info.id} has no GGUF file: upload one with `publish model`")
    wanted = f"file {name.file}" if name.file else f"GGUF file of type {name.quant}"
    found = "has several GGUF files" if meant else f"has no {wanted}"
    offered = meant or _models(firsts)
    raise PublishError(
        f"the model {info.id} {found}: name one of {', '.join(offered)}, as {info.id}/{offered[0]}"
    )


def _meant(names: Sequence[str], firsts: Sequence[str], name: HubName) -> list[str]:
    """Return the files that a name can mean; `firsts` are the models, `names` has their other shards too."""
    if name.file is not None:
        return [file for file in names if file == name.file]
    if name.quant is not None:
        return _models(file for file in firsts if type_in_name(file) == name.quant.upper())
    return _models(firsts)


def _models(files: Iterable[str]) -> list[str]:
    """Return the files without adapters and the like, by their names; all, where nothing else is there."""
    every = list(files)
    return [file for file in every if is_model_name(file)] or every
