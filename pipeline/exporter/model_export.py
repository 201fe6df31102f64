"""ModelExport: convert once, quantize to each type, certify. No tensor code."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from common.certificate import Certificate
from common.files import publish_file, sha256
from ggufio.ggml_reader import read_tensors
from pipeline.certificate.tensors.expected import is_plain
from pipeline.convert.job import ConvertJob, convert
from pipeline.convert.toolchain import ensure_toolchain
from pipeline.data.dataset import read_chats
from pipeline.exporter.auto_quant import (
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
    first_shards,
)
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.recover_step import RecoverStep, TrainedAdapter
from pipeline.exporter.size_step import MAX_TRIALS, SizeStep, check_size, quantization
from pipeline.exporter.workspace import require_space
from pipeline.manifest import ALLOCATIONS, AUTO_OPTION, LORAS, RECOVERY, Record, versions
from pipeline.progress import StepProgress
from pipeline.quantize.grid_survey import survey_checkpoint
from pipeline.quantize.imatrix import ImatrixJob, collect_imatrix, reject_too_few_chats
from pipeline.quantize.imatrix_file import check_fits, read_imatrix
from pipeline.quantize.job import QuantizeJob, Quantizer
from pipeline.quantize.types import AUTO, bits_needed
from pipeline.sources.adapter import Adapter
from pipeline.sources.adapter_base import base_mismatch_notes
from pipeline.sources.model_source import Source, tensors_of
from pipeline.sources.trained_base import rounding_notes


def check_importance(config: ExportConfig, base: Source) -> None:
    """Raise InputError for an unusable file of `--calibrate` or `--imatrix`, before any work."""
    if config.calibrate:
        reject_too_few_chats(config.calibrate.name, read_chats(config.calibrate), base)
    if config.imatrix:
        read_imatrix(config.imatrix)


def importance_file(
    config: ExportConfig, full: Path, work: Path, record: Record, progress: StepProgress
) -> Path | None:
    """Return the importance matrix for `full`: the user's, an earlier run's or a new one; or None."""
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


_SCRATCH_SIZES = {"off": 0, "fast": 64 << 20, "full": 576 << 20}
"""Bytes of the tuned model's logits, stored during the checks (certificate/scoring/reference.py)."""


