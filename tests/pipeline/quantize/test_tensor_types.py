"""Types of single tensors: the matches of a pattern, and rejected patterns."""

from __future__ import annotations

import re

import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from ggufio.ggml import block_size, type_name, type_number
from pipeline.errors import InputError
from pipeline.quantize.types import GGML_TYPES, parse_tensor_types, regex

WIDTHS = {
    "token_embd.weight": 576,
    "blk.0.attn_v.weight": 256,
    "blk.10.attn_v.weight": 256,
    "blk.1.attn_v_norm.weight": 256,
    "blk.1.ffn_gate_inp.weight": 256,
}


def test_the_types_are_ggmls() -> None:
    for name in GGML_TYPES:
        known = GGMLQuantizationType[name]
        assert (type_number(name), block_size(name)) == (int(known), GGML_QUANT_SIZES[known][0])
        assert type_name(int(known)) == name


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("blk.*.attn_v", {"blk.0.attn_v.weight", "blk.10.attn_v.weight"}),
        ("blk.?.attn_v.weight", {"blk.0.attn_v.weight"}),
        ("blk.[!0]*.attn_v", {"blk.10.attn_v.weight"}),
        ("blk.[0-9].attn_v", {"blk.0.attn_v.weight"}),
        ("attn_v", set()),
        ("*attn_v", {"blk.0.attn_v.weight", "blk.10.attn_v.weight"}),
        ("blk?0?attn_v", {"blk.0.attn_v.weight"}),
        ("blk.0_attn_v", set()),  # a dot is a dot
    ],
)
def test_a_pattern_is_a_shells(pattern: str, names: set[str]) -> None:
    assert {name for name in WIDTHS if re.search(regex(pattern), name)} == names


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((["attn_v=q6_k"], None, None, False), r"'attn_v=Q6_K' matches no tensor .* blk\.0\.attn_v\.weight"),
        ((["*_norm=q6_k"], None, None, False), "matches no tensor that is quantized"),
        ((["*.ffn_gate_inp=q6_k"], None, None, False), "matches no tensor that is quantized"),
        (([], None, "q6_k", False), "Q6_K cannot hold token_embd.weight: its rows of 576 .* multiple of 256"),
        (([], "q8_0", None, True), "output is its embeddings, use --embedding-type alone"),
    ],
)
def test_what_a_model_cannot_follow_is_refused(
    options: tuple[list[str], str | None, str | None, bool], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        parse_tensor_types(*options).check(WIDTHS)


def test_what_it_can_is_not() -> None:
    parse_tensor_types(["blk.*=q6_k", "token_embd=q4_k"], "q8_0", None, False).check(WIDTHS)
    parse_tensor_types([], None, "q5_0", True).check(WIDTHS)
