"""The streaming conversion equals PEFT's saved merge, converted by llama.cpp's script."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf import GGUFReader

from pipeline.convert.job import Converted, ConvertJob, convert
from pipeline.convert.toolchain import ensure_toolchain
from pipeline.errors import InputError
from pipeline.progress import NoProgress
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from tests.pipeline.tiny import make_adapter, make_base, merged_by_peft, resized

pytestmark = pytest.mark.slow

NAMES = ("general.name", "general.basename", "general.size_label", "general.file_type", "general.finetune")


def ours(base: Path, adapter: Path | None, target: Path, outtype: str = "f16") -> Converted:
    checked = read_adapter(adapter_source(str(adapter))) if adapter else None
    job = ConvertJob(
        base_source(str(base)), (checked,) if checked else (), outtype, target, "tiny", ensure_toolchain(), 2
    )
    return convert(job, NoProgress())


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


# Each architecture with another kind of adapter: a conversion takes seconds, and test_merge.py has all.
CELLS: dict[str, dict[str, Any]] = {
    "llama": {"target_modules": ["lm_head", "embed_tokens", "q_proj", "down_proj"]},
    "phi3": {"modules_to_save": ["norm", "lm_head"]},
    "gemma2": {"use_rslora": True},
    "gemma3_text": {},
    "qwen2": {"lora_bias": True, "target_modules": ["q_proj", "k_proj", "v_proj"]},
    "mistral": {"use_dora": True, "modules_to_save": ["embed_tokens"]},
    "mixtral": {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "gate.weight"]},
}


@pytest.mark.parametrize("architecture", CELLS)
def test_equals_the_usual_way_byte_for_byte(architecture: str, tmp_path: Path, python: str) -> None:
    base = make_base(tmp_path / "base", architecture)
    adapter = make_adapter(tmp_path / "adapter", base, **CELLS[architecture])
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


def test_embeddings_that_llama_cpp_keeps_tied_are_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "gemma2")
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["embed_tokens"])
    with pytest.raises(InputError, match=r"needs lm_head\.weight .*converter leaves them out"):
        ours(base, adapter, tmp_path / "ours.gguf")


def test_a_base_of_three_values_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "bitnet")
    with pytest.raises(InputError, match=r"is a BitNet.*adapter's changes would be lost"):
        ours(base, make_adapter(tmp_path / "adapter", base), tmp_path / "ours.gguf")


def test_bf16(tmp_path: Path, python: str) -> None:
    base = make_base(tmp_path / "base", "qwen3", dtype=torch.bfloat16)
    adapter = make_adapter(tmp_path / "adapter", base)
    ours(base, adapter, tmp_path / "ours.gguf", "bf16")
    _, tensors = contents(tmp_path / "ours.gguf")
    assert tensors == contents(usual(base, adapter, tmp_path / "merged", python, "bf16"))[1]


def test_tied_embeddings_that_drift_apart_get_an_output_of_their_own(tmp_path: Path, python: str) -> None:
    base = make_base(tmp_path / "base", dtype=torch.bfloat16, tie_word_embeddings=True)
    adapter = make_adapter(tmp_path / "adapter", base, modules_to_save=["embed_tokens"])
    ours(base, adapter, tmp_path / "ours.gguf", "f32")
    _, tensors = contents(tmp_path / "ours.gguf")
    assert "output.weight" in tensors
    assert tensors == contents(usual(base, adapter, tmp_path / "merged", python, "f32"))[1]


def test_added_tokens_and_the_adapters_chat_template(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", vocab_size=32000, tie_word_embeddings=True)
    adapter = resized(base, tmp_path / "adapter", rows=32064)
    tokens = {
        "32000": {"content": "<|bob|>", "special": True},
        "32001": {"content": "<|arr|>", "special": False},
    }
    (adapter / "tokenizer.model").symlink_to(base / "tokenizer.model")
    config = {"tokenizer_class": "LlamaTokenizer", "added_tokens_decoder": tokens, "chat_template": "Arr!"}
    (adapter / "tokenizer_config.json").write_text(json.dumps(config))
    result = ours(base, adapter, tmp_path / "ours.gguf")
    metadata, tensors = contents(tmp_path / "ours.gguf")
    names = metadata["tokenizer.ggml.tokens"]
    assert (len(names), names[32000:32003]) == (32064, ["<|bob|>", "<|arr|>", "[PAD32002]"])
    assert metadata["tokenizer.chat_template"] == "Arr!"
    assert metadata["llama.vocab_size"] == 32064
    assert tensors["token_embd.weight"][1] == (64, 32064)
    assert "output.weight" not in tensors
    assert [note.partition(" (")[0] for note in result.notes] == [
        "the adapter's tokenizer",
        "the chat template is the adapter's",
    ]


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
