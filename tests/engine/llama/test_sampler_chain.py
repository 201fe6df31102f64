"""Which tokens the chain of samplers can draw, from four of known probabilities."""

from __future__ import annotations

import ctypes
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from llama_cpp import llama_cpp as llama

from engine.config import SamplingParams
from engine.errors import SettingsError
from engine.llama.grammar import as_array, whole_vocabulary
from engine.llama.sampler import sampler_chain

SHARES = (0.5, 0.3, 0.15, 0.05)
OFF: dict[str, Any] = {"temperature": 1.0, "repeat_penalty": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}


def drawn(**changed: Any) -> set[int]:
    """Return the tokens that 200 seeds draw."""
    vocab: Any = SimpleNamespace(size=len(SHARES), eog_tokens=[])
    found = set()
    for seed in range(200):
        chain = sampler_chain(SamplingParams(**{**OFF, **changed, "seed": seed}), vocab)
        candidates = as_array(whole_vocabulary(np.log(np.array(SHARES, dtype=np.float32))))
        llama.llama_sampler_apply(chain, ctypes.byref(candidates))
        found.add(int(candidates.data[candidates.selected].id))
        llama.llama_sampler_free(chain)
    return found


def typical(share: float) -> set[int]:
    """Return the tokens that locally typical sampling keeps, by its definition (arXiv 2202.00666)."""
    entropy = -sum(p * math.log(p) for p in SHARES)
    order = sorted(range(len(SHARES)), key=lambda token: abs(-math.log(SHARES[token]) - entropy))
    kept, total = set(), 0.0
    for token in order:
        kept.add(token)
        total += SHARES[token]
        if total > share:
            break
    return kept


@pytest.mark.parametrize(
    ("changed", "tokens"),
    [
        ({}, {0, 1, 2, 3}),
        ({"typical_p": 0.2}, typical(0.2)),
        ({"typical_p": 0.7}, typical(0.7)),
        ({"xtc_probability": 1.0}, {2, 3}),  # 0 and 1 are above 0.1, and so is 2, the least likely of them
        ({"xtc_probability": 1.0, "xtc_threshold": 0.2}, {1, 2, 3}),
        ({"xtc_probability": 1.0, "xtc_threshold": 0.6}, {0, 1, 2, 3}),
        ({"xtc_probability": 0.5}, {0, 1, 2, 3}),  # half of the time
        ({"xtc_probability": 1.0, "temperature": 0.0}, {0}),
        ({"typical_p": 0.2, "temperature": 0.0}, {0}),
        ({"xtc_probability": 1.0, "min_p": 0.5}, {1}),
    ],
)
def test_the_chain_draws_what_its_samplers_leave(changed: dict[str, Any], tokens: set[int]) -> None:
    assert drawn(**changed) == tokens


@pytest.mark.parametrize(
    ("name", "value"),
    [("typical_p", 0.0), ("typical_p", 1.1), ("xtc_probability", -0.1), ("xtc_threshold", math.nan)],
)
def test_what_is_out_of_range_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(SettingsError, match=name):
        SamplingParams(**{name: value})
