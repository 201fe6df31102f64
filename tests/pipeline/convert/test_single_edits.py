"""Single edits of a base's and an adapter's files: each gives the same GGUF, or one line with file and key.

One process converts them all, as each start of it takes seconds.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from common.dataclass_json import to_json
from common.worker_process import WorkerProcess
from ggufio import read_header
from pipeline.convert.job import ConvertJob
from pipeline.convert.toolchain import ensure_toolchain
from pipeline.errors import InputError
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source
from tests.pipeline.convert.tiny_folders import (
    FILES,
    ROWS,
    TOKENS,
    WIDTH,
    Tensors,
    adapter_tensors,
    base_tensors,
    write_folders,
)

pytestmark = pytest.mark.slow
CONFIG, GENERATION, SPECIAL, TOKENIZER_CONFIG, TOKENIZER, ADAPTER = FILES
INDEX = "base/model.safetensors.index.json"
Q = "model.layers.1.self_attn.q_proj.weight"
LORA_A = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
GONE = object()
Convert = Callable[[Path], bytes]


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good")
    write_folders(folder)
    return folder


@pytest.fixture(scope="module")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Convert]:
    """Return a function that exports the folders in a folder, and returns the bytes of the GGUF's tensors."""
    log, toolchain = tmp_path_factory.mktemp("log") / "log", ensure_toolchain()
    with WorkerProcess("pipeline.convert.worker", log) as worker:

        def run(folder: Path) -> bytes:
            base = base_source(str(folder / "base"))
            adapters = (read_adapter(adapter_source(str(folder / "adapter"))),)
            target = folder / "tiny.gguf"
            worker.run(to_json(ConvertJob(base, adapters, "f16", target, "tiny", toolchain, 1)))
            header = read_header(target)
            return target.read_bytes()[min(tensor.offset for tensor in header.tensors.values()) :]

        yield run


