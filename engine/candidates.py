"""The tokens that may come next, as llama.cpp's samplers take them: in numpy's memory."""

from __future__ import annotations

import numpy as np
from llama_cpp import llama_cpp as low
from numpy.typing import NDArray

_CANDIDATE = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])  # llama_token_data


def whole_vocabulary(logits: NDArray[np.float32]) -> NDArray[np.void]:
    """Every token with its logit; `logits` are [vocabulary]."""
    data = np.zeros(len(logits), _CANDIDATE)
    data["id"], data["logit"] = np.arange(len(logits)), logits
    return data


def one_token(token: int) -> NDArray[np.void]:
    """A token alone, with a logit that is finite."""
    return np.array([(token, 1.0, 0.0)], _CANDIDATE)


def as_array(data: NDArray[np.void]) -> low.llama_token_data_array:
    """llama.cpp's view of candidates, which must outlive it."""
    return low.llama_token_data_array(
        data=data.ctypes.data_as(low.llama_token_data_p), size=len(data), selected=-1, sorted=False
    )
