"""Fine-tunes LoRA adapters, evaluates them, and exports them to GGUF files checked against the tuned model.

    from pipeline import ExportConfig, export

The names below are imported when they are first used, so `import pipeline` stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.lazy import lazy_exports

if TYPE_CHECKING:
    from common.certificate import Certificate as Certificate
    from common.certificate import Finding as Finding
    from common.certificate import load_certificate as load_certificate
    from pipeline.certificate.runner.certify import certify as certify
    from pipeline.certificate.runner.external import ExternalCheck as ExternalCheck
    from pipeline.certificate.runner.external import certify_file as certify_file
    from pipeline.errors import InputError as InputError
    from pipeline.errors import PipelineError as PipelineError
    from pipeline.evaluation.config import EvaluateConfig as EvaluateConfig
    from pipeline.evaluation.config import Evaluation as Evaluation
    from pipeline.evaluation.evaluate import evaluate as evaluate
    from pipeline.evaluation.statistics import RowLoss as RowLoss
    from pipeline.evaluation.statistics import compare_in_memory as compare_in_memory
    from pipeline.exporter.config import ExportConfig as ExportConfig
    from pipeline.exporter.run import ExportResult as ExportResult
    from pipeline.exporter.run import export as export
    from pipeline.sources.bundled import make_base as make_base
    from pipeline.training.config import FinetuneConfig as FinetuneConfig
    from pipeline.training.config import FinetuneReport as FinetuneReport
    from pipeline.training.finetune import finetune as finetune
    from pipeline.tuning import TuneConfig as TuneConfig
    from pipeline.tuning import TuneResult as TuneResult
    from pipeline.tuning import tune as tune

_MODULES = {
    "Certificate": "common.certificate",
    "EvaluateConfig": "pipeline.evaluation.config",
    "Evaluation": "pipeline.evaluation.config",
    "ExportConfig": "pipeline.exporter.config",
    "ExportResult": "pipeline.exporter.run",
    "ExternalCheck": "pipeline.certificate.runner.external",
    "Finding": "common.certificate",
    "FinetuneConfig": "pipeline.training.config",
    "FinetuneReport": "pipeline.training.config",
    "InputError": "pipeline.errors",
    "PipelineError": "pipeline.errors",
    "RowLoss": "pipeline.evaluation.statistics",
    "TuneConfig": "pipeline.tuning",
    "TuneResult": "pipeline.tuning",
    "certify": "pipeline.certificate.runner.certify",
    "certify_file": "pipeline.certificate.runner.external",
    "compare_in_memory": "pipeline.evaluation.statistics",
    "evaluate": "pipeline.evaluation.evaluate",
    "export": "pipeline.exporter.run",
    "finetune": "pipeline.training.finetune",
    "load_certificate": "common.certificate",
    "make_base": "pipeline.sources.bundled",
    "tune": "pipeline.tuning",
}
__all__ = [
    "Certificate",
    "EvaluateConfig",
    "Evaluation",
    "ExportConfig",
    "ExportResult",
    "ExternalCheck",
    "Finding",
    "FinetuneConfig",
    "FinetuneReport",
    "InputError",
    "PipelineError",
    "RowLoss",
    "TuneConfig",
    "TuneResult",
    "certify",
    "certify_file",
    "compare_in_memory",
    "evaluate",
    "export",
    "finetune",
    "load_certificate",
    "make_base",
    "tune",
]
__getattr__, __dir__ = lazy_exports(__name__, _MODULES)
