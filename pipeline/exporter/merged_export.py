"""MergedExport: an export to a merged safetensors checkpoint."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from common.files import publish_file, sha256
from pipeline.convert.merged import (
    FILES,
    INDEX,
    MergedCheckpoint,
    MergeJob,
    is_checkpoint_name,
    merge_checkpoint,
)
from pipeline.errors import InputError
from pipeline.exporter.base import ExportRun
from pipeline.exporter.resume import recorded_outputs
from pipeline.exporter.workspace import require_space
from pipeline.manifest import Output, versions
from pipeline.sources.adapter_base import base_mismatch_notes
from pipeline.sources.model_source import tensors_of
from pipeline.sources.trained_base import rounding_notes

_SIZES = {"F64": 8, "F32": 4}
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class MergedExport(ExportRun):
    """An export to model.safetensors, or shards with an index, and the files of a model beside them."""

    def missing(self) -> tuple[str, ...]:
        """Return the files of the checkpoint that are not finished; those beside it may only be missing."""
        weights = self.record.model.get("weights", ["model.safetensors"])
        beside = self.record.model.get("files", {})
        lost = (file for file in beside if not (self.config.out / file).is_file())
        return (*(file for file in weights if not self.is_current(file)), *lost)

    def run(self) -> None:
        """Write the checkpoint; there is no certificate."""
        self._reject_foreign_folder()
        finished = self._finished_shards()
        self._require_space(finished)
        started = time.monotonic()
        merged = merge_checkpoint(self._job(finished), self.progress, self._keep_shard)
        self.record.options = {
            "format": "merged",
            "outtype": self.config.outtype,
            **self.config.quant_options,
        }
        self.record.versions = versions()
        self.record.inputs = self.describe_inputs()
        self._publish(merged, time.monotonic() - started)

    def _job(self, finished: Mapping[str, int]) -> MergeJob:
        config = self.config
        assert config.split_bytes is not None
        return MergeJob(
            self.base,
            self.adapters,
            config.outtype,
            self.work.folder,
            config.split_bytes,
            config.threads,
            tuple(sorted(finished)),
            config.rounding,
            config.given_template,
        )

    def _keep_shard(self, name: str) -> None:
        """Record a finished shard in the work folder, so that an interrupted export goes on after it."""
        status = (self.work.folder / name).stat()
        self.record.model.setdefault("shards", {})[name] = [status.st_size, status.st_mtime_ns]
        self.record.save(self.work.record)

    def _finished_shards(self) -> dict[str, int]:
        """Return the bytes of the shards that are written, in the work folder or under their final names."""
        kept = {name: tuple(value) for name, value in self.record.model.get("shards", {}).items()}
        outputs = self.record.outputs.values()
        kept |= {output.file: (output.bytes, output.mtime_ns) for output in outputs if output.file != INDEX}
        found = {}
        for name, (size, mtime_ns) in kept.items():
            for folder in (self.work.folder, self.config.out):
                path = folder / name
                if path.is_file() and (path.stat().st_size, path.stat().st_mtime_ns) == (size, mtime_ns):
                    found[name] = size
        return found

    def _reject_foreign_folder(self) -> None:
        """Raise InputError where the export would replace an input, or a checkpoint that it did not write."""
        out = self.config.out
        for source in (self.base, *(adapter.source for adapter in self.adapters)):
            if out.resolve() == source.folder.resolve():
                raise InputError(f"--out {str(out)!r} is the folder of {source.spec!r}: choose another --out")
        own = {*recorded_outputs(out).outputs, *self.record.outputs, *self.record.model.get("shards", {})}
        for path in sorted(out.iterdir()):
            if is_checkpoint_name(path.name) and path.name not in own and path.name != INDEX:
                raise InputError(
                    f"--out {str(out)!r} has a {path.name} that no export wrote: choose another --out"
                )

    def _require_space(self, finished: Mapping[str, int]) -> None:
        fixed = {"f32": 4, "f16": 2, "bf16": 2}.get(self.config.outtype)
        infos = tensors_of(self.base).values()
        needed = sum(info.elements * (fixed or _SIZES.get(info.dtype, 2)) for info in infos)
        purpose = f"merging {self.config.name}"
        require_space(self.config.out, max(0, needed - sum(finished.values())), purpose)

    def _publish(self, merged: MergedCheckpoint, seconds: float) -> None:
        folder, out = self.work.folder, self.config.out
        index = [INDEX] if len(merged.shards) > 1 else []
        beside = {}
        for file in merged.files:
            (out / file).parent.mkdir(exist_ok=True)
            beside[file] = sha256(folder / FILES / file)
            publish_file(folder / FILES / file, out / file)
        ready = [folder / shard for shard in merged.shards if (folder / shard).is_file()]
        published = [shard for shard in merged.shards if folder / shard not in ready]
        for shard in published:  # by a run that was killed before it recorded them
            self._record_published(shard, merged.dtype)
        size = sum((folder / shard).stat().st_size for shard in merged.shards if folder / shard in ready)
        size += sum((out / shard).stat().st_size for shard in published)
        self.record.model = {
            "parameters": merged.parameters,
            "tensors": merged.tensors,
            "merged_tensors": merged.merged,
            "weights": [*merged.shards, *index],
            "files": beside,
            "shards": self.record.model.get("shards", {}),
            "notes": [
                *base_mismatch_notes(self.base, self.adapters),
                *rounding_notes(self.adapters),
                *merged.notes,
                *self._type_notes(merged.dtype),
            ],
            "settings": merged.settings,
            "template": merged.template,
        }
        if ready:
            self.publish(ready, merged.dtype, size * 8 / max(1, merged.parameters), seconds)
        if index:
            self.publish([folder / INDEX], "index", 0.0, 0.0)
        else:
            (out / INDEX).unlink(missing_ok=True)
        del self.record.model["shards"]

    def _record_published(self, shard: str, dtype: str) -> None:
        if shard not in self.record.outputs:
            path = self.config.out / shard
            status = path.stat()
            self.record.outputs[shard] = Output(
                shard, dtype, status.st_size, 0.0, 0.0, sha256(path), status.st_mtime_ns
            )

    def _type_notes(self, dtype: str) -> Iterator[str]:
        """Yield a note where transformers, and so this export, rounds the base's numbers to another type."""
        stored = {info.dtype for info in tensors_of(self.base).values()} & _FLOATS.keys()
        wider = sorted(stored - {dtype}) if dtype != "F32" else sorted(stored & {"F64"})
        if self.config.outtype == "auto" and wider:
            yield (
                f"the base's config.json names {_FLOATS[dtype]} and its files have {_FLOATS[wider[0]]}: the "
                "checkpoint has the former, as transformers loads it; --outtype chooses another"
            )
