"""The child process that reads a base's and an adapter's folders as an export does before its first output.

See common.worker_process. Any error but UserError ends the process: it would be a traceback for the user.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from common.errors import UserError
from common.worker_process import Message, serve
from pipeline.convert.lora import reject_inexpressible
from pipeline.exporter.auto_quant import reject_without_template
from pipeline.exporter.config import ExportConfig
from pipeline.merge.meta_model import AdapterWeights, build_base, inject_adapter
from pipeline.quantize.types import AUTO
from pipeline.sources.adapter import Adapter, read_adapter
from pipeline.sources.adapter_base import base_mismatch_notes, base_model
from pipeline.sources.model_source import Source, adapter_source, base_source, tensors_of
from pipeline.tokenizers.select import stage_checkpoint


def read(request: Message) -> Message:
    """Read the folders `base` and `adapter` inside the request's `folder`. Raises UserError."""
    folder = Path(request["folder"])
    adapter = read_adapter(adapter_source(str(folder / "adapter")))
    _ = adapter.kind, adapter.rank, adapter.token_indices
    base = base_source(str(folder / "base"))
    tensors_of(base)
    base_mismatch_notes(base, [adapter])
    base_model(base, [adapter])
    config = ExportConfig(base=str(folder / "base"), quants=(AUTO,), out=folder / "out")
    reject_without_template(config, (base, adapter.source))
    with tempfile.TemporaryDirectory() as scratch:
        stage_checkpoint(base, [adapter], {"vocab_size": 97}, Path(scratch))
    _build(base, adapter)
    reject_inexpressible(adapter)
    return {}


def _build(base: Source, adapter: Adapter) -> None:
    model = build_base(base, {})
    shapes = {name: tuple(value.shape) for name, value in model.named_parameters(remove_duplicate=False)}
    AdapterWeights(inject_adapter(model, adapter), adapter, shapes)


if __name__ == "__main__":
    serve(read, refusals=(UserError,))
