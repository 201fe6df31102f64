"""export(config): the order of the steps, resume, progress. No tensor code."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.certificate.finding import Certificate
from pipeline.convert.lora import reject_inexpressible
from pipeline.exporter.auto_quant import auto_notes, reject_without_template, resolve_auto
from pipeline.exporter.base import AdapterExport
from pipeline.exporter.certify_step import remove_stale_certificate
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.model_export import ModelExport, check_importance
from pipeline.exporter.resume import open_record, recorded_outputs, remove_stale_outputs
from pipeline.exporter.workspace import Workspace
from pipeline.manifest import NAME as MANIFEST
from pipeline.manifest import Output, Record
from pipeline.progress import NoProgress, StepProgress
from pipeline.report.write import is_written, remove_report, write_report
from pipeline.sources.adapter import Adapter, parse_adapter, read_adapter
from pipeline.sources.model_source import adapter_source, base_source


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

    @property
    def paths(self) -> tuple[Path, ...]:
        """The GGUF files, in the order of `outputs`."""
        return tuple(self.folder / output.file for output in self.outputs)


def export(config: ExportConfig, progress: StepProgress | None = None) -> ExportResult:
    """Merge, convert and quantize as `config` says; returns what stands in `config.out` then.

    Raises InputError when the input is wrong (nothing is written then) and PipelineError when a
    step fails. Interrupted at any moment, the next call goes on from the last finished step.
    """
    config.refuse_idle()
    base = base_source(config.base, config.revision)
    adapters = _read_adapters(config)
    check_importance(config, base)
    reject_without_template(config, (base, *(adapter.source for adapter in adapters)))
    with Workspace(config.out) as work:
        record = open_record(config, work, base, adapters)
        kind = AdapterExport if config.format == "adapter" else ModelExport
        config = resolve_auto(config, record)
        run = kind(config, work, record, base, adapters, progress or NoProgress())
        before = set(record.outputs)
        standing = certificate = run.certificate()
        certify = config.verify != "off" and config.format == "model"
        if run.missing() or (certify and standing is None):
            certificate = run.make()
        remove_stale_certificate(config.out, record)
        record.complete = True
        earlier = recorded_outputs(config.out)
        record.save(config.out / MANIFEST)
        remove_stale_outputs(config.out, earlier, record)
        if certificate is None and earlier.hashes != record.hashes:
            remove_report(config.out)  # it told of those files
        reported = _report(config, record, certificate, anew=certificate is not standing)
        work.clear()
    outputs = tuple(record.outputs[file] for file in sorted(record.outputs))
    notes = (*record.model.get("notes", ()), *auto_notes(record), *reported)
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
        reject_inexpressible(adapters[0])
    return adapters
