"""Quantize to IQ4_NL and IQ4_XS, several times faster than llama.cpp and to the same bytes.

The arithmetic is that of quantize_row_iq4_nl_impl in ggml-quants.c. As in k_quant_search.py, 64 blocks lie
side by side, so that a step of all takes a few vector instructions, and a sum's order is llama.cpp's.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufio.ggml import Floats
from pipeline.quantize.k_quant_search import LANES, TINY, find_peaks, kernel
from pipeline.quantize.packing import Bytes, pack_iq4_nl, pack_iq4_xs

CODEBOOK = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""The levels by their codes: kvalues_iq4nl in ggml-common.h."""

BLOCK, BLOCKS = 32, 8
"""Numbers in a block, and blocks in a super-block of IQ4_XS."""

_LEVELS = np.array(CODEBOOK, np.float32)
_CODEBOOK = np.stack(((_LEVELS[1:] + _LEVELS[:-1]) * np.float32(0.5), _LEVELS[1:] - _LEVELS[:-1]))
"""[2, 15]: from where on the next level is the nearest, and how far it is from the one before."""

_TRIES = 7
_ZERO, _ONE = np.float32(0), np.float32(1)


def iq4_nl(x: Floats, weights: Floats) -> Bytes:
    """Quantize blocks x [blocks, 32] to [blocks, 18].

    weights: [blocks, 32], those of the numbers' errors; with no blocks, they are the numbers squared.
    """
    scales = _search(x, weights)
    return pack_iq4_nl(scales, _codes(x, _inverse(scales)))


def iq4_xs(x: Floats, weights: Floats) -> Bytes:
    """Quantize blocks x [blocks, 32], eight to a super-block, to [super-blocks, 136]; as `iq4_nl`."""
    scales = _search(x, weights).reshape(-1, BLOCKS)
    largest = np.take_along_axis(scales, np.abs(scales).argmax(axis=1)[:, None], axis=1)
    d = -largest / np.float32(32)
    steps = np.clip(np.rint(_inverse(d) * scales), -32, 31).astype(np.float32)
    return pack_iq4_xs(d.ravel(), steps.astype(np.int64) + 32, _codes(x, _inverse(d * steps).ravel()))


def _inverse(values: Floats) -> Floats:
    with np.errstate(divide="ignore"):
        inverse: Floats = np.where(values != 0, _ONE / values, _ZERO)
    return inverse


def _search(x: Floats, weights: Floats) -> Floats:
    scales = np.empty(len(x), np.float32)
    _search_codebook(x, weights, _CODEBOOK, scales)
    return scales


def _codes(x: Floats, inverse: Floats) -> Bytes:
    codes = np.empty(x.shape, np.uint8)
    _nearest(x, inverse, _CODEBOOK[0], codes)
    return codes


@kernel
def _sum_up(tile: Floats, weight: Floats, factor: Floats, codebook: Floats, sums: Floats) -> None:
    """Compute the weighted sums of number times level and of level squared, [2, lanes], for each factor."""
    between, gaps, level = codebook[0], codebook[1], np.empty(LANES, np.float32)
    sums[:] = _ZERO
    for i in range(tile.shape[0]):
        level[:] = np.float32(CODEBOOK[0])
        for k in range(len(between)):
            middle, gap = between[k], gaps[k]
            for j in range(LANES):
                level[j] += gap if factor[j] * tile[i, j] >= middle else _ZERO
        for j in range(LANES):
            wl = weight[i, j] * level[j]
            sums[0, j] += wl * tile[i, j]
            sums[1, j] += wl * level[j]


@kernel
def _search_codebook(x: Floats, weights: Floats, codebook: Floats, out: Floats) -> None:
    """Find x = scale * level with the least weighted error in each block; out: [blocks], the scales."""
    n, lowest = x.shape[1], np.float32(CODEBOOK[0])
    tile, weight = np.zeros((n, LANES), np.float32), np.zeros((n, LANES), np.float32)
    peak, largest = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    factor, sums = np.zeros(LANES, np.float32), np.zeros((2, LANES), np.float32)
    scale, best = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    for first in range(0, x.shape[0], LANES):
        count = min(LANES, x.shape[0] - first)
        for lane in range(count):
            for i in range(n):
                v = x[first + lane, i]
                tile[i, lane] = v
                weight[i, lane] = weights[first + lane, i] if weights.shape[0] else v * v
        find_peaks(tile, peak, largest)
        for trial in range(-_TRIES - 1, _TRIES + 1):
            start = trial == -_TRIES - 1
            for j in range(LANES):
                factor[j] = _ONE / (-peak[j] / lowest) if start else (np.float32(trial) + lowest) / peak[j]
            _sum_up(tile, weight, factor, codebook, sums)
            for j in range(LANES):
                xl, l2 = sums[0, j], sums[1, j]
                better = start | ((l2 > _ZERO) & (xl * xl > best[j] * l2))
                fit = xl / l2 if l2 > _ZERO else _ZERO
                scale[j] = fit if better else scale[j]
                best[j] = fit * xl if better else best[j]
        for lane in range(count):
            out[first + lane] = _ZERO if largest[lane] < TINY else scale[lane]


@kernel
def _nearest(x: Floats, inverse: Floats, between: Floats, out: Any) -> None:
    """Compute the codes of the levels nearest to [blocks, numbers], times each block's factor."""
    for block in range(x.shape[0]):
        for i in range(x.shape[1]):
            value, code = inverse[block] * x[block, i], 0
            for k in range(len(between)):
                code += 1 if value >= between[k] else 0
            out[block, i] = code
