"""The streaming conversion against the usual way: PEFT's merge saved whole, then llama.cpp's own script."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader

from pipeline.adapter import read_adapter
from pipeline.convert import Converted, ConvertJob, convert
from pipeline.errors import InputError
from pipeline.progress import Silent
from pipeline.source import adapter_source, base_source
from pipeline.toolchain import ensure_toolchain
from tests.pipeline.tiny import ARCHITECTURES, make_adapter, make_base, merged_by_peft

NAMES = ("general.name", "general.basename", "general.size_label", "general.file_type", "general.finetune")


def ours(base: Path, adapter: Path | None, target: Path, outtype: str = "f16") -> Converted:
    checked = read_adapter(adapter_source(str(adapter))) if adapter else None
    job = ConvertJob(base_source(str(base)), checked, outtype, target, "tiny", ensure_toolchain(), 2)
    return convert(job, Silent())


def usual(base: Path, adapter: Path, folder: Path, python: str, outtype: str = "f16") -> Path:
    merged_by_peft(base, adapter).save_pretrained(folder)
    for path in base.glob("tokenizer*"):
        (folder / path.name).write_bytes(path.read_bytes())
    script = ensure_toolchain() / "convert_hf_to_gguf.py"
    target = folder / "usual.gguf"
    command = [python, script, folder, "--outtype", outtype, "--outfile", target]
    subprocess.run(command, check=True, capture_output=True)
    return target


def contents(path: Path) -> tuple[dict[str, Any], dict[str, tuple[str, tuple[int, ...], bytes]]]:
    reader = GGUFReader(path)
    metadata = {
        name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")
    }
    tensors = {
        tensor.name: (tensor.tensor_type.name, tuple(tensor.shape.tolist()), tensor.data.tobytes())
        for tensor in reader.tensors
    }
    return metadata, tensors


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_the_usual_way_byte_for_byte(architecture: str, tmp_path: Path, python: str) -> None:
    base = make_base(tmp_path / "base", architecture)
    adapter = make_adapter(tmp_path / "adapter", base)
    result = ours(base, adapter, tmp_path / "ours.gguf")
    metadata, tensors = contents(tmp_path / "ours.gguf")
    expected_metadata, expected = contents(usual(base, adapter, tmp_path / "merged", python))
    assert tensors == expected
    for name in NAMES:
        metadata.pop(name, None)
        expected_metadata.pop(name, None)
    assert metadata == expected_metadata
    assert result.merged > 0
    assert result.tensors == len(tensors)


@pytest.mark.parametrize("outtype", ["f32", "bf16"])
def test_other_output_types(outtype: str, tmp_path: Path, python: str) -> None:
    base = make_base(tmp_path / "base", dtype=torch.bfloat16)
    adapter = make_adapter(tmp_path / "adapter", base)
    ours(base, adapter, tmp_path / "ours.gguf", outtype)
    _, tensors = contents(tmp_path / "ours.gguf")
    _, expected = contents(usual(base, adapter, tmp_path / "merged", python, outtype))
    assert tensors == expected


def test_without_an_adapter_the_base_is_converted(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    result = ours(base, None, tmp_path / "plain.gguf", "f32")
    assert result.merged == 0
    _, plain = contents(tmp_path / "plain.gguf")
    ours(
        base,
        make_adapter(tmp_path / "adapter", base, target_modules=["o_proj"]),
        tmp_path / "tuned.gguf",
        "f32",
    )
    _, tuned = contents(tmp_path / "tuned.gguf")
    changed = {name for name in plain if plain[name] != tuned[name]}
    assert changed == {"blk.0.attn_output.weight", "blk.1.attn_output.weight"}


def test_an_unknown_architecture_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base")
    config = (base / "config.json").read_text().replace("LlamaForCausalLM", "NobodyForCausalLM")
    (base / "config.json").write_text(config)
    with pytest.raises(InputError, match="NobodyForCausalLM"):
        ours(base, None, tmp_path / "out.gguf")


def test_an_unknown_tokenizer_is_refused(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    base = make_base(tmp_path / "base", "qwen2", vocab_size=300)
    (base / "tokenizer.model").unlink()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: index for index, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(base)
    with pytest.raises(InputError, match="tokenizer"):
        ours(base, None, tmp_path / "out.gguf")


def test_a_quantized_base_is_refused(tmp_path: Path) -> None:
    import json

    base = make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base)
    config = json.loads((base / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (base / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="is quantized"):
        ours(base, adapter, tmp_path / "out.gguf")
