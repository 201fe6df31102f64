"""export(config): the order of the steps, resume, progress. No tensor code."""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipeline.adapter import Adapter, read_adapter
from pipeline.adapter_format import AdapterJob, refuse_inexpressible, write_adapter
from pipeline.certificate.auto_step import (
    AUTO_OPTION,
    TRIED,
    AutoStep,
    refuse_without_template,
    remove_tried,
    settled,
    told,
)
from pipeline.certificate.finding import Certificate
from pipeline.certificate.meanwhile import Meanwhile, Uncertified
from pipeline.certificate.step import SCRATCH, CertificateStep, remove_stale
from pipeline.config import ExportConfig, parse_adapter
from pipeline.convert import ConvertJob, convert
from pipeline.errors import InputError
from pipeline.final_name import give_final_names
from pipeline.imatrix import check_importance, importance_file
from pipeline.manifest import NAME as MANIFEST
from pipeline.manifest import (
    Output,
    Record,
    describe_adapter,
    describe_importance,
    describe_input,
    fingerprint,
    load_record,
    sha256,
    versions,
)
from pipeline.progress import Silent, StepProgress
from pipeline.quant_types import AUTO, bits_needed, quant_type
from pipeline.quantize import QuantizeJob, plan_quantization, quantize, split
from pipeline.replaced import listed_in, remove_replaced
from pipeline.report.write import is_written, remove_report, write_report
from pipeline.shards import whole_name
from pipeline.source import Source, adapter_source, base_source, tensors_of
from pipeline.toolchain import ensure_toolchain
from pipeline.workspace import Workspace, require_space


@dataclass(frozen=True)
class ExportResult:
    """What an export left in `folder`. `made` names the files that this run made, the others were there.

    `notes` are lines about the model for people, such as whose tokenizer it has; `certificate` is None where
    none was asked for.
    """

    folder: Path
    outputs: tuple[Output, ...]
    made: tuple[str, ...]
    manifest: Path
    notes: tuple[str, ...] = ()
    certificate: Certificate | None = None


def export(config: ExportConfig, progress: StepProgress | None = None) -> ExportResult:
    """Merge, convert and quantize as `config` says; returns what stands in `config.out` then.

    Raises InputError when the input is wrong (nothing is written then) and PipelineError when a
    step fails. Interrupted at any moment, the next call goes on from the last finished step.
    """
    base = base_source(config.base, config.revision)
    adapters = _read_adapters(config)
    check_importance(config)
    refuse_without_template(config, (base, *(adapter.source for adapter in adapters)))
    identity = fingerprint(config, base, adapters)
    with Workspace(config.out) as work:
        record = _open_record(config, work, identity)
        kind = _AdapterRun if config.format == "adapter" else _Run
        config = settled(config, record)
        run = kind(config, work, record, base, adapters, progress or Silent())
        before = set(record.outputs)
        standing = certificate = run.certificate()
        if run.missing() or run.uncertified(standing):
            certificate = run.make()
        remove_stale(config.out, record)
        record.complete = True
        earlier = listed_in(config.out)
        record.save(config.out / MANIFEST)
        remove_replaced(config.out, earlier, record)
        if certificate is None and earlier.hashes != record.hashes:
            remove_report(config.out)  # it told of those files
        reported = _report(config, record, certificate, anew=certificate is not standing)
        work.clear()
    outputs = tuple(record.outputs[file] for file in sorted(record.outputs))
    notes = (*record.model.get("notes", ()), *told(record), *reported)
    made = tuple(file for file in record.outputs if file not in before)
    return ExportResult(config.out, outputs, made, config.out / MANIFEST, notes, certificate)


def _report(
    config: ExportConfig, record: Record, certificate: Certificate | None, *, anew: bool
) -> tuple[str, ...]:
    """Write the report of what was certified, unless it stands; returns notes for people."""
    if certificate is None or (is_written(config.out) and not anew):
        return ()
    return write_report(config.out, config.name, record, certificate).notes


def _read_adapters(config: ExportConfig) -> tuple[Adapter, ...]:
    parsed = (parse_adapter(text) for text in config.adapters)
    adapters = tuple(
        read_adapter(adapter_source(spec, config.adapter_revision), weight) for spec, weight in parsed
    )
    if config.format == "adapter":
        refuse_inexpressible(adapters[0])
    return adapters


def _open_record(config: ExportConfig, work: Workspace, identity: str) -> Record:
    """The record to go on from: that of an interrupted run, of a complete one, or a fresh one."""
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
            f"--out {str(config.out)!r} holds an export of other inputs or options: "
            "--force makes it anew, or choose another --out"
        )
    if earlier.fingerprint != identity or not config.resume:
        work.clear()
        return Record(identity)
    return replace(earlier, outputs=standing, complete=False)