@dataclass(frozen=True)
class ModelExport(ExportRun):
    """An export of a model under way; `trained` is an adapter that was trained for one of its files."""

    trained: TrainedAdapter | None = None

    @property
    def given_adapters(self) -> tuple[Adapter, ...]:
        """The adapter that was trained for a file in place of the one before."""
        return (self.trained.adapter,) if self.trained else self.adapters

    def missing(self) -> tuple[str, ...]:
        """Return the requested files that are not finished."""
        wanted = [self.config.quantized_name(quant) for quant in self.config.quants]
        wanted += self.config.loras.values()
        wanted += [self.config.full_precision_name] if self.config.keep_f16 else []
        return tuple(file for file in wanted if not self.is_current(file))

    def existing_certificate(self) -> Certificate | None:
        """Return an earlier run's certificate, if it is still valid."""
        return None if self.config.verify == "off" else self._certifying.existing(self.record)

    def run(self) -> Certificate | None:
        """Convert once, quantize to each missing type, and certify all files."""
        remove_candidates(self.work.folder)
        self._require_space()
        with self.progress.step("Fetch llama.cpp's converter", None):
            toolchain = ensure_toolchain()
        self._describe()
        # Both workers start up while the converter runs, which leaves a core idle.
        log = self.work.folder / "quantize.log"
        with self._certification() as certification, Quantizer(log) as quantizer:
            full = self._converted(toolchain)
            run = self._with_auto_resolved(full, quantizer)
            certification.begin(full, self.record)
            run._quantize(full, quantizer, certification)
            if self.config.keep_f16 and not self.is_current(full.name):
                certification.wait()  # the file will be moved
                bits, seconds = self._full_precision_figures(full)
                self.publish(self._split(full, quantizer), self.config.outtype.upper(), bits, seconds)
            final = self.config.out / full.name if full.name in self.record.outputs else full
            return certification.finish(final, self.record, self.progress)

    def _describe(self) -> None:
        kept = self.record.options
        self.record.options = {
            "outtype": self.config.outtype,
            "quants": list(self.config.quants),
            **self.config.quant_options,
            **({"format": self.config.format, LORAS: self.config.loras} if self.config.apart else {}),
            **({"recover": self.config.recover.describe()} if self.config.recover else {}),
            **{key: kept[key] for key in (AUTO_OPTION, ALLOCATIONS, RECOVERY) if key in kept},
        }
        self.record.versions = versions()

    def _certification(self) -> Certification:
        return NoCertification() if self.config.verify == "off" else BackgroundCertification(self._certifying)

    def _converted(self, toolchain: Path) -> Path:
        """Return the full-precision GGUF. Meanwhile hash the inputs: the converter leaves a core idle."""
        with ThreadPoolExecutor(max_workers=1) as background:
            inputs = background.submit(self.describe_inputs)
            full = self._full_precision(toolchain)
            self.record.inputs = inputs.result()
        self.record.save(self.work.record)
        return full

    @property
    def _certifying(self) -> CertificateStep:
        return CertificateStep(self.config, self.base, self.adapters, self.work.folder / SCRATCH)

    def _require_space(self) -> None:
        """Raise InputError when the disk is too small for the export, before anything is written."""
        elements = sum(info.elements for info in tensors_of(self.base).values())
        full = elements * (4 if self.config.outtype == "f32" else 2)
        needed = 0.0 if self._ready_full_precision() else full
        if self.config.keep_f16 and self.config.split_bytes:
            needed += full  # it exists both whole and in shards for a while
        for quant in self._missing_quants():
            needed += self._space_for(quant, elements)
        if self._recovering or self.config.apart:
            needed += full  # the base alone, or the model with the file's own adapter, while it is quantized
        if self.config.verify != "off" and not all(map(is_plain, self.adapters)):
            needed += full  # the base's GGUF, for the certificate (certificate/scoring/base_model.py)
        needed += _SCRATCH_SIZES[self.config.verify]
        require_space(self.config.out, int(needed), f"exporting {self.config.name}")

    def _space_for(self, quant: str, elements: int) -> float:
        """Return the bytes of a type's file; with AUTO, of all that are tried."""
        goal = self.config.goal
        if goal is None or not quant.startswith(AUTO):
            return elements * bits_needed(quant) / 8
        return goal.limit(0, elements) * (MAX_TRIALS if quant == AUTO else 1)

    def _missing_quants(self) -> list[str]:
        return [
            quant
            for quant in self.config.quants
            if not self.is_current(self.config.quantized_name(quant))
            or (self.config.apart and not self.is_current(self.config.lora_name(quant)))
        ]

    def _quantized(self) -> tuple[Path, ...]:
        """Return the finished quantizations of the same source, candidates of `--quant auto` included."""
        candidates = (self.work.folder / CANDIDATES_DIR).glob("*.gguf")
        models = (file for file in self.record.outputs if file not in self.config.loras.values())
        return (*(self.config.out / file for file in models), *candidates)

    def _ready_full_precision(self) -> Path | None:
        """Return an earlier run's full-precision GGUF, in the output or the work folder; None without one."""
        file = self.config.full_precision_name
        if file in self.record.outputs and self.is_current(file):  # shards cannot be a source
            return self.config.out / file
        return self.work.full_precision(file, self.record)

    def _full_precision(self, toolchain: Path) -> Path:
        """Return the full-precision GGUF: an earlier run's, or a new one."""
        ready = self._ready_full_precision()
        if ready:
            return ready
        started = time.monotonic()
        target = self.work.folder / self.config.full_precision_name
        partial = target.with_name(f"{target.name}.partial")
        converted = convert(self._convert_job(partial, toolchain), self.progress)
        partial.replace(target)
        self.record.model = {
            "parameters": converted.parameters,
            "tensors": converted.tensors,
            "merged_tensors": converted.merged,
            "convert_seconds": round(time.monotonic() - started, 1),
            "full_precision_bytes": target.stat().st_size,
            "notes": [
                *base_mismatch_notes(self.base, self.adapters),
                *rounding_notes(self.adapters),
                *converted.notes,
                *survey_checkpoint(self.base.weight_files()).notes(tuned=bool(self.adapters)),
            ],
            "settings": converted.settings,
            "template": converted.template,
        }
        self.record.save(self.work.record)
        return target

    def _convert_job(self, target: Path, toolchain: Path) -> ConvertJob:
        config = self.config
        return ConvertJob(
            self.base,
            self.adapters,
            config.outtype,
            target,
            config.name,
            toolchain,
            config.threads,
            config.rounding,
            config.tensor_types,
            self._certifying.tokenizer_reference if config.verify != "off" else None,
            config.evaluation,
            config.given_template,
        )

    def _full_precision_figures(self, full: Path) -> tuple[float, float]:
        """Return its bits per weight and the seconds of the conversion."""
        bits = full.stat().st_size * 8 / max(1, int(self.record.model["parameters"]))
        return bits, float(self.record.model["convert_seconds"])

    def _quantize(self, full: Path, quantizer: Quantizer, certification: Certification) -> None:
        imatrix, types = self._importance(full), self.config.tensor_types
        wanted = {
            quant: quantization(self.record, quant, full, types, imatrix) for quant in self._missing_quants()
        }
        plans = {quant: quantizer.plan(one) for quant, one in wanted.items()}
        needed = sum(plan.size for plan in plans.values())
        require_space(self.config.out, needed, f"quantizing {self.config.name}")
        base_full = self._base_full_precision() if self.config.apart and plans else None
        for quant, plan in plans.items():
            started = time.monotonic()
            own = self._recover_step.adapter_for(quant, full, plan, imatrix, base_full)
            self.record.save(self.work.record)
            partial = self.work.folder / f"{self.config.quantized_name(quant)}.partial"
            limit, threads = self.config.split_bytes, self.config.threads
            source = base_full or (full if own is None else self._merged(own, quant))
            earlier = self._quantized() if own is None or base_full else ()
            job = QuantizeJob(replace(wanted[quant], source=source), partial, threads, earlier, limit)
            files = quantizer.quantize(job, plan, self.progress, quant)
            if quant in self.record.options.get(ALLOCATIONS, {}):
                allowed = self.record.options[ALLOCATIONS][quant]["limit"]
                check_size(quant, sum(path.stat().st_size for path in files), allowed)
            self.publish(files, quant, plan.bits_per_weight, time.monotonic() - started)
            if own is not None:
                first = first_shards(self.config.out, [path.name.removesuffix(".partial") for path in files])
                self._recover_step.verify(quant, next(iter(first.values())), own)
                self.record.save(self.work.record)
            if source not in (full, base_full):
                source.unlink()
            if base_full:
                adapter, started = own.adapter if own else self.adapters[0], time.monotonic()
                lora, written = self.convert_adapter(adapter, self.config.lora_name(quant))
                self.publish_adapter(lora, written, time.monotonic() - started)
            certification.add(self.record)

    def _base_full_precision(self) -> Path:
        """Return the unquantized GGUF of the base alone, with the tuned model's tokenizer and template."""
        target = self.work.folder / f"{self.config.name}-base-{self.config.outtype.upper()}.gguf"
        if not target.is_file():
            partial = target.with_name(f"{target.name}.partial")
            job = replace(self._convert_job(partial, ensure_toolchain()), tokenizer_reference=None)
            convert(replace(job, unmerged=True), self.progress)
            partial.replace(target)
        return target

    @property
    def _recovering(self) -> bool:
        """Whether a quantized file may have an adapter of its own."""
        return self.config.recover is not None or self.trained is not None

    @property
    def _recover_step(self) -> RecoverStep:
        return RecoverStep(self.config, self.base, self.adapters, self.trained, self.record, self.progress)

    def _merged(self, own: TrainedAdapter, quant: str) -> Path:
        """Return the unquantized GGUF of the model with a file's own adapter."""
        target = self.work.folder / f"{self.config.name}-for-{quant}.gguf"
        job = self._convert_job(target, ensure_toolchain())
        convert(replace(job, adapters=(own.adapter,), tokenizer_reference=None), self.progress)
        return target

    def _importance(self, full: Path) -> Path | None:
        """Return the importance matrix for quantizing; None without one."""
        if not self._missing_quants():
            return None
        path = importance_file(self.config, full, self.work.folder, self.record, self.progress)
        self.record.save(self.work.record)
        return path

    def _with_auto_resolved(self, full: Path, quantizer: Quantizer) -> ModelExport:
        """Return this export with a type chosen for AUTO."""
        if AUTO not in self.config.quants:
            return self
        step = SizeStep if self.config.goal else AutoStep
        choosing = step(self.config, self._certifying, self.work.folder, quantizer)
        choosing.choose(full, self.record, self.progress, self._importance(full))
        return replace(self, config=resolve_auto(self.config, self.record))

    def _split(self, full: Path, quantizer: Quantizer) -> list[Path]:
        limit = self.config.split_bytes
        if limit is None or full.stat().st_size <= limit:
            return [full]
        return quantizer.split(full, full.with_name(f"{full.name}.partial"), limit, self.progress)
