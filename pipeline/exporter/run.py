"""export(config): the steps of an export in order, resumable. No tensor code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from common.certificate import Certificate
from common.shard_names import model_sizes, whole_name
from pipeline.convert.lora import reject_inexpressible
from pipeline.exporter.auto_quant import auto_notes, reject_without_template, resolve_auto
from pipeline.exporter.base import AdapterExport
from pipeline.exporter.certify_step import remove_stale_certificate
from pipeline.exporter.config import ADAPTER, APART, MERGED, ExportConfig
from pipeline.exporter.merged_export import MergedExport
from pipeline.exporter.model_export import ModelExport, check_importance
from pipeline.exporter.recover_step import own_imatrix, recovery_notes, reject_unrecoverable, split_trained
from pipeline.exporter.resume import open_record, recorded_outputs, remove_stale_outputs
from pipeline.exporter.workspace import Workspace
from pipeline.manifest import NAME as MANIFEST
from pipeline.manifest import Output, Record
from pipeline.progress import NoProgress, StepProgress
from pipeline.quantize.ternary import check_quants, quant_notes
from pipeline.report.write import is_written, remove_report, write_report
from pipeline.sources.adapter import Adapter, parse_adapter, read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from pipeline.sources.ternary import find_ternary, reject_merge, reject_wrong_activation
from pipeline.sources.trained_base import trained_rounding
from pipeline.sources.trained_for import unused_training_notes
from pipeline.tokenizers.select import reject_unknown_name


@dataclass(frozen=True)
class ExportResult:
    """The files in `folder` after an export. `made` are the names of those that this run made.

    `notes` are lines about the model for the user, such as whose tokenizer it has; `certificate` is None
    when none was requested. `loras` are the GGUF LoRA files by the name of the file that each is loaded on.
    """

    folder: Path
    outputs: tuple[Output, ...]
    made: tuple[str, ...]
    manifest: Path
    notes: tuple[str, ...] = ()
    certificate: Certificate | None = None
    loras: Mapping[str, str] = field(default_factory=dict)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The GGUF files, in the order of `outputs`."""
        return tuple(self.folder / output.file for output in self.outputs)

    @property
    def model_sizes(self) -> dict[str, int]:
        """The bytes of each model, with the adapter that is loaded on it, by its (first) file."""
        sizes = {output.file: output.bytes for output in self.outputs}
        loras = {file: sizes.pop(file, 0) for file in self.loras.values()}
        return {
            name: size + loras.get(self.loras.get(whole_name(name), ""), 0)
            for name, size in model_sizes(sizes).items()
        }


def export(config: ExportConfig, progress: StepProgress | None = None) -> ExportResult:
    """Merge, convert and quantize as `config` says; return the files that are then in `config.out`.

    Raises InputError when the input is wrong (nothing is written then) and PipelineError when a
    step fails. After an interruption, the next call resumes from the last finished step.
    """
    config.reject_unused_options()
    base = base_source(config.base, config.revision)
    reject_wrong_activation(base)
    ternary = find_ternary(base)
    given = _read_adapters(config)
    adapters, trained = split_trained(given)
    if (matrix := own_imatrix(config, trained)) is not None:
        config = replace(config, imatrix=matrix)
    if config.format != ADAPTER:
        check_quants(config.quants, base, ternary, merged=bool(adapters))
        if adapters:
            reject_merge(base)
        config = replace(config, rounding=trained_rounding(config.qlora_base, adapters))
    check_importance(config, base)
    reject_unrecoverable(config, base, adapters, trained)
    sources = (base, *(adapter.source for adapter in adapters))
    reject_without_template(config, sources)
    if config.format != ADAPTER and config.given_template is None:
        reject_unknown_name(sources)
    with Workspace(config.out) as work:
        record = open_record(config, work, base, given)
        config = resolve_auto(config, record)
        options = (config, work, record, base, adapters, progress or NoProgress())
        alone = {ADAPTER: AdapterExport, MERGED: MergedExport}.get(config.format)
        run = alone(*options) if alone else ModelExport(*options, trained)
        before = set(record.outputs)
        existing = certificate = run.existing_certificate()
        certify = config.verify != "off" and config.format not in (ADAPTER, MERGED)
        if run.missing() or (certify and existing is None):
            certificate = run.run()
        reported = _complete(config, record, certificate, is_new=certificate is not existing)
        work.clear()
    outputs = tuple(record.outputs[file] for file in sorted(record.outputs))
    notes = (
        *record.model.get("notes", ()),
        *unused_training_notes(
            given, written_apart=config.format == ADAPTER, unrounded=config.format == MERGED
        ),
        *quant_notes(config.quants, ternary, merged=bool(adapters)),
        *auto_notes(record),
        *recovery_notes(record),
        *reported,
    )
    made = tuple(file for file in record.outputs if file not in before)
    return ExportResult(config.out, outputs, made, config.out / MANIFEST, notes, certificate, config.loras)


def _complete(
    config: ExportConfig, record: Record, certificate: Certificate | None, *, is_new: bool
) -> tuple[str, ...]:
    """Write the manifest and the certificate's report, and remove stale files; return notes for the user."""
    remove_stale_certificate(config.out, record)
    record.complete = True
    earlier = recorded_outputs(config.out)
    record.save(config.out / MANIFEST)
    remove_stale_outputs(config.out, earlier, record)
    if certificate is None and earlier.hashes != record.hashes:
        remove_report(config.out)  # it describes the earlier files
    if certificate is None or (is_written(config.out) and not is_new):
        return ()
    return write_report(config.out, config.name, record, certificate).notes


def _read_adapters(config: ExportConfig) -> tuple[Adapter, ...]:
    parsed = (parse_adapter(text) for text in config.adapters)
    adapters = tuple(
        read_adapter(adapter_source(spec, config.adapter_revision), weight) for spec, weight in parsed
    )
    if config.format in (ADAPTER, APART):
        reject_inexpressible(adapters[0])
    return adapters
