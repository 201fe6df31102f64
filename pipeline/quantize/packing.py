"""The bytes of ggml's blocks, from their scales and codes; the layout is that of ggml-common.h."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggufio.ggml import Floats
from pipeline.quantize.grid_search import Codes, Found
from pipeline.quantize.grid_search_k import SuperFound

Bytes = NDArray[np.uint8]
Places = NDArray[np.int64]


def _six_bit_codes(levels: Bytes) -> tuple[Bytes, Bytes]:
    """Pack 6-bit codes, 256 a super-block: the low 4 bits to [n, 128], the high 2 to [n, 64]."""
    # [blocks, half of 128, quarter of 32, number]: two quarters share the bytes of their low bits.
    quarter = levels.reshape(-1, 2, 4, 32)
    low = (quarter[:, :, :2] & np.uint8(15)) | (quarter[:, :, 2:] << 4)
    high = np.bitwise_or.reduce((quarter >> 4) << np.arange(0, 8, 2, dtype=np.uint8)[:, None], axis=2)
    return low.reshape(-1, 128), high.reshape(-1, 64)


def _six_bits(scales: Bytes, minimums: Bytes) -> Bytes:
    """Pack 8 scales and 8 minimums of 6 bits into 12 bytes, as ggml: the last four's high bits go first."""
    first = scales[:, :4] | (scales[:, 4:] >> 4 << 6)
    second = minimums[:, :4] | (minimums[:, 4:] >> 4 << 6)
    third = (scales[:, 4:] & 15) | (minimums[:, 4:] << 4)
    return np.concatenate((first, second, third), axis=1)


def _low_bits(levels: Bytes) -> Bytes:
    """Pack the low 4 bits of [n, 8, 32] into [n, 128]: every two blocks of 32 share their bytes."""
    pairs = levels.reshape(-1, 4, 2, 32)
    packed: Bytes = (pairs[:, :, 0] & np.uint8(15)) | (pairs[:, :, 1] << 4)
    return packed.reshape(-1, 128)


def _fifth_bits_of_super(levels: Bytes) -> Bytes:
    """Pack the fifth bits of [n, 8, 32] into [n, 32]: one byte for each place in the blocks."""
    packed: Bytes = np.bitwise_or.reduce((levels >> 4) << np.arange(8, dtype=np.uint8)[:, None], axis=1)
    return packed


def _f16(values: Floats) -> Bytes:
    return values.astype(np.float16).view(np.uint8).reshape(-1, 2)


def _nibbles(codes: Codes) -> Bytes:
    """Pack the low four bits: the first half of a block's codes beside the second."""
    packed: Bytes = (codes[:, :16] & np.uint8(15)) | codes[:, 16:] << 4
    return packed


def _fifth_bits(codes: Codes) -> Bytes:
    return np.packbits(codes >> 4, axis=1, bitorder="little")


def pack_4_0(found: Found) -> Bytes:
    """Return blocks of 4_0 (or of IQ4_NL): [n, 18]."""
    return np.concatenate((_f16(found.scale), _nibbles(found.codes)), axis=1)


def pack_4_1(found: Found) -> Bytes:
    """Return blocks of 4_1: [n, 20]."""
    return np.concatenate((_f16(found.scale), _f16(found.minimum), _nibbles(found.codes)), axis=1)


def pack_5_0(found: Found) -> Bytes:
    """Return blocks of 5_0: [n, 22]."""
    head = (_f16(found.scale), _fifth_bits(found.codes))
    return np.concatenate((*head, _nibbles(found.codes)), axis=1)


def pack_5_1(found: Found) -> Bytes:
    """Return blocks of 5_1: [n, 24]."""
    head = (_f16(found.scale), _f16(found.minimum), _fifth_bits(found.codes))
    return np.concatenate((*head, _nibbles(found.codes)), axis=1)


def pack_8_0(found: Found) -> Bytes:
    """Return blocks of 8_0: [n, 34]."""
    return np.concatenate((_f16(found.scale), found.codes - np.uint8(128)), axis=1)


def pack_4_k(found: SuperFound) -> Bytes:
    """Return blocks of 4_K: [n, 144]."""
    return np.concatenate((*_head_k(found), _low_bits(found.codes)), axis=1)


def pack_5_k(found: SuperFound) -> Bytes:
    """Return blocks of 5_K: [n, 176]."""
    return np.concatenate(
        (*_head_k(found), _fifth_bits_of_super(found.codes), _low_bits(found.codes)), axis=1
    )


def _head_k(found: SuperFound) -> tuple[Bytes, Bytes, Bytes]:
    scales, minimums = (one.astype(np.uint8) for one in (found.scales, found.minimums))
    return _f16(found.d), _f16(found.d_min), _six_bits(scales, minimums)


def pack_6_k(found: SuperFound) -> Bytes:
    """Return blocks of 6_K: [n, 210]."""
    low, high = _six_bit_codes(found.codes)
    return np.concatenate((low, high, found.scales.astype(np.int8).view(np.uint8), _f16(found.d)), axis=1)


def pack_2_k(found: SuperFound) -> Bytes:
    """Return blocks of 2_K: [n, 84]."""
    scales = (found.scales | found.minimums << 4).astype(np.uint8)
    return np.concatenate((scales, _two_bits(found.codes), _f16(found.d), _f16(found.d_min)), axis=1)


def pack_3_k(found: SuperFound) -> Bytes:
    """Return blocks of 3_K: [n, 110]."""
    places = np.arange(8, dtype=np.uint8)[:, None]
    third = np.bitwise_or.reduce((found.codes.reshape(-1, 8, 32) >> 2) << places, axis=1)
    scales = (found.scales + 32).astype(np.uint8)
    low = scales[:, :8] & np.uint8(15) | scales[:, 8:] << 4
    quarters = (scales >> 4).reshape(-1, 4, 4) << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = np.bitwise_or.reduce(quarters, axis=1)
    return np.concatenate((third, _two_bits(found.codes & np.uint8(3)), low, high, _f16(found.d)), axis=1)


def _two_bits(codes: Codes) -> Bytes:
    """Pack codes of 2 bits: four quarters of each half share their bytes."""
    quarters = codes.reshape(-1, 2, 4, 32) << np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    packed: Bytes = np.bitwise_or.reduce(quarters, axis=2)
    return packed.reshape(-1, 64)


def pack_iq4_nl(scales: Floats, codes: Codes) -> Bytes:
    """Return blocks of IQ4_NL: [n, 18]."""
    return np.concatenate((_f16(scales), _nibbles(codes)), axis=1)


def pack_iq4_xs(d: Floats, scales: Places, codes: Codes) -> Bytes:
    """Return super-blocks of IQ4_XS: [n, 136]. scales: [n, 8], 0 to 63; codes: [8 n, 32]."""
    high = np.bitwise_or.reduce((scales >> 4) << np.arange(0, 16, 2), axis=1).astype("<u2")
    low = (scales[:, 0::2] & 15 | (scales[:, 1::2] & 15) << 4).astype(np.uint8)
    packed = _nibbles(codes).reshape(len(d), -1)
    return np.concatenate((_f16(d), high.view(np.uint8).reshape(-1, 2), low, packed), axis=1)