@dataclass(frozen=True)
class _Run:
    """One export under way."""

    config: ExportConfig
    work: Workspace
    record: Record
    base: Source
    adapters: tuple[Adapter, ...]
    progress: StepProgress

    def missing(self) -> tuple[str, ...]:
        """The files that were asked for and do not stand yet."""
        wanted = [self.config.quantized_name(quant) for quant in self.config.quants]
        wanted += [self.config.full_precision_name] if self.config.keep_f16 else []
        return tuple(file for file in wanted if not self._stands(file))

    def certificate(self) -> Certificate | None:
        """The certificate of an earlier run, where it still holds."""
        return None if self.config.verify == "off" else self._certifying.standing(self.record)

    def uncertified(self, standing: Certificate | None) -> bool:
        """Whether a certificate was asked for and none stands."""
        return self.config.verify != "off" and standing is None

    def make(self) -> Certificate | None:
        """Convert once, quantize to each type that is missing, and certify what stands then."""
        remove_tried(self.work.folder)
        self._require_space()
        with self.progress.step("Fetch llama.cpp's converter", None):
            toolchain = ensure_toolchain()
        self.record.options = {
            "outtype": self.config.outtype,
            "quants": list(self.config.quants),
            **self.config.quantizing,
            **{key: value for key, value in self.record.options.items() if key == AUTO_OPTION},
        }
        self.record.versions = versions()
        with Uncertified() if self.config.verify == "off" else Meanwhile(self._certifying) as certifying:
            with ThreadPoolExecutor(max_workers=1) as background:
                inputs = background.submit(self._describe_inputs)  # hashing reads along with the converter
                full = self._full_precision(toolchain)
                self.record.inputs = inputs.result()
            self.record.save(self.work.record)
            run = self._settled(full)
            certifying.begin(full, self.record)
            run._quantize(full, certifying)
            if self.config.keep_f16 and not self._stands(full.name):
                certifying.wait()  # it is about to be moved
                figures = self._full_precision_figures(full)
                self._publish(self._split(full), self.config.outtype.upper(), *figures)
            kept = self.config.out / full.name if full.name in self.record.outputs else full
            return certifying.finish(kept, self.record, self.progress)

    @property
    def _certifying(self) -> CertificateStep:
        return CertificateStep(self.config, self.base, self.adapters, self.work.folder / SCRATCH)

    def _stands(self, file: str) -> bool:
        return self.record.finished(file, self.config.out)

    def _require_space(self) -> None:
        """Refuse an export that the disk cannot hold, before anything is written."""
        elements = sum(info.elements for info in tensors_of(self.base).values())
        full = elements * (4 if self.config.outtype == "f32" else 2)
        needed = 0.0 if self._ready_full_precision() else full
        if self.config.keep_f16 and self.config.split_bytes:
            needed += full  # for a while it is there whole and in shards
        for quant in self._missing_quants():
            needed += elements * bits_needed(quant) / 8
        require_space(self.config.out, int(needed), f"exporting {self.config.name}")

    def _describe_inputs(self) -> dict[str, Any]:
        described: dict[str, Any] = {"base": describe_input(self.base)}
        if self.adapters:
            described["adapters"] = [describe_adapter(adapter) for adapter in self.adapters]
            described["merged_into"] = "the base as it is"
            if self.config.qlora_base:
                described["merged_into"] = f"the base rounded to {self.config.qlora_base}, as QLoRA saw it"
        if weighed := describe_importance(self.config):
            described["importance"] = weighed
        return described

    def _missing_quants(self) -> list[str]:
        return [quant for quant in self.config.quants if not self._stands(self.config.quantized_name(quant))]

    def _quantized(self) -> tuple[Path, ...]:
        """The quantizations that stand already; they are of the same source, as their record says."""
        tried = (self.work.folder / TRIED).glob("*.gguf")
        return (*(self.config.out / output.file for output in self.record.outputs.values()), *tried)

    def _ready_full_precision(self) -> Path | None:
        """The full-precision GGUF of an earlier run: kept beside the others, or left in the work folder."""
        file = self.config.full_precision_name
        if file in self.record.outputs and self._stands(file):  # shards of it are no source
            return self.config.out / file
        return self.work.full_precision(file, self.record)

    def _full_precision(self, toolchain: Path) -> Path:
        ready = self._ready_full_precision()
        if ready:
            return ready
        started = time.monotonic()
        target = self.work.folder / self.config.full_precision_name
        partial = target.with_name(f"{target.name}.partial")
        job = ConvertJob(
            self.base,
            self.adapters,
            self.config.outtype,
            partial,
            self.config.name,
            toolchain,
            self.config.threads,
            self.config.qlora_base,
            self.config.tensor_types,
            self._certifying.spoken if self.config.verify != "off" else None,
            self.config.evaluation,
        )
        converted = convert(job, self.progress)
        partial.replace(target)
        self.record.model = {
            "parameters": converted.parameters,
            "tensors": converted.tensors,
            "merged_tensors": converted.merged,
            "convert_seconds": round(time.monotonic() - started, 1),
            "full_precision_bytes": target.stat().st_size,
            "notes": list(converted.notes),
            "settings": converted.settings,
        }
        self.record.save(self.work.record)
        return target

    def _full_precision_figures(self, full: Path) -> tuple[float, float]:
        bits = full.stat().st_size * 8 / max(1, int(self.record.model["parameters"]))
        return bits, float(self.record.model["convert_seconds"])

    def _quantize(self, full: Path, certifying: Uncertified) -> None:
        log = self.work.folder / "plan.log"
        types = self.config.tensor_types
        imatrix = self._importance(full)
        plans = {
            quant: plan_quantization(full, quant_type(quant), log, types, imatrix)
            for quant in self._missing_quants()
        }
        require_space(
            self.config.out, sum(plan.size for plan in plans.values()), f"quantizing {self.config.name}"
        )
        for quant, plan in plans.items():
            started = time.monotonic()
            partial = self.work.folder / f"{self.config.quantized_name(quant)}.partial"
            job = QuantizeJob(
                full,
                partial,
                quant_type(quant),
                self.config.threads,
                self._quantized(),
                types,
                self.config.split_bytes,
                imatrix,
            )
            files = quantize(job, plan, self.progress)
            self._publish(files, quant, plan.bits_per_weight, time.monotonic() - started)
            certifying.add(self.record)

    def _importance(self, full: Path) -> Path | None:
        """The importance matrix to quantize with, if there is to be one."""
        if not self._missing_quants():
            return None
        found = importance_file(self.config, full, self.work.folder, self.record, self.progress)
        self.record.save(self.work.record)
        return found

    def _settled(self, full: Path) -> _Run:
        """This run, with a type in the place of AUTO."""
        if AUTO not in self.config.quants:
            return self
        choosing = AutoStep(self.config, self._certifying, self.work.folder)
        choosing.choose(full, self.record, self.progress, self._importance(full))
        return replace(self, config=settled(self.config, self.record))

    def _split(self, full: Path) -> list[Path]:
        limit = self.config.split_bytes
        if limit is None or full.stat().st_size <= limit:
            return [full]
        return split(full, full.with_name(f"{full.name}.partial"), limit, self.progress)

    def _publish(self, ready: Sequence[Path], quant: str, bits: float, seconds: float) -> None:
        """Give a finished file, or all shards of it, their final names, and record them."""
        digests = [sha256(path) for path in ready]
        targets = [self.config.out / path.name.removesuffix(".partial") for path in ready]
        give_final_names(ready, targets)
        whole = sum(path.stat().st_size for path in targets)
        for target, digest in zip(targets, digests, strict=True):
            status = target.stat()
            share = round(seconds * status.st_size / whole, 1)
            self.record.outputs[target.name] = Output(
                target.name, quant, status.st_size, round(bits, 2), share, digest, status.st_mtime_ns
            )
        self.record.save(self.work.record)
        for path in self.config.out.glob("*.gguf"):
            if whole_name(path.name) == whole_name(targets[0].name) and path not in targets:
                path.unlink()  # of an earlier export that was split otherwise


class _AdapterRun(_Run):
    """One export of an adapter alone."""

    def missing(self) -> tuple[str, ...]:
        """The adapter's file, unless it stands."""
        file = self.config.adapter_name
        return () if self._stands(file) else (file,)

    def certificate(self) -> None:
        """None: an adapter alone is no model that could be held against another."""

    def uncertified(self, standing: Certificate | None) -> bool:
        """Never."""
        return False

    def make(self) -> None:
        """Write the adapter's file and give it its name."""
        with self.progress.step("Fetch llama.cpp's converter", None):
            toolchain = ensure_toolchain()
        started = time.monotonic()
        partial = self.work.folder / f"{self.config.adapter_name}.partial"
        job = AdapterJob(
            self.base, self.adapters[0], self.config.outtype, partial, self.config.name, toolchain
        )
        written = write_adapter(job, self.progress)
        self.record.options = {"format": "adapter", "outtype": self.config.outtype}
        self.record.versions = versions()
        self.record.inputs = self._describe_inputs()
        self.record.model = {"parameters": written.parameters, "changed_weights": written.tensors}
        bits = partial.stat().st_size * 8 / max(1, written.parameters)
        self._publish([partial], self.config.outtype.upper(), bits, time.monotonic() - started)
