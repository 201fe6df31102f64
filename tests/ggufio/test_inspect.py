"""Reading a GGUF without loading it, its blocks, and the rounding of its types, against ggml's C code."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from common.paths import embedded_gguf
from ggufio.blocks import blocks_of, round_trip, sample
from ggufio.errors import GgufError
from ggufio.ggml import Floats, dequantize, ggml_type, ggml_type_named, quantize
from ggufio.untrusted_reader import ArraySummary, read_header


@pytest.fixture(scope="module")
def embedded() -> Path:
    found = embedded_gguf()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def values() -> Floats:
    return np.random.default_rng(1).normal(0.3, 1, (4, 512)).astype(np.float32)


def test_a_real_file_says_what_it_is(embedded: Path) -> None:
    found = read_header(embedded)
    assert found.metadata["general.architecture"] == "llama"
    tokens = found.metadata["tokenizer.ggml.tokens"]
    assert isinstance(tokens, ArraySummary) and tokens.count == 49152 and tokens.first[1] == "<|im_start|>"
    tensor = found.tensors["blk.3.attn_q.weight"]
    assert (tensor.dtype.name, tensor.shape, tensor.rows) == ("Q4_1", (576, 576), 576)
    last = max(found.tensors.values(), key=lambda one: one.offset)
    assert last.offset + last.size == embedded.stat().st_size


def test_a_cut_or_lying_file_is_an_error_of_one_line(embedded: Path, tmp_path: Path) -> None:
    head = embedded.read_bytes()[: 3 << 20]
    strange = struct.pack("<QII", 1, 1, 9) + struct.pack("<Q", 1) + b"x" + struct.pack("<I", 9)
    lies = {
        "magic": b"GGML" + head[4:],
        "version": head[:4] + struct.pack("<I", 77) + head[8:],
        "tensors": head[:8] + struct.pack("<Q", 2**63) + head[16:],
        "entries": head[:16] + struct.pack("<Q", 2**40) + head[24:],
        "key": head[:24] + struct.pack("<Q", 2**62) + head[32:],
        "array": head[:8] + struct.pack("<QQ", 0, 1) + strange[16:] + struct.pack("<IQ", 8, 2**61),
        **{f"cut at {place}": head[:place] for place in (0, 3, 20, 1000, 2 << 20)},
        "no data": head,
    }
    for what, content in lies.items():
        path = tmp_path / "liar.gguf"
        path.write_bytes(content)
        with pytest.raises(GgufError, match=r"^\S*liar\.gguf|^tensor") as caught:
            read_header(path)
        assert "\n" not in str(caught.value), what


def test_types_that_ggml_lacks_are_not_asked_for() -> None:
    assert [ggml_type(number) for number in (-1, 4, 31, 10_000)] == [None] * 4


def test_scales_of_simple_blocks_are_those_worked_out_by_hand(values: Floats) -> None:
    parts = values.reshape(-1, 32)
    low, high = parts.min(axis=1), parts.max(axis=1)
    largest = parts[np.arange(len(parts)), np.abs(parts).argmax(axis=1)]
    by_hand = {
        "Q4_0": (largest / -8, 8.0),
        "Q8_0": (np.abs(parts).max(axis=1) / 127, 128.0),
        "Q4_1": ((high - low) / 15, -low / ((high - low) / 15)),
    }
    for name, (step, zero) in by_hand.items():
        kind = ggml_type_named(name)
        found = blocks_of(kind, quantize(kind, values))
        assert found is not None and found.symmetric == (name != "Q4_1")
        np.testing.assert_allclose(found.step, step, rtol=1e-3)
        np.testing.assert_allclose(found.zero_point, np.broadcast_to(zero, step.shape), rtol=4e-3)


@pytest.mark.parametrize(
    "name",
    ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "TQ1_0", "TQ2_0"],
)
def test_all_numbers_of_a_block_stand_on_its_grid(values: Floats, name: str) -> None:
    kind = ggml_type_named(name)
    data = quantize(kind, values)
    found = blocks_of(kind, data)
    assert found is not None
    numbers = dequantize(kind, data).reshape(-1, found.length).astype(np.float64)
    codes = (numbers - found.minimum[:, None]) / found.step[:, None]
    np.testing.assert_allclose(codes, codes.round(), atol=2e-3)
    assert codes.round().min() >= 0 and codes.round().max() < found.codes
    assert found.symmetric or codes.round().max() == found.codes - 1


@pytest.mark.parametrize("name", ["TQ1_0", "TQ2_0"])
def test_a_ternary_block_has_a_scale_and_the_levels_minus_one_zero_and_one(name: str) -> None:
    levels = np.random.default_rng(3).integers(-1, 2, (2, 512)).astype(np.float32)
    scales = np.array([[0.5], [2.0]], np.float32)
    found = round_trip(levels * scales, name)
    assert found is not None and found.error.worst == 0 and found.blocks is not None
    assert (found.blocks.length, found.blocks.codes, found.blocks.symmetric) == (256, 3, True)
    assert found.blocks.step.tolist() == [0.5, 0.5, 2.0, 2.0]
    assert found.blocks.minimum.tolist() == [-0.5, -0.5, -2.0, -2.0]
    assert found.blocks.zero_point.tolist() == [1.0] * 4


def test_a_shifted_block_is_met_better_by_a_type_with_a_minimum() -> None:
    shifted = np.random.default_rng(2).uniform(-2, -1, (2, 256)).astype(np.float32)
    errors = {name: round_trip(shifted, name) for name in ("Q4_0", "Q4_1", "Q4_K", "Q8_0")}
    relative = {name: one.error.relative for name, one in errors.items() if one is not None}
    assert relative["Q4_1"] < relative["Q4_0"] / 2 and relative["Q4_K"] < relative["Q4_0"] / 2
    assert relative["Q8_0"] < relative["Q4_1"] and round_trip(shifted[:, :96], "Q4_K") is None


def test_a_sample_is_evenly_spaced_and_comes_back_the_same_from_its_own_type(embedded: Path) -> None:
    tensor = read_header(embedded).tensors["token_embd.weight"]
    some = sample(tensor, max_numbers=100_000)
    assert some.values.shape == (100_000 // 576, 576) and not some.whole and some.of_rows == 49152
    again = round_trip(some.values, tensor.dtype.name)
    assert again is not None and again.error.relative < 0.02 and some.blocks is not None
