"""A quantized file's own adapter: recovered in this export, or trained for that very file before."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import sha256
from common.text import pluralize
from ggufio.ggml_reader import GgufTensors
from pipeline.errors import InputError
from pipeline.exporter.config import ExportConfig
from pipeline.manifest import RECOVERY, Record
from pipeline.progress import StepProgress
from pipeline.quantize.job import QuantPlan
from pipeline.sources.adapter import Adapter, read_adapter
from pipeline.sources.model_source import Source, adapter_source
from pipeline.sources.trained_for import (
    BEFORE,
    IMATRIX,
    RECORD,
    TrainedFor,
    adapter_before,
    read_trained_for,
    types_digest,
)


@dataclass(frozen=True)
class TrainedAdapter:
    """An adapter that was trained for one quantized file."""

    adapter: Adapter
    record: TrainedFor


def split_trained(adapters: Sequence[Adapter]) -> tuple[tuple[Adapter, ...], TrainedAdapter | None]:
    """Return the adapters as they were before any training for a file, and the one that had it.

    Merged with others or by a part, it is of no use, and only the adapter before is taken.
    """
    found = [(adapter, read_trained_for(adapter.folder)) for adapter in adapters]
    before = tuple(adapter_before(adapter) if record else adapter for adapter, record in found)
    adapter, record = found[0] if len(found) == 1 else (None, None)
    if adapter is None or record is None or adapter.weight != 1.0:
        return before, None
    return before, TrainedAdapter(adapter, record)


def own_imatrix(config: ExportConfig, trained: TrainedAdapter | None) -> Path | None:
    """Return the importance matrix that the adapter was trained through, where the export names none."""
    if trained is None or trained.record.imatrix_sha256 is None or config.calibrate or config.imatrix:
        return None
    if trained.record.quant not in config.quants:
        return None
    path = trained.adapter.folder / IMATRIX
    if not path.is_file() or sha256(path) != trained.record.imatrix_sha256:
        raise InputError(
            f"the adapter {trained.adapter.spec!r} was trained through an importance matrix, and its "
            f"{IMATRIX} is missing or another one: copy the whole adapter, or give it with --imatrix"
        )
    return path


def reject_unrecoverable(
    config: ExportConfig, base: Source, adapters: Sequence[Adapter], trained: TrainedAdapter | None
) -> None:
    """Raise InputError for a --recover that cannot be done, before any work."""
    if config.recover is None:
        return
    from pipeline.training.recovery import require_readable, require_recoverable

    if trained is not None:
        raise InputError(
            f"the adapter {trained.adapter.spec!r} was trained for {trained.record.quant} already: leave "
            f"--recover out, or give the adapter before, {trained.adapter.folder / BEFORE}"
        )
    require_recoverable(base, adapters)
    require_readable(config.recover)
    for quant in config.quants:
        folder = config.recovery_folder / quant
        if folder.exists() and not (folder / RECORD).is_file():
            raise InputError(
                f"{folder} is there, and no recovery made it: rename it, or choose another --out"
            )


@dataclass(frozen=True)
class RecoverStep:
    """Finds each file's own adapter. `trained` is the user's, if it was trained for a file."""

    config: ExportConfig
    base: Source
    adapters: tuple[Adapter, ...]
    trained: TrainedAdapter | None
    record: Record
    progress: StepProgress

    def adapter_for(
        self, quant: str, full: Path, plan: QuantPlan, imatrix: Path | None, base_full: Path | None = None
    ) -> TrainedAdapter | None:
        """Return the adapter for the file of a type; None where it is made of the tuned model as it is.

        With `base_full` the file is that of the base, and the adapter stays beside it.
        """
        if self.config.recover is not None:
            return self._recovered(quant, full, plan, imatrix, base_full)
        if self.trained is None:
            return None
        reason = self._mismatch(self.trained.record, quant, plan, imatrix)
        if reason:
            self._note(quant, {"note": reason})
            return None
        self._note(quant, {"recovery": dict(self.trained.record.recovery)})
        return self.trained

    def _recovered(
        self, quant: str, full: Path, plan: QuantPlan, imatrix: Path | None, base_full: Path | None
    ) -> TrainedAdapter | None:
        from pipeline.training.recovery import recover
        from pipeline.training.recovery_job import RecoveryJob

        assert self.config.recover is not None
        folder = self.config.recovery_folder / quant
        done = self.record.options.get(RECOVERY, {}).get(quant, {})
        if "recovery" not in done or (done["helped"] and not _is_of(folder, done)):
            job = RecoveryJob(
                options=self.config.recover,
                base=self.base,
                adapter=self.adapters[0],
                quant=quant,
                full=full,
                plan=plan,
                out=folder,
                imatrix=imatrix,
                base_full=base_full,
                template=self.config.given_template,
                threads=self.config.threads,
                resume=self.config.resume and not self.config.force,
            )
            found = recover(job, self.progress)
            made = sha256(_read(folder).weights_file) if found.helped else None
            figures = {
                "helped": found.helped,
                "adapter_sha256": made,
                "recovery": found.figures(),
                "note": found.describe(quant),
            }
            self._note(quant, figures)
            done = figures
        if not done["helped"]:
            return None
        record = read_trained_for(folder)
        assert record is not None, f"{folder} was just written"
        return TrainedAdapter(_read(folder), record)

    def _mismatch(self, record: TrainedFor, quant: str, plan: QuantPlan, imatrix: Path | None) -> str:
        """Return why the adapter was not trained for this file, "" if it was."""
        made = f"{quant} is made of the adapter as it was before"
        if quant != record.quant:
            return f"the adapter was trained for {record.quant}, and {made}"
        if self.config.apart != record.apart:
            where = "beside the base's file" if record.apart else "for a file that it is merged into"
            return f"the adapter was trained {where}, and {made}"
        if self.config.outtype.upper() != record.full_type:
            return f"the adapter was trained for --outtype {record.full_type.lower()}, and {made}"
        if (sha256(imatrix) if imatrix else None) != record.imatrix_sha256:
            was = (
                "through another importance matrix"
                if record.imatrix_sha256
                else "without an importance matrix"
            )
            return f"the adapter was trained {was}, and {made}"
        if types_digest(plan.type_names) != record.types_sha256:
            return f"the adapter was trained for other types of single tensors, and {made}"
        return ""

    def verify(self, quant: str, file: Path, trained: TrainedAdapter) -> None:
        """Compare a file's tensors (or of its shards) with training's; record the result."""
        tensors, wanted = GgufTensors(file), trained.record.tensors
        differ = sum(
            hashlib.sha256(tensors.raw(name).data).hexdigest() != digest for name, digest in wanted.items()
        )
        self._note(quant, {"tensors": len(wanted), "differ": differ})

    def _note(self, quant: str, values: Mapping[str, Any]) -> None:
        found = self.record.options.setdefault(RECOVERY, {})
        found[quant] = {**found.get(quant, {}), **values}


def _read(folder: Path) -> Adapter:
    return read_adapter(adapter_source(str(folder)))


def _is_of(folder: Path, done: Mapping[str, Any]) -> bool:
    """Return whether the folder has the adapter that was recorded."""
    return (folder / RECORD).is_file() and sha256(_read(folder).weights_file) == done["adapter_sha256"]


def recovery_notes(record: Record) -> list[str]:
    """Return the recorded recoveries as lines for the user."""
    lines = []
    for quant, found in record.options.get(RECOVERY, {}).items():
        if "note" in found:
            lines.append(found["note"])
        if found.get("differ"):
            lines.append(
                f"{pluralize(found['differ'], 'tensor')} of {found['tensors']} in {quant} differ from the "
                "training's in some bits: another processor rounds sums in another way"
            )
    return lines
