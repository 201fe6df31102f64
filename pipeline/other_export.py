"""What an export differs in from the one that stands in its folder, for the line that refuses it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipeline.adapter import Adapter
from pipeline.config import ExportConfig
from pipeline.manifest import Record, describe_importance, merged_into, versions
from pipeline.source import Source

_MADE_BY = "llama-cpp-python"


def difference(config: ExportConfig, base: Source, adapters: Sequence[Adapter], earlier: Record) -> str:
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
