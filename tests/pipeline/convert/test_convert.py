"""The streaming conversion equals PEFT's saved merge, converted by llama.cpp's script."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.raw_gguf import read_raw
from pipeline.convert.job import Converted, ConvertJob, convert
from pipeline.convert.toolchain import ensure_toolchain
from pipeline.errors import InputError
from pipeline.progress import NoProgress
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from tests.pipeline.converting import convert_all, convert_by_script
from tests.pipeline.tiny import make_adapter, make_base, merged_by_peft, resized

pytestmark = pytest.mark.slow

NAMES = ("general.name", "general.basename", "general.size_label", "general.file_type", "general.finetune")


def ours(base: Path, adapter: Path | None, target: Path, outtype: str = "f16") -> Converted:
    checked = read_adapter(adapter_source(str(adapter))) if adapter else None
    job = ConvertJob(
        base_source(str(base)), (checked,) if checked else (), outtype, target, "tiny", ensure_toolchain(), 2
    )
    return convert(job, NoProgress())


Tensor = tuple[int, tuple[int, ...], bytes]
"""A tensor's type in ggml, its shape, and its bytes."""


def contents(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return a GGUF's metadata, with types, and its tensors; gguf's own reader takes 20 times as long."""
    raw = read_raw(path.read_bytes())
    ends = sorted([*(tensor.offset for tensor in raw.tensors), len(raw.data)])
    tensors = {
        tensor.name.decode(): (
            tensor.type,
            tuple(tensor.dims),
            raw.data[tensor.offset : ends[ends.index(tensor.offset) + 1]],
        )
        for tensor in raw.tensors
    }
    return {field.key.decode(): (field.type, field.value) for field in raw.fields}, tensors


# Each architecture with another kind of adapter: options of the base and of the adapter, and the type.
Cell = tuple[str, dict[str, Any], dict[str, Any], str]
CELLS: dict[str, Cell] = {
    "llama": ("llama", {}, {"target_modules": ["lm_head", "embed_tokens", "q_proj", "down_proj"]}, "f16"),
    "phi3": ("phi3", {}, {"modules_to_save": ["norm", "lm_head"]}, "f16"),
    "gemma2": ("gemma2", {}, {"use_rslora": True}, "f16"),
    "gemma3_text": ("gemma3_text", {}, {}, "f16"),
    "qwen2": ("qwen2", {}, {"lora_bias": True, "target_modules": ["q_proj", "k_proj", "v_proj"]}, "f16"),
    "mistral": ("mistral", {}, {"use_dora": True, "modules_to_save": ["embed_tokens"]}, "f16"),
    "mixtral": (
        "mixtral",
        {},
        {"target_modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "gate.weight"]},
        "f16",
    ),
    "bf16": ("qwen3", {"dtype": torch.bfloat16}, {}, "bf16"),
    "tied embeddings that drift apart": (
        "llama",
        {"dtype": torch.bfloat16, "tie_word_embeddings": True},
        {"modules_to_save": ["embed_tokens"]},
        "f32",
    ),
}


@pytest.fixture(scope="module")
def converted(
    tmp_path_factory: pytest.TempPathFactory, root: Path, python: str
) -> dict[str, tuple[Converted, Path, Path]]:
    """Return for each cell what was converted, the export's GGUF, and that of llama.cpp's script."""
    out, toolchain = tmp_path_factory.mktemp("converted"), ensure_toolchain()
    jobs, calls = [], []
    for name, (architecture, options, adapter_options, outtype) in CELLS.items():
        folder = out / name
        base = make_base(folder / "base", architecture, **options)
        adapter = make_adapter(folder / "adapter", base, **adapter_options)
        source, checked = base_source(str(base)), read_adapter(adapter_source(str(adapter)))
        jobs.append(ConvertJob(source, (checked,), outtype, folder / "ours.gguf", "tiny", toolchain, 2))
        merged_by_peft(base, adapter).save_pretrained(folder / "merged")
        for path in base.glob("tokenizer*"):
            (folder / "merged" / path.name).write_bytes(path.read_bytes())
        calls.append((folder / "merged", outtype, folder / "usual.gguf"))
    convert_by_script(calls, root, python)
    found = convert_all(jobs, root, python)
    return {
        name: (result, job.target, target)
        for name, result, job, (_, _, target) in zip(CELLS, found, jobs, calls, strict=True)
    }


@pytest.mark.parametrize("name", CELLS)
def test_equals_the_usual_way_byte_for_byte(
    name: str, converted: dict[str, tuple[Converted, Path, Path]]
) -> None:
    """The usual way is PEFT's merge of the whole model, converted by llama.cpp's script."""
    result, mine, usual = converted[name]
    metadata, tensors = contents(mine)
    expected_metadata, expected = contents(usual)
    assert tensors == expected
    for key in NAMES:
        metadata.pop(key, None)
        expected_metadata.pop(key, None)
    assert metadata == expected_metadata
    assert result.merged > 0
    assert result.tensors == len(tensors)
    if "tied" in name:
        assert "output.weight" in tensors


def test_embeddings_that_llama_cpp_keeps_tied_are_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "gemma2")
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["embed_tokens"])
    with pytest.raises(InputError, match=r"needs lm_head\.weight .*converter leaves them out"):
        ours(base, adapter, tmp_path / "ours.gguf")


def test_a_base_of_three_values_is_refused(tmp_path: Path) -> None:
    base = make_base(tmp_path / "base", "bitnet")
    with pytest.raises(InputError, match=r"is a BitNet.*adapter's changes would be lost"):
        ours(base, make_adapter(tmp_path / "adapter", base), tmp_path / "ours.gguf")


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
    names = metadata["tokenizer.ggml.tokens"][1].items
    assert (len(names), names[32000:32003]) == (32064, [b"<|bob|>", b"<|arr|>", b"[PAD32002]"])
    assert metadata["tokenizer.chat_template"][1] == b"Arr!"
    assert metadata["llama.vocab_size"][1] == 32064
    assert tensors["token_embd.weight"][1] == (64, 32064)
    assert "output.weight" not in tensors
    assert [note.partition(" (")[0] for note in result.notes] == [
        "the adapter's tokenizer",
        "the chat template is the adapter's",
    ]


def test_without_an_adapter_the_base_is_converted(tmp_path: Path, root: Path, python: str) -> None:
    base = make_base(tmp_path / "base")
    adapter = make_adapter(tmp_path / "adapter", base, target_modules=["o_proj"])
    plain = ConvertJob(
        base_source(str(base)), (), "f32", tmp_path / "plain.gguf", "tiny", ensure_toolchain(), 2
    )
    checked = read_adapter(adapter_source(str(adapter)))
    tuned = replace(plain, adapters=(checked,), target=tmp_path / "tuned.gguf")
    assert [result.merged for result in convert_all([plain, tuned], root, python)] == [0, 2]
    before, after = (contents(job.target)[1] for job in (plain, tuned))
    changed = {name for name in before if before[name] != after[name]}
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
