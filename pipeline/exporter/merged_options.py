"""The options that an export to a merged checkpoint takes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.errors import InputError

if TYPE_CHECKING:
    from pipeline.exporter.config import ExportConfig


def reject_options(config: ExportConfig, default_quants: tuple[str, ...]) -> None:
    """Raise InputError for an option without effect on a merged checkpoint."""
    if not config.adapters:
        raise InputError("--format merged needs --adapter: without one, it would be a copy of the base")
    unused: dict[str, Any] = {
        "quant": next(iter(config.quants), None) if config.quants not in ((), default_quants) else None,
        "keep-f16": config.keep_f16,
        "tensor-type": config.tensor_type,
        "output-type": config.output_type,
        "embedding-type": config.embedding_type,
        "pure": config.pure,
        "calibrate": config.calibrate,
        "imatrix": config.imatrix,
        "recover": config.recover,
        "prefer": config.prefer if config.prefer != "size" else None,
        "max-size": config.max_size,
        "max-bpw": config.max_bpw,
        "verify": "full" if config.verify == "full" else None,
        "eval": config.evaluation,
    }
    for option, value in unused.items():
        if value:
            shown = f" {value}" if isinstance(value, str) else ""
            raise InputError(
                f"--format merged takes no --{option}{shown}: it writes safetensors, neither quantized nor "
                "checked; export a GGUF for that"
            )
