"""What an export goes on from: an interrupted run, a complete one, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from pipeline.adapter import Adapter
from pipeline.config import ExportConfig
from pipeline.errors import InputError
from pipeline.manifest import NAME as MANIFEST
from pipeline.manifest import Record, fingerprint, load_record
from pipeline.other_export import difference
from pipeline.source import Source
from pipeline.workspace import Workspace
from shards import whole_name


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
            f"({difference(config, base, adapters, earlier)}): --force makes it anew, or choose another --out"
        )
    if earlier.fingerprint != identity or not config.resume:
        work.clear()
        return Record(identity)
    return replace(earlier, outputs=standing, complete=False)
