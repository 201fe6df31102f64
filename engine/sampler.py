"""SamplingSettings -> llama.cpp's sampler chain, which draws in C."""

from __future__ import annotations

import math
import secrets

from llama_cpp import llama_cpp as low

from engine.grammar import new_grammar
from engine.settings import SamplingSettings
from engine.vocab import Vocabulary

_PENALTY_WINDOW = 64  # tokens of the answer that the repeat penalty looks back on, as in llama.cpp
_RANDOM_SEED = 0xFFFFFFFF  # llama.h: LLAMA_DEFAULT_SEED asks for a random one


def is_plain(sampling: SamplingSettings) -> bool:
    """Whether the next token is simply the likeliest, for which no list of candidates need be made."""
    constrained = sampling.grammar or sampling.ignore_end
    return sampling.temperature == 0 and sampling.repeat_penalty == 1.0 and not constrained


def sampler_chain(sampling: SamplingSettings, vocab: Vocabulary) -> int:
    """llama.cpp's usual order: grammar, penalties, top-k, top-p, min-p, temperature, draw.

    The penalty sees the answer alone: the prompt's last tokens are the template's and the user's own words.
    """
    params = low.llama_sampler_chain_default_params()
    params.no_perf = True
    chain: int = low.llama_sampler_chain_init(params)
    add = low.llama_sampler_chain_add
    if sampling.ignore_end:
        biases = (low.llama_logit_bias * len(vocab.ends))(*((token, -math.inf) for token in vocab.ends))
        add(chain, low.llama_sampler_init_logit_bias(vocab.size, len(vocab.ends), biases))
    if sampling.grammar:
        add(chain, new_grammar(sampling.grammar, vocab))
    if sampling.repeat_penalty != 1.0:
        _add_penalty(chain, sampling, vocab.size)
    if sampling.temperature == 0:
        add(chain, low.llama_sampler_init_greedy())
        return chain
    if sampling.top_k:
        add(chain, low.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        add(chain, low.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        add(chain, low.llama_sampler_init_min_p(sampling.min_p, 1))
    add(chain, low.llama_sampler_init_temp(sampling.temperature))
    seed = secrets.randbelow(_RANDOM_SEED) if sampling.seed is None else sampling.seed
    add(chain, low.llama_sampler_init_dist(min(seed, _RANDOM_SEED - 1)))
    return chain


def _add_penalty(chain: int, sampling: SamplingSettings, vocabulary: int) -> None:
    """Add the repeat penalty, after a cut to the tokens that can still be among the best after it.

    llama.cpp looks up each candidate in a hash map, which for a whole vocabulary takes about a millisecond.
    A penalty above 1 only lowers, and lowers at most a window's worth of tokens: who is among the best k
    afterwards was among the best k + window before. So the cut changes nothing.
    """
    best = 1 if sampling.temperature == 0 else sampling.top_k
    if best and sampling.repeat_penalty > 1:
        low.llama_sampler_chain_add(chain, low.llama_sampler_init_top_k(best + _PENALTY_WINDOW))
    penalty = low.llama_sampler_init_penalties(vocabulary, _PENALTY_WINDOW, sampling.repeat_penalty, 0.0, 0.0)
    low.llama_sampler_chain_add(chain, penalty)
