"""What an export differs in from the one that stands in its folder, for the line that refuses it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.files import sha256
from ggufio.shards import whole_name
from pipeline.convert.toolchain import runtime_version
from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.workspace import Workspace
from pipeline.manifest import FORMAT, NAME, Record, load_record, versions
from pipeline.manifest import NAME as MANIFEST
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source


def fingerprint(config: ExportConfig, base: Source, adapters: Sequence[Adapter]) -> str:
    """Tells two exports of the same inputs from two of different ones, cheaply.

    A Hub snapshot is known by its commit, a folder by its files' names, sizes and times.
    """
    parts = [
        FORMAT,
        config.name,
        config.outtype,
        runtime_version(),
        _identity(base),
        [[_identity(adapter.source), adapter.weight] for adapter in adapters],
        config.format,
        config.qlora_base,
        *([chosen] if (chosen := config.quantizing) else []),
        *([weighed] if (weighed := describe_importance(config)) else []),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _identity(source: Source) -> object:
    if source.revision:
        return [source.spec, source.revision]
    relevant = (path for path in source.files() if path.suffix != ".md")
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in relevant]


def describe_input(source: Source) -> dict[str, Any]:
    """An input for the manifest: the Hub's commit, or the SHA-256 of every file of a folder."""
    if source.revision:
        return {"source": source.spec, "revision": source.revision}
    # A path is told by its last part alone: a manifest is published, and a home folder is private.
    return {"source": source.folder.name, "files": {path.name: sha256(path) for path in source.files()}}


def describe_adapter(adapter: Adapter) -> dict[str, Any]:
    """An adapter for the manifest: its files, what kind it is, and how much of it was merged."""
    what = {"kind": adapter.kind, "rank": adapter.rank, "weight": adapter.weight}
    return {**describe_input(adapter.source), **what}


def merged_into(config: ExportConfig) -> str:
    """What the adapters are merged into, for the manifest."""
    base = config.qlora_base
    return f"the base rounded to {base}, as QLoRA saw it" if base else "the base as it is"


def describe_importance(config: ExportConfig) -> dict[str, str]:
    """What the importance matrix comes from, for the manifest: the option, the file's name, its SHA-256."""
    path = config.calibrate or config.imatrix
    if path is None:
        return {}
    return {"calibrate" if config.calibrate else "imatrix": path.name, "sha256": sha256(path)}


_MADE_BY = "llama-cpp-python"


def config_diff(config: ExportConfig, base: Source, adapters: Sequence[Adapter], earlier: Record) -> str:
    """The first thing that is other, as "--outtype was f16 and is f32"; of files, that they were changed."""
    told = (
        f"{name} was {_plain(was)} and is {_plain(now)}"
        for name, was, now in _pairs(config, base, adapters, earlier)
        if was != now
    )
    return next(told, "a file of the base or of an adapter was changed since")


def _pairs(
    config: ExportConfig, base: Source, adapters: Sequence[Adapter], earlier: Record
) -> Iterator[tuple[str, object, object]]:
    """The name of each thing, what it was, and what it is."""
    options, inputs = earlier.options, earlier.inputs
    yield "--format", options.get("format", "model"), config.format
    yield "--outtype", options.get("outtype"), config.outtype
    for name in ("tensor_type", "output_type", "embedding_type", "pure", "split_max_size"):
        yield f"--{name.replace('_', '-')}", options.get(name), config.quantizing.get(name)
    yield "--base", _named(inputs.get("base", {})), _named(_told(base))
    before = [_named(one, one["weight"]) for one in inputs.get("adapters", [])]
    yield "--adapter", before, [_named(_told(one.source), one.weight) for one in adapters]
    yield (
        "what adapters are merged into",
        inputs.get("merged_into"),
        merged_into(config) if adapters else None,
    )
    was, now = inputs.get("importance", {}), describe_importance(config)
    yield "the importance matrix", list(was.values()), list(now.values())
    yield _MADE_BY, earlier.versions.get(_MADE_BY), versions().get(_MADE_BY)


def _told(source: Source) -> dict[str, Any]:
    """As the manifest has it, without the hashes, which take their time."""
    return {"source": source.spec if source.revision else source.folder.name, "revision": source.revision}


def _named(told: Mapping[str, Any], weight: float = 1.0) -> str:
    at = f" at {told['revision']}" if told.get("revision") else ""
    return f"{told.get('source')}{at}" + (f"={weight:g}" if weight != 1 else "")


def _plain(value: object) -> str:
    words = ", ".join(map(str, value)) if isinstance(value, list) else value
    return "not given" if words in (None, "") else str(words)


def open_record(config: ExportConfig, work: Workspace, base: Source, adapters: Sequence[Adapter]) -> Record:
    """The record to go on from: that of an interrupted run, of a complete one, or a fresh one.

    Raises InputError for another export's folder, and names what is other.
    """
    identity = fingerprint(config, base, adapters)
    if config.force:
        work.clear()
        return Record(identity)
    earlier = load_record(work.record) or load_record(config.out / MANIFEST)
    if earlier is None:
        return Record(identity)
    standing = {
        file: output
        for file, output in earlier.outputs.items()
        if earlier.finished(whole_name(file), config.out)  # a set of shards stands as a whole or not at all
    }
    if earlier.fingerprint != identity and standing:
        raise InputError(
            f"--out {str(config.out)!r} holds an export of other inputs or options "
            f"({config_diff(config, base, adapters, earlier)}): "
            f"--force makes it anew, or choose another --out"
        )
    if earlier.fingerprint != identity or not config.resume:
        work.clear()
        return Record(identity)
    return replace(earlier, outputs=standing, complete=False)


def recorded_outputs(folder: Path) -> Record:
    """What the folder's manifest says; an empty record where there is none, or none that can be read."""
    try:
        return load_record(folder / NAME) or Record("")
    except InputError:
        return Record("")


def remove_stale_outputs(folder: Path, earlier: Record, record: Record) -> None:
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
