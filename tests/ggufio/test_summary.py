"""What a file is, whatever its name says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from ggufio.summary import summarize

Q4_K, Q8_0, F16 = GGMLQuantizationType.Q4_K, GGMLQuantizationType.Q8_0, GGMLQuantizationType.F16


def write(
    path: Path, architecture: str = "llama", weights: GGMLQuantizationType | None = F16, **metadata: Any
) -> Path:
    """Write a GGUF with one matrix of that type; metadata names have "__" for a dot."""
    writer = GGUFWriter(path, architecture)
    for name, value in metadata.items():
        add = {bool: writer.add_bool, int: writer.add_uint32, str: writer.add_string}[type(value)]
        add(name.replace("__", "."), value)
    if weights == F16:
        writer.add_tensor("token_embd.weight", np.zeros((4, 256), np.float16))
    elif weights is not None:
        size = {Q4_K: 144, Q8_0: 272}[weights]
        writer.add_tensor("token_embd.weight", np.zeros((4, size), np.uint8), raw_dtype=weights)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize(
    ("weights", "file_type", "wanted"),
    [
        (Q4_K, 15, "Q4_K_M"),
        (Q4_K, 38, "MXFP4_MOE"),
        (Q4_K, None, "Q4_K"),
        (Q4_K, 1, "Q4_K"),
        (F16, 15, "F16"),
        (F16, 1, "F16"),
        (F16, None, "F16"),
        (Q8_0, 7 + 1024, "Q8_0"),
        (Q8_0, 999, "Q8_0"),
        (None, 30, "IQ4_XS"),
        (None, None, None),
    ],
)
def test_the_type_is_that_of_the_weights(
    tmp_path: Path, weights: GGMLQuantizationType | None, file_type: int | None, wanted: str | None
) -> None:
    more = {} if file_type is None else {"general__file_type": file_type}
    found = summarize(write(tmp_path / "m-F32.gguf", weights=weights, **more))
    assert found is not None
    assert found.weights_type == wanted


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [
        ({}, None),
        ({"general__type": "model"}, None),
        ({"general__type": "adapter"}, "a LoRA adapter"),
        ({"general__type": "mmproj"}, "the image or audio encoder of another model (mmproj)"),
        ({"architecture": "clip"}, "the image or audio encoder of another model (mmproj)"),
        ({"general__type": "imatrix"}, "an importance matrix"),
        ({"architecture": "controlvector"}, "a control vector"),
        ({"weights": None}, "a vocabulary without weights"),
        ({"weights": None, "split__count": 3}, None),
    ],
)
def test_what_is_no_model(tmp_path: Path, metadata: dict[str, Any], wanted: str | None) -> None:
    found = summarize(write(tmp_path / "model-Q4_K_M.gguf", **metadata))
    assert found is not None
    assert found.no_model == wanted


@pytest.mark.parametrize(
    ("architecture", "metadata", "wanted"),
    [
        ("llama", {}, None),
        ("qwen3", {"qwen3__pooling_type": 0}, None),
        ("qwen3", {"qwen3__pooling_type": 3}, "an embedding model (qwen3, pooling_type 3)"),
        ("bert", {}, "an embedding (encoder) model (bert)"),
        ("nomic-bert", {}, "an embedding (encoder) model (nomic-bert)"),
        ("llama", {"llama__attention__causal": False}, "an embedding (encoder) model (llama)"),
        ("llama", {"llama__attention__causal": True}, None),
        ("t5", {}, "an encoder-decoder (t5)"),
        ("t5encoder", {}, "an embedding (encoder) model (t5encoder)"),
    ],
)
def test_what_writes_no_text(
    tmp_path: Path, architecture: str, metadata: dict[str, Any], wanted: str | None
) -> None:
    found = summarize(write(tmp_path / "m.gguf", architecture, **metadata))
    assert found is not None
    assert found.no_chat == wanted


def test_an_unreadable_file_has_no_summary(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    assert summarize(tmp_path / "m.gguf") is None
    assert summarize(tmp_path / "none.gguf") is None
