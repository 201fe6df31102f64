"""Sampler: SamplingParams -> llama.cpp's sampler chain, and a grammar or schema that checks its tokens."""

from __future__ import annotations

import ctypes
import math
import secrets

import numpy as np
from llama_cpp import llama_cpp as llama
from numpy.typing import NDArray

from engine.config import SamplingParams
from engine.errors import TooSlow
from engine.llama.constraint import Constraint, new_constraint
from engine.llama.grammar import as_array, whole_vocabulary
from engine.llama.tokenizer import LlamaTokenizer

_PENALTY_WINDOW = 64  # last tokens of the answer that are penalized, as in llama.cpp
_RANDOM_SEED = 0xFFFFFFFF  # llama.h: LLAMA_DEFAULT_SEED asks for a random one


def is_plain(sampling: SamplingParams) -> bool:
    """Return whether sampling is a plain argmax, which needs no list of candidates."""
    constrained = (
        sampling.grammar or sampling.json_schema is not None or sampling.tool_grammar or sampling.ignore_end
    )
    return sampling.temperature == 0 and not sampling.penalizes and not constrained


class Sampler:
    """Draws the tokens of one answer. Belongs to the model's thread; `close` frees it.

    The constraint comes last, as in llama.cpp's common_sampler_sample: a token is drawn without it, and
    redrawn from the allowed ones only if it is rejected. Checking one token takes microseconds and masking
    the vocabulary longer, and most tokens are allowed: a model that was asked for JSON writes JSON.
    """

    def __init__(self, sampling: SamplingParams, vocab: LlamaTokenizer) -> None:
        self._vocab, self._chain = vocab, sampler_chain(sampling, vocab)
        self._constraint = new_constraint(sampling, vocab)
        self._ignores_end = sampling.ignore_end

    def sample(self, context: int, row: int, logits: NDArray[np.float32]) -> int:
        """Sample from one row of the last batch, whose logits are [vocabulary]. Raises TooSlow."""
        if self._constraint is None:
            return int(llama.llama_sampler_sample(self._chain, context, row))
        return self.sample_from(logits)

    def sample_from(self, logits: NDArray[np.float32]) -> int:
        """Sample from logits [vocabulary]. Raises TooSlow."""
        token = self._draw(logits)
        if self._constraint is not None and not self._constraint.accept(token):
            token = self._draw(logits, self._constraint)
            if not self._constraint.accept(token):
                if self._ignores_end:  # and nothing but an end is allowed
                    return self._vocab.eog_tokens[0]
                raise TooSlow  # the vocabulary cannot spell what must follow
        llama.llama_sampler_accept(self._chain, token)
        return token

    def _draw(self, logits: NDArray[np.float32], constraint: Constraint | None = None) -> int:
        """Draw a token by the chain, from all or from those that the constraint allows."""
        data = whole_vocabulary(logits)
        if constraint is not None:
            constraint.apply_mask(data)
        candidates = as_array(data)
        llama.llama_sampler_apply(self._chain, ctypes.byref(candidates))
        return int(candidates.data[candidates.selected].id)

    def close(self) -> None:
        """Free chain and constraint."""
        llama.llama_sampler_free(self._chain)
        if self._constraint is not None:
            self._constraint.close()


def sampler_chain(sampling: SamplingParams, vocab: LlamaTokenizer) -> int:
    """Return a chain in llama.cpp's order: penalties, top-k, typical-p, top-p, min-p, XTC, temperature, draw.

    Penalties consider only the answer: the prompt's last tokens are the template's and the user's.
    """
    params = llama.llama_sampler_chain_default_params()
    params.no_perf = True
    chain: int = llama.llama_sampler_chain_init(params)
    add = llama.llama_sampler_chain_add
    if sampling.ignore_end:
        biases = (llama.llama_logit_bias * len(vocab.eog_tokens))(
            *((token, -math.inf) for token in vocab.eog_tokens)
        )
        add(chain, llama.llama_sampler_init_logit_bias(vocab.size, len(vocab.eog_tokens), biases))
    if sampling.penalizes:
        _add_penalty(chain, sampling, vocab.size)
    if sampling.temperature == 0:
        add(chain, llama.llama_sampler_init_greedy())
        return chain
    if sampling.top_k:
        add(chain, llama.llama_sampler_init_top_k(sampling.top_k))
    if sampling.typical_p < 1:
        add(chain, llama.llama_sampler_init_typical(sampling.typical_p, 1))
    if sampling.top_p < 1:
        add(chain, llama.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        add(chain, llama.llama_sampler_init_min_p(sampling.min_p, 1))
    seed = secrets.randbelow(_RANDOM_SEED) if sampling.seed is None else min(sampling.seed, _RANDOM_SEED - 1)
    if sampling.xtc_probability > 0:
        probability, threshold = sampling.xtc_probability, sampling.xtc_threshold
        add(chain, llama.llama_sampler_init_xtc(probability, threshold, 1, seed))
    add(chain, llama.llama_sampler_init_temp(sampling.temperature))
    add(chain, llama.llama_sampler_init_dist(seed))
    return chain


def _add_penalty(chain: int, sampling: SamplingParams, vocabulary: int) -> None:
    """Add the penalties, after a top-k that cannot change the result but saves time.

    llama.cpp looks up each candidate in a hash map, which for a whole vocabulary takes about a millisecond.
    Penalties lower the logits of at most a window of tokens, so the best k afterwards are among the best
    k + window before. Below their neutral values they raise logits; then no token is cut.
    """
    frequency, presence = sampling.frequency_penalty, sampling.presence_penalty
    best = 1 if sampling.temperature == 0 else sampling.top_k
    if best and sampling.repeat_penalty >= 1 and min(frequency, presence) >= 0:
        llama.llama_sampler_chain_add(chain, llama.llama_sampler_init_top_k(best + _PENALTY_WINDOW))
    penalty = llama.llama_sampler_init_penalties(
        vocabulary, _PENALTY_WINDOW, sampling.repeat_penalty, frequency, presence
    )
    llama.llama_sampler_chain_add(chain, penalty)
