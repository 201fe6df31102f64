"""Resuming an export: its fingerprint, the record to go on from, and what differs from an earlier one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.files import sha256
from ggufio.shards import whole_name
from pipeline.convert.merged import is_checkpoint_name
from pipeline.convert.toolchain import runtime_version
from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.workspace import Workspace
from pipeline.manifest import FORMAT, NAME, Record, load_record, versions
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source
from pipeline.tokenizers.folder_templates import additional_files


def fingerprint(config: ExportConfig, base: Source, adapters: Sequence[Adapter]) -> str:
    """Return a hash of the inputs and options, equal only for the same export.

    A Hub snapshot is identified by its commit, a folder by its files' names, sizes and times.
    """
    parts = [
        FORMAT,
        config.name,
        config.outtype,
        runtime_version(),
        _identity(base),
        [[_identity(adapter.source), adapter.weight] for adapter in adapters],
        config.format,
        None if config.rounding is None else str(config.rounding),
        *([chosen] if (chosen := config.quant_options) else []),
        *([importance] if (importance := describe_importance(config)) else []),
        *([template] if (template := describe_template(config)) else []),
        *([{"recover": config.recover.describe()}] if config.recover else []),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _identity(source: Source) -> object:
    if source.revision:
        return [source.spec, source.revision]
    relevant = [path for path in source.files() if path.suffix != ".md"]
    return [
        [str(path.relative_to(source.folder)), path.stat().st_size, path.stat().st_mtime_ns]
        for path in (*relevant, *additional_files(source.folder))
    ]


def describe_input(source: Source) -> dict[str, Any]:
    """Return an input for the manifest: the Hub's commit, or the SHA-256 of every file of a folder."""
    if source.revision:
        return {"source": source.spec, "revision": source.revision}
    # Only the last part of a path: manifests are published, and home folders are private.
    files = (*source.files(), *additional_files(source.folder))
    hashes = {path.relative_to(source.folder).as_posix(): sha256(path) for path in files}
    return {"source": source.folder.name, "files": hashes}


def describe_adapter(adapter: Adapter) -> dict[str, Any]:
    """Return an adapter for the manifest: its files, its kind, its rank and its weight."""
    properties = {"kind": adapter.kind, "rank": adapter.rank, "weight": adapter.weight}
    return {**describe_input(adapter.source), **properties}


def merged_into(config: ExportConfig) -> str:
    """Return a phrase for the base that adapters are merged into, for the manifest."""
    rounding = config.rounding
    if config.apart:
        return "nothing: the adapter is loaded on " + (
            f"the base rounded to {rounding}" if rounding else "the base"
        )
    return f"the base rounded to {rounding}, as QLoRA saw it" if rounding else "the base as it is"


def describe_importance(config: ExportConfig) -> dict[str, str]:
    """Return the importance matrix's origin for the manifest: option and file name, and the SHA-256."""
    path = config.calibrate or config.imatrix
    if path is None:
        return {}
    return {"calibrate" if config.calibrate else "imatrix": path.name, "sha256": sha256(path)}


def describe_template(config: ExportConfig) -> dict[str, str]:
    """Return the user's chat template for the manifest: where it came from, and the SHA-256 of its text."""
    given = config.given_template
    if given is None:
        return {}
    return {"from": given.origin, "sha256": hashlib.sha256(given.source.encode()).hexdigest()}


_RUNTIME = "llama-cpp-python"


def config_diff(config: ExportConfig, base: Source, adapters: Sequence[Adapter], earlier: Record) -> str:
    """Return the first difference, as "--outtype was f16 and is f32"; for files, that they were changed."""
    differences = (
        f"{name} was {_value_text(was)} and is {_value_text(now)}"
        for name, was, now in _pairs(config, base, adapters, earlier)
        if was != now
    )
    return next(differences, "a file of the base or of an adapter was changed since")