@pytest.fixture(scope="module")
def good_bytes(good: Path, convert: Convert, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("unedited") / "x"
    shutil.copytree(good, folder)
    return convert(folder)


def edited(good: Path, folder: Path) -> Path:
    shutil.copytree(good, folder, dirs_exist_ok=True)
    return folder


def refusal(convert: Convert, folder: Path) -> str:
    """Return the line with which the export refuses a folder, without the folder's name."""
    with pytest.raises(InputError) as caught:
        convert(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(f"{folder}/", "")


JSON_EDITS: list[tuple[str, str, Any, str]] = [
    (CONFIG, "hidden_size", "32", "base/config.json .*correct hidden_size = '32'"),
    (CONFIG, "hidden_size", 33, "base/config.json .*hidden size \\(33\\)"),
    (CONFIG, "hidden_size", None, "base/config.json .*correct hidden_size = None"),
    (
        CONFIG,
        "hidden_size",
        GONE,
        "in base has model.embed_tokens.weight of the shape .*config.json asks for",
    ),
    (CONFIG, "num_attention_heads", 0, "base/config.json .*correct num_attention_heads = 0"),
    (CONFIG, "num_attention_heads", 3, "base/config.json .*number of attention heads \\(3\\)"),
    (CONFIG, "num_hidden_layers", 3, "in base has no tensor model.layers.2.*its config.json asks for"),
    (
        CONFIG,
        "num_hidden_layers",
        99,
        "config.json has num_hidden_layers = 99, and the weights are 21 tensors",
    ),
    (CONFIG, "vocab_size", 100, "config.json asks for \\[100, 32\\] \\(vocab_size = 100\\)"),
    (CONFIG, "vocab_size", 400, "config.json asks for \\[400, 32\\] \\(vocab_size = 400\\)"),
    (CONFIG, "vocab_size", -5, "base/config.json .*correct vocab_size = -5"),
    (CONFIG, "vocab_size", "x", "config.json has vocab_size = 'x'"),
    (CONFIG, "intermediate_size", 65, "config.json asks for .*\\(intermediate_size = 65\\)"),
    (CONFIG, "max_position_embeddings", -1, "llama.context_length = -1, .*config.json"),
    (CONFIG, "max_position_embeddings", 2**40, "llama.context_length = 1099511627776, .*config.json"),
    (CONFIG, "max_position_embeddings", "128", "correct max_position_embeddings = '128'"),
    (CONFIG, "rope_parameters", "x", "base/config.json .*rope_parameters"),
    (CONFIG, "rope_parameters.rope_type", "nope", "base/config.json .*correct rope_parameters = .*nope"),
    (CONFIG, "rope_parameters.rope_type", "yarn", "base/config.json .*correct rope_parameters = .*yarn"),
    (CONFIG, "rms_norm_eps", "1e-5", "base/config.json .*correct rms_norm_eps = '1e-5'"),
    (CONFIG, "hidden_act", "nope", "base/config.json .*correct hidden_act = 'nope'"),
    (CONFIG, "architectures", ["FooForCausalLM"], "has the architecture FooForCausalLM, which llama.cpp"),
    (CONFIG, "architectures", GONE, "config.json names no architectures"),
    (CONFIG, "model_type", "nope", "has model type `nope`"),
    (CONFIG, "tie_word_embeddings", "yes", "base/config.json .*correct tie_word_embeddings = 'yes'"),
    (
        CONFIG,
        "head_dim",
        8,
        "q_proj.weight of the shape \\[32, 32\\], and its config.json asks for \\[16, 32\\]",
    ),
    (CONFIG, "head_dim", 0, "base/config.json .*correct head_dim = 0"),
    (CONFIG, "attention_bias", True, "has no tensor model.layers.0.self_attn.q_proj.bias, .*config.json"),
    (CONFIG, "quantization_config", {"quant_method": "bitsandbytes"}, "is quantized, and a merge needs full"),
    (CONFIG, "dtype", "float1024", "base/config.json .*correct dtype = 'float1024'"),
    (CONFIG, "num_key_value_heads", None, ""),
    (CONFIG, "bos_token_id", None, ""),
    (CONFIG, "use_cache", None, "base/config.json .*correct use_cache = None"),
    (GENERATION, "temperature", "hot", "general.sampling.temp = 'hot', .*generation_config.json"),
    (GENERATION, "top_p", None, ""),
    (GENERATION, "eos_token_id", [99999], ""),
    (SPECIAL, "unk_token", None, ""),
    (SPECIAL, "eos_token", {"content": "</s>"}, ""),
    (TOKENIZER_CONFIG, "tokenizer_class", 5, "base/tokenizer_config.json has tokenizer_class = 5"),
    (TOKENIZER_CONFIG, "bos_token", 5, "base/tokenizer_config.json has bos_token = 5"),
    (TOKENIZER_CONFIG, "eos_token", ["</s>"], "base/tokenizer_config.json has eos_token.* = \\['</s>'\\]"),
    (TOKENIZER_CONFIG, "added_tokens_decoder", [], "tokenizer_config.json has added_tokens_decoder = \\[\\]"),
    (TOKENIZER_CONFIG, "added_tokens_decoder", {"x": {"content": "<s>"}}, "added_tokens_decoder.x.* = 'x'"),
    (TOKENIZER_CONFIG, "added_tokens_decoder.1", "<s>", "added_tokens_decoder.1 = '<s>'"),
    (TOKENIZER_CONFIG, "pad_token", None, ""),
    (TOKENIZER_CONFIG, "model_max_length", None, ""),
    (TOKENIZER, "model.type", "Nope", "base/tokenizer.json is damaged or of an unknown kind"),
    (TOKENIZER, "model.type", GONE, "base/tokenizer.json lacks model.type"),
    (TOKENIZER, "model.vocab", [], "base/tokenizer.json"),
    (TOKENIZER, "model.vocab.a", "x", "base/tokenizer.json has model.vocab.a = 'x'"),
    (TOKENIZER, "model.vocab.a", -1, "base/tokenizer.json has model.vocab.a = -1"),
    (
        TOKENIZER,
        "model.vocab.a",
        10**6,
        f"has 'a' \\(id 1000000\\), for which the {ROWS} rows of the embeddings",
    ),
    (TOKENIZER, "model.merges", "x", "base/tokenizer.json has model.merges = 'x'"),
    (TOKENIZER, "model.merges", [["a", "zz"]], "base/tokenizer.json .*`zz` out of vocabulary"),
    (TOKENIZER, "added_tokens", None, "base/tokenizer.json has added_tokens = None"),
    (TOKENIZER, "added_tokens.0", "x", "base/tokenizer.json has added_tokens.0 = 'x'"),
    (TOKENIZER, "normalizer", {"type": "Nope"}, "base/tokenizer.json .*NormalizerUntagged"),
    (TOKENIZER, "pre_tokenizer", {"type": "Nope"}, "base/tokenizer.json .*PreTokenizer"),
    (TOKENIZER, "truncation", GONE, ""),
    *(
        (ADAPTER, key, None, "")
        for key in ("rank_pattern", "alpha_pattern", "bias", "lora_alpha", "lora_dropout")
    ),
    *((ADAPTER, key, None, "") for key in ("use_dora", "use_rslora", "fan_in_fan_out", "init_lora_weights")),
    *((ADAPTER, key, None, "") for key in ("task_type", "lora_bias", "layer_replication", "target_modules")),
    (ADAPTER, "peft_type", "lora", ""),
    (ADAPTER, "peft_type", None, "'adapter' has no peft_type in its adapter_config.json"),
    (ADAPTER, "peft_type", "nope", "is of PEFT's kind NOPE"),
    (ADAPTER, "bias", "nope", "bias = 'nope' in its adapter_config.json"),
    (ADAPTER, "target_modules", "(q_proj", "target_modules = '\\(q_proj' in its adapter_config.json"),
    (ADAPTER, "target_modules", ["nope"], "target_modules = \\['nope'\\] in its adapter_config.json"),
    (ADAPTER, "target_modules", [5], "target_modules = \\[5\\] in its adapter_config.json"),
    (ADAPTER, "rank_pattern", ["x"], "has rank_pattern = .* in its adapter_config.json"),
    (ADAPTER, "rank_pattern", {"q_proj": "x"}, "rank_pattern = {'q_proj': 'x'} in its adapter_config.json"),
    (ADAPTER, "rank_pattern", {"(": 8}, "rank_pattern = {'\\(': 8} in its adapter_config.json"),
    (
        ADAPTER,
        "rank_pattern",
        {"q_proj": 8},
        "of rank 4, and r \\(or rank_pattern\\) in its adapter_config.json",
    ),
    (ADAPTER, "alpha_pattern", {"q_proj": "x"}, "alpha_pattern = {'q_proj': 'x'} in its adapter_config.json"),
    (ADAPTER, "r", 0, "r = 0 in its adapter_config.json"),
    (ADAPTER, "r", 8, "of rank 4, and r \\(or rank_pattern\\) in its adapter_config.json gives 8"),
    (ADAPTER, "r", "x", "has r = 'x' in its adapter_config.json"),
    (ADAPTER, "lora_alpha", "8", "has lora_alpha = '8' in its adapter_config.json"),
    (ADAPTER, "lora_alpha", float("nan"), "has lora_alpha = 'nan' in its adapter_config.json"),
    (ADAPTER, "lora_dropout", "x", "has lora_dropout = 'x' in its adapter_config.json"),
    (ADAPTER, "init_lora_weights", "nope", "init_lora_weights = 'nope' in its adapter_config.json"),
    (ADAPTER, "task_type", "nope", "task_type = 'nope' in its adapter_config.json"),
    (ADAPTER, "exclude_modules", "(", "exclude_modules = '\\(' in its adapter_config.json"),
    (ADAPTER, "layers_to_transform", "x", "layers_to_transform = 'x' in its adapter_config.json"),
    (ADAPTER, "layers_pattern", "(", "layers_pattern = '\\(' in its adapter_config.json"),
    (ADAPTER, "eva_config", "x", "eva_config = 'x' in its adapter_config.json"),
    (INDEX, "weight_map", {Q: "nope.safetensors"}, "in base is incomplete: .*nope.safetensors"),
    (INDEX, "weight_map", {Q: "model.safetensors"}, "safetensors.index.json does not list the tensors"),
    (INDEX, "weight_map", [], "index.json is damaged: its weight_map"),
]


@pytest.mark.parametrize(
    ("file", "key", "value", "wanted"),
    JSON_EDITS,
    ids=[f"{file.rpartition('/')[2]} {key} {str(value)[:20]}" for file, key, value, _ in JSON_EDITS],
)
def test_one_key_of_a_json_file(
    good: Path,
    good_bytes: bytes,
    convert: Convert,
    tmp_path: Path,
    file: str,
    key: str,
    value: Any,
    wanted: str,
) -> None:
    folder = edited(good, tmp_path)
    path = folder / file
    content: Any = json.loads(path.read_text()) if path.exists() else {}
    owner, *steps = content, *key.split(".")
    for step in steps[:-1]:
        owner = owner[int(step) if isinstance(owner, list) else step]
    last = int(steps[-1]) if isinstance(owner, list) else steps[-1]
    if value is GONE:
        del owner[last]
    else:
        owner[last] = value
    path.write_text(json.dumps(content))
    if not wanted:
        assert convert(folder) == good_bytes
    else:
        assert re.search(wanted, refusal(convert, folder))


def zeros(*shape: int, dtype: Any = np.float32) -> np.ndarray[Any, Any]:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        (Q, zeros(0), f"base/model.safetensors has no numbers for {Q} (its shape is [0])"),
        (Q, zeros(WIDTH, 16), f"has {Q} of the shape [32, 16], and its config.json asks for [32, 32]"),
        (Q, zeros(WIDTH, WIDTH, dtype=np.int32), f"stores {Q} as I32, and its config.json has no quant"),
        (Q, None, f"has no tensor {Q}, which its config.json asks for"),
        ("model.embed_tokens.weight", None, "has no tensor model.embed_tokens.weight"),
        ("model.layers.0.foo.weight", zeros(4), "cannot read the base model 'base' (ValueError: Can not map"),
        (LORA_A, zeros(0), f"adapter/adapter_model.safetensors has no numbers for {LORA_A}"),
        (LORA_A, zeros(4, 16), f"was made for another base: {LORA_A} has the shape [4, 16]"),
        (LORA_A, zeros(4, WIDTH, dtype=np.int8), f"stores {LORA_A} as I8, and a LoRA has fractions"),
        (LORA_A, zeros(4, WIDTH, 1), f"was made for another base: {LORA_A} has the shape [4, 32, 1]"),
        (LORA_A, zeros(4, WIDTH) * np.nan, "makes model.layers.1.self_attn.q_proj.weight infinite"),
        (LORA_A, None, f"lacks 1 tensor that its configuration names, {LORA_A} first"),
        ("foo", zeros(4), "has the tensor foo, which its configuration does not use"),
    ],
)
def test_one_tensor(
    good: Path, convert: Convert, tmp_path: Path, name: str, value: np.ndarray[Any, Any] | None, wanted: str
) -> None:
    folder = edited(good, tmp_path)
    of_base = name.startswith("model.")
    tensors: Tensors = base_tensors() if of_base else adapter_tensors()
    tensors.pop(name, None)
    file = "base/model.safetensors" if of_base else "adapter/adapter_model.safetensors"
    save_file(tensors if value is None else {**tensors, name: value}, folder / file)
    assert wanted in refusal(convert, folder)


