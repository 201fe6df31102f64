"""ExportRun, the base class of exports, and AdapterExport, which writes a GGUF LoRA file."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.certificate import Certificate
from common.files import publish_files, sha256
from ggufio.shards import whole_name
from pipeline.convert.lora import AdapterJob, WrittenAdapter, write_adapter
from pipeline.convert.toolchain import ensure_toolchain
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.resume import (
    describe_adapter,
    describe_importance,
    describe_input,
    describe_template,
    merged_into,
)
from pipeline.exporter.workspace import Workspace
from pipeline.manifest import Output, Record, versions
from pipeline.progress import StepProgress
from pipeline.sources.adapter import Adapter
from pipeline.sources.adapter_base import base_mismatch_notes, base_model
from pipeline.sources.model_source import Source


@dataclass(frozen=True)
class ExportRun(ABC):
    """An export under way. `record` lists the finished files, and is saved after each step."""

    config: ExportConfig
    work: Workspace
    record: Record
    base: Source
    adapters: tuple[Adapter, ...]
    progress: StepProgress

    @abstractmethod
    def missing(self) -> tuple[str, ...]:
        """Return the requested files that are not finished."""

    @abstractmethod
    def run(self) -> Certificate | None:
        """Make the missing files; return their certificate, if one was requested."""

    def existing_certificate(self) -> Certificate | None:
        """Return an earlier run's certificate, if it is still valid; a GGUF LoRA file has none."""
        return None

    @property
    def given_adapters(self) -> tuple[Adapter, ...]:
        """The adapters as the user named them."""
        return self.adapters

    def is_current(self, file: str) -> bool:
        """Return whether the file in the output folder is finished and unchanged."""
        return self.record.is_finished(file, self.config.out)

    def describe_inputs(self) -> dict[str, Any]:
        """Return the inputs for the manifest: their sources and hashes."""
        described: dict[str, Any] = {"base": describe_input(self.base)}
        if model := base_model(self.base, self.adapters):
            described["base"]["model"] = model
        if self.given_adapters:
            described["adapters"] = [describe_adapter(adapter) for adapter in self.given_adapters]
            described["merged_into"] = merged_into(self.config)
        if template := describe_template(self.config):
            described["chat_template"] = template
        if importance := describe_importance(self.config):
            described["importance"] = importance
        return described

    def publish(self, ready: Sequence[Path], quant: str, bits: float, seconds: float) -> None:
        """Rename a finished file, or all its shards, to the final names, and record them."""
        digests = [sha256(path) for path in ready]
        targets = [self.config.out / path.name.removesuffix(".partial") for path in ready]
        publish_files(ready, targets)
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
                path.unlink()  # of an earlier export with other shards

    def convert_adapter(self, adapter: Adapter, file: str) -> tuple[Path, WrittenAdapter]:
        """Write an adapter as a GGUF LoRA to the work folder, for the final name `file`."""
        partial = self.work.folder / f"{file}.partial"
        outtype, toolchain = self.config.outtype, ensure_toolchain()
        job = AdapterJob(self.base, adapter, outtype, partial, self.config.name, toolchain)
        return partial, write_adapter(job, self.progress)

    def publish_adapter(self, ready: Path, written: WrittenAdapter, seconds: float) -> None:
        """Give a GGUF LoRA its final name, and record it."""
        bits = ready.stat().st_size * 8 / max(1, written.parameters)
        self.publish([ready], self.config.outtype.upper(), bits, seconds)


class AdapterExport(ExportRun):
    """An export of an adapter as a GGUF LoRA file, not merged."""

    def missing(self) -> tuple[str, ...]:
        """Return the adapter's file, unless it is finished."""
        file = self.config.adapter_name
        return () if self.is_current(file) else (file,)

    def run(self) -> None:
        """Write the adapter's file; there is no certificate."""
        with self.progress.step("Fetch llama.cpp's converter", None):
            ensure_toolchain()
        started = time.monotonic()
        partial, written = self.convert_adapter(self.adapters[0], self.config.adapter_name)
        self.record.options = {"format": "adapter", "outtype": self.config.outtype}
        self.record.versions = versions()
        self.record.inputs = self.describe_inputs()
        self.record.model = {
            "parameters": written.parameters,
            "changed_weights": written.tensors,
            "notes": base_mismatch_notes(self.base, self.adapters),
        }
        self.publish_adapter(partial, written, time.monotonic() - started)