def _pairs(
    config: ExportConfig, base: Source, adapters: Sequence[Adapter], earlier: Record
) -> Iterator[tuple[str, object, object]]:
    """Yield the name of each option or input, its earlier value, and its value now."""
    options, inputs = earlier.options, earlier.inputs
    yield "--format", options.get("format", "model"), config.format
    yield "--outtype", options.get("outtype"), config.outtype
    for name in ("tensor_type", "output_type", "embedding_type", "pure", "split_max_size"):
        yield f"--{name.replace('_', '-')}", options.get(name), config.quant_options.get(name)
    yield "--base", _source_text(inputs.get("base", {})), _source_text(_described(base))
    before = [_source_text(one, one["weight"]) for one in inputs.get("adapters", [])]
    yield "--adapter", before, [_source_text(_described(one.source), one.weight) for one in adapters]
    yield (
        "what adapters are merged into",
        inputs.get("merged_into"),
        merged_into(config) if adapters else None,
    )
    was, now = inputs.get("importance", {}), describe_importance(config)
    yield "the importance matrix", list(was.values()), list(now.values())
    yield "--recover", options.get("recover"), config.recover.describe() if config.recover else None
    was, now = inputs.get("chat_template", {}), describe_template(config)
    yield "--template", list(was.values()), list(now.values())
    yield _RUNTIME, earlier.versions.get(_RUNTIME), versions().get(_RUNTIME)


def _described(source: Source) -> dict[str, Any]:
    """Return an input as in the manifest, without the hashes, which take long."""
    return {"source": source.spec if source.revision else source.folder.name, "revision": source.revision}


def _source_text(described: Mapping[str, Any], weight: float = 1.0) -> str:
    at = f" at {described['revision']}" if described.get("revision") else ""
    return f"{described.get('source')}{at}" + (f"={weight:g}" if weight != 1 else "")


def _value_text(value: object) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else value
    return "not given" if text in (None, "") else str(text)


def open_record(config: ExportConfig, work: Workspace, base: Source, adapters: Sequence[Adapter]) -> Record:
    """Return the record to resume from: an interrupted run's, a complete one's, or a new one.

    Raises InputError, with the difference, when the folder has another export.
    """
    identity = fingerprint(config, base, adapters)
    if config.force:
        work.clear()
        return Record(identity)
    earlier = load_record(work.record) or load_record(config.out / NAME)
    if earlier is None:
        return Record(identity)
    existing = {
        file: output
        for file, output in earlier.outputs.items()
        if earlier.is_finished(whole_name(file), config.out)  # shards count only as a complete set
    }
    if earlier.fingerprint != identity and existing:
        raise InputError(
            f"--out {str(config.out)!r} holds an export of other inputs or options "
            f"({config_diff(config, base, adapters, earlier)}): "
            f"--force makes it anew, or choose another --out"
        )
    if earlier.fingerprint != identity or not config.resume:
        work.clear()
        return Record(identity)
    return replace(earlier, outputs=existing, complete=False)


def recorded_outputs(folder: Path) -> Record:
    """Return the folder's manifest; an empty record when it is missing or unreadable."""
    try:
        return load_record(folder / NAME) or Record("")
    except InputError:
        return Record("")


def remove_stale_outputs(folder: Path, earlier: Record, record: Record) -> None:
    """Remove the files that are in `earlier` but not in `record`, unless they were changed since."""
    for output in earlier.outputs.values():
        if output.file not in record.outputs and _is_own_name(output.file) and output.is_unchanged(folder):
            (folder / output.file).unlink()
    matrix = earlier.importance.get("file", "")
    if matrix != record.importance.get("file", "") and _is_gguf_name(matrix):
        path = folder / matrix
        if path.is_file() and sha256(path) == earlier.importance.get("sha256"):
            path.unlink()


def _is_own_name(file: str) -> bool:
    return _is_gguf_name(file) or is_checkpoint_name(file)


def _is_gguf_name(file: str) -> bool:
    """Return whether it is the name of a GGUF, without folders: a manifest may be untrusted."""
    return file.endswith(".gguf") and Path(file).name == file