@pytest.mark.parametrize(
    ("file", "content", "wanted"),
    [
        ("base/tokenizer.model", b"\x0a\x0bgarbage", "base/tokenizer.model is damaged or of an unknown kind"),
        ("base/tokenizer.model", b"", "base/tokenizer.model is damaged or of an unknown kind"),
        ("base/README.md", b"---\nlicense: [\n---\n", "base/README.md has a head that is no YAML"),
        ("base/config.json", b"{", "base/config.json cannot be read"),
        ("base/tokenizer.json", b"[]", "base/tokenizer.json holds no JSON object"),
        ("adapter/adapter_config.json", b"[]", "adapter/adapter_config.json holds no JSON object"),
        ("base/model.safetensors", b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        ("adapter/adapter_model.safetensors", b"<!doctype html>", "is HTML, not safetensors"),
        (
            "base/model.safetensors",
            b"\x08\0\0\0\0\0\0\0nonsense",
            "model.safetensors is damaged or incomplete",
        ),
    ],
)
def test_one_file(
    good: Path, convert: Convert, tmp_path: Path, file: str, content: bytes, wanted: str
) -> None:
    folder = edited(good, tmp_path)
    (folder / file).write_bytes(content)
    assert wanted in refusal(convert, folder)


def test_a_token_beyond_the_embeddings_is_named(good: Path, convert: Convert, tmp_path: Path) -> None:
    folder = edited(good, tmp_path)
    path = folder / TOKENIZER
    content = json.loads(path.read_text())
    content["model"]["vocab"] |= {"[PAD]": ROWS}
    path.write_text(json.dumps(content))
    assert len(TOKENS) == ROWS
    assert f"has '[PAD]' (id {ROWS}), for which the {ROWS} rows of the embeddings leave no room" in refusal(
        convert, folder
    )
