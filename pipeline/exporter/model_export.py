"""The export of a model: convert once, quantize to each type, certify. No tensor code."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from common.files import publish_file, sha256
from ggufio.ggml_reader import read_tensors
from pipeline.certificate.finding import Certificate
from pipeline.certificate.tensors.expected import is_plain
from pipeline.convert.job import ConvertJob, convert
from pipeline.convert.toolchain import ensure_toolchain
from pipeline.data.dataset import read_chats
from pipeline.exporter.auto_quant import (
    AUTO_OPTION,
    CANDIDATES_DIR,
    AutoStep,
    remove_candidates,
    resolve_auto,
)
from pipeline.exporter.base import ExportRun
from pipeline.exporter.certify_step import (
    SCRATCH,
    BackgroundCertification,
    CertificateStep,
    Certification,
    NoCertification,
)
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.workspace import require_space
from pipeline.manifest import Record, versions
from pipeline.progress import StepProgress
from pipeline.quantize.imatrix import ImatrixJob, collect_imatrix, reject_too_few_chats
from pipeline.quantize.imatrix_file import check_fits, read_imatrix
from pipeline.quantize.job import Quantization, QuantizeJob, Quantizer
from pipeline.quantize.types import AUTO, bits_needed, quant_type
from pipeline.report.charts import get_ready
from pipeline.sources.adapter_base import base_mismatch_notes
from pipeline.sources.model_source import Source, tensors_of


def check_importance(config: ExportConfig, base: Source) -> None:
    """Raise InputError for a file of `--calibrate` or `--imatrix` that cannot be used, before all work."""
    if config.calibrate:
        reject_too_few_chats(config.calibrate.name, read_chats(config.calibrate), base)
    if config.imatrix:
        read_imatrix(config.imatrix)


def importance_file(
    config: ExportConfig, full: Path, work: Path, record: Record, progress: StepProgress
) -> Path | None:
    """The importance matrix to quantize `full` with: the user's, an earlier run's, or a new one; or none."""
    if config.imatrix:
        check_fits(config.imatrix, read_imatrix(config.imatrix).importance(), read_tensors(full))
        return config.imatrix
    if config.calibrate is None:
        return None
    target = config.out / config.imatrix_name
    if target.is_file() and record.importance.get("sha256") == sha256(target):
        return target
    partial = work / f"{target.name}.partial"
    found = collect_imatrix(ImatrixJob(full, config.calibrate, partial, config.threads), progress)
    record.importance = {"file": target.name, "sha256": sha256(partial), **found}
    publish_file(partial, target)
    return target


_SCRATCH = {"off": 0, "fast": 64 << 20, "full": 576 << 20}
"""Bytes for what is kept while a certificate is made: the tuned answers (certificate/reference.py)."""


class ModelExport(ExportRun):
    """One export of a model under way."""

    def missing(self) -> tuple[str, ...]:
        """The files that were asked for and do not stand yet."""
        wanted = [self.config.quantized_name(quant) for quant in self.config.quants]
        wanted += [self.config.full_precision_name] if self.config.keep_f16 else []
        return tuple(file for file in wanted if not self.stands(file))

    def certificate(self) -> Certificate | None:
        """The certificate of an earlier run, where it still holds."""
        return None if self.config.verify == "off" else self._certifying.standing(self.record)

    def make(self) -> Certificate | None:
        """Convert once, quantize to each type that is missing, and certify what stands then."""
        remove_candidates(self.work.folder)
        self._require_space()
        with self.progress.step("Fetch llama.cpp's converter", None):
            toolchain = ensure_toolchain()
        self._describe()
        # Both children get ready while the converter works, which leaves a core idle.
        log = self.work.folder / "quantize.log"
        with self._certification() as certification, Quantizer(log) as quantizer:
            full = self._converted(toolchain)
            run = self._settled(full, quantizer)
            certification.begin(full, self.record)
            run._quantize(full, quantizer, certification)
            if self.config.keep_f16 and not self.stands(full.name):
                certification.wait()  # the file is about to be moved
                figures = self._full_precision_figures(full)
                self.publish(self._split(full, quantizer), self.config.outtype.upper(), *figures)
            kept = self.config.out / full.name if full.name in self.record.outputs else full
            return certification.finish(kept, self.record, self.progress)

    def _describe(self) -> None:
        self.record.options = {
            "outtype": self.config.outtype,
            "quants": list(self.config.quants),
            **self.config.quantizing,
            **{key: value for key, value in self.record.options.items() if key == AUTO_OPTION},
        }
        self.record.versions = versions()

    def _certification(self) -> Certification:
        return NoCertification() if self.config.verify == "off" else BackgroundCertification(self._certifying)

    def _converted(self, toolchain: Path) -> Path:
        """The file of full precision. The converter leaves a core to hashing its input, and to imports."""
        with ThreadPoolExecutor(max_workers=1) as background:
            inputs = background.submit(self.describe_inputs)
            background.submit(get_ready)
            full = self._full_precision(toolchain)
            self.record.inputs = inputs.result()
        self.record.save(self.work.record)
        return full

    @property
    def _certifying(self) -> CertificateStep:
        return CertificateStep(self.config, self.base, self.adapters, self.work.folder / SCRATCH)

    def _require_space(self) -> None:
        """Refuse an export that the disk cannot hold, before anything is written."""
        elements = sum(info.elements for info in tensors_of(self.base).values())
        full = elements * (4 if self.config.outtype == "f32" else 2)
        needed = 0.0 if self._ready_full_precision() else full
        if self.config.keep_f16 and self.config.split_bytes:
            needed += full  # for a while it is there whole and in shards
        for quant in self._missing_quants():
            needed += elements * bits_needed(quant) / 8
        if self.config.verify != "off" and not all(map(is_plain, self.adapters)):
            needed += full  # the base alone, for the certificate (certificate/base_gguf.py)
        needed += _SCRATCH[self.config.verify]
        require_space(self.config.out, int(needed), f"exporting {self.config.name}")

    def _missing_quants(self) -> list[str]:
        return [quant for quant in self.config.quants if not self.stands(self.config.quantized_name(quant))]

    def _quantized(self) -> tuple[Path, ...]:
        """The quantizations that stand already; they are of the same source, as their record says."""
        tried = (self.work.folder / CANDIDATES_DIR).glob("*.gguf")
        return (*(self.config.out / output.file for output in self.record.outputs.values()), *tried)

    def _ready_full_precision(self) -> Path | None:
        """The full-precision GGUF of an earlier run: kept beside the others, or left in the work folder."""
        file = self.config.full_precision_name
        if file in self.record.outputs and self.stands(file):  # shards of it are no source
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
            self._certifying.tokenizer_reference if self.config.verify != "off" else None,
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
            "notes": [*base_mismatch_notes(self.base, self.adapters), *converted.notes],
            "settings": converted.settings,
        }
        self.record.save(self.work.record)
        return target

    def _full_precision_figures(self, full: Path) -> tuple[float, float]:
        bits = full.stat().st_size * 8 / max(1, int(self.record.model["parameters"]))
        return bits, float(self.record.model["convert_seconds"])

    def _quantize(self, full: Path, quantizer: Quantizer, certification: Certification) -> None:
        imatrix, types = self._importance(full), self.config.tensor_types
        wanted = {
            quant: Quantization(full, quant_type(quant), types, imatrix) for quant in self._missing_quants()
        }
        plans = {quant: quantizer.plan(one) for quant, one in wanted.items()}
        needed = sum(plan.size for plan in plans.values())
        require_space(self.config.out, needed, f"quantizing {self.config.name}")
        for quant, plan in plans.items():
            started = time.monotonic()
            partial = self.work.folder / f"{self.config.quantized_name(quant)}.partial"
            limit, threads = self.config.split_bytes, self.config.threads
            job = QuantizeJob(wanted[quant], partial, threads, self._quantized(), limit)
            files = quantizer.quantize(job, plan, self.progress)
            self.publish(files, quant, plan.bits_per_weight, time.monotonic() - started)
            certification.add(self.record)

    def _importance(self, full: Path) -> Path | None:
        """The importance matrix to quantize with, if there is to be one."""
        if not self._missing_quants():
            return None
        found = importance_file(self.config, full, self.work.folder, self.record, self.progress)
        self.record.save(self.work.record)
        return found

    def _settled(self, full: Path, quantizer: Quantizer) -> ModelExport:
        """This run, with a type in the place of AUTO."""
        if AUTO not in self.config.quants:
            return self
        choosing = AutoStep(self.config, self._certifying, self.work.folder, quantizer)
        choosing.choose(full, self.record, self.progress, self._importance(full))
        return replace(self, config=resolve_auto(self.config, self.record))

    def _split(self, full: Path, quantizer: Quantizer) -> list[Path]:
        limit = self.config.split_bytes
        if limit is None or full.stat().st_size <= limit:
            return [full]
        return quantizer.split(full, full.with_name(f"{full.name}.partial"), limit, self.progress)
