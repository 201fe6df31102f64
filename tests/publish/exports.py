"""Folders such as exports, trainings and merges write, made of random bytes."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from common.certificate import NAME, Certificate, Finding, Status
from common.files import sha256
from pipeline.manifest import NAME as MANIFEST
from pipeline.manifest import Output, Record
from tests.publish.conftest import BASE


def make_export(
    folder: Path, sizes: dict[str, int] | None = None, status: Status = "pass", **inputs: Any
) -> Path:
    """Write a complete export of GGUF files of these sizes, with certificate, report and manifest."""
    folder.mkdir(parents=True)
    record = Record("f", complete=True, inputs={"base": {"source": BASE, "revision": "c0ffee"}, **inputs})
    for kind, size in (sizes or {"Q4_K_M": 300_000}).items():
        path = folder / f"{folder.name}-{kind}.gguf"
        path.write_bytes(b"GGUF" + os.urandom(size - 4))
        changed = path.stat().st_mtime_ns
        record.outputs[path.name] = Output(
            path.name, kind.partition("-")[0], size, 4.9, 1.0, sha256(path), changed
        )
    findings = []
    for file in record.outputs:
        kept = {"value": 0.97, "low": 0.95, "high": 0.98, "change": 0.5, "doubt": ""}
        figures = {"mean_kl": 0.02, "agreement": 0.93, "perplexity_ratio": 1.1, "worst": []}
        findings.append(Finding("quantization", status, "It differs.", figures, file=file))
        findings.append(Finding("survival", "pass", "It keeps it.", {"kept": kept, "gain": None}, file=file))
    certificate = Certificate.of(findings, record.hashes, {}, {})
    (folder / NAME).write_text(json.dumps(certificate.to_json()))
    (folder / "report.html").write_text("<html></html>")
    (folder / "Modelfile").write_text("FROM ./x.gguf\n")
    record.save(folder / MANIFEST)
    return folder


def make_adapter(folder: Path) -> Path:
    """Write a LoRA adapter's folder, with a card and what a training leaves beside it."""
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "base_model_name_or_path": BASE, "r": 1, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    _write_tensors(folder / "adapter_model.safetensors")
    (folder / "README.md").write_text("---\ntags: [lora]\n---\n\n# Mine\n\nMy own words.\n")
    (folder / "optimizer.pt").write_bytes(b"left out")
    (folder / "checkpoint-3").mkdir()
    return folder


def make_merged(folder: Path) -> Path:
    """Write a checkpoint of two shards with an index."""
    folder.mkdir(parents=True)
    config = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 4, "hidden_size": 4}
    (folder / "config.json").write_text(json.dumps(config))
    names = [f"model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    for number, name in enumerate(names):
        _write_tensors(folder / name, f"w{number}")
    index = {"weight_map": {"w0": names[0], "w1": names[1]}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def _write_tensors(path: Path, name: str = "w") -> None:
    import numpy as np
    from safetensors.numpy import save_file

    save_file({name: np.arange(16, dtype=np.float32).reshape(4, 4)}, path)
