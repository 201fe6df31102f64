"""Importance matrix: which columns of each weight matter for the user's own chats, and so deserve the bits.

llama.cpp's quantizers weigh the error of each column by the mean square of what goes into it. Those means
come from the chats of `--calibrate`, read through the full-precision model, or from a file of an earlier run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.worker_process import run_worker
from pipeline.data.dataset import Chat, render
from pipeline.errors import InputError
from pipeline.progress import StepProgress
from pipeline.sources.model_source import Source, read_json

CHUNK = 512
"""Tokens that are read together, as llama-imatrix does by default."""


_PLENTY = 16 * CHUNK
"""In characters: so many are a chunk for any tokenizer, and loading one would cost seconds."""


_SURELY = 0.75
"""The GGUF's tokenizer counts in the end, and an adapter may bring another template than the base's."""


def has_too_few_chats(name: str, tokens: int, chunk: int) -> InputError:
    """The error for chats of the file `name` that fill no chunk."""
    return InputError(f"--calibrate {name} is {tokens} tokens long and {chunk} are needed: add chats")


def reject_too_few_chats(name: str, chats: Sequence[Chat], base: Source) -> None:
    """Raise InputError where the chats of the file `name` surely fill no chunk."""
    if sum(len(turn.content) for chat in chats for turn in chat.turns) >= _PLENTY:
        return
    tokenizer = _tokenizer(base)
    if tokenizer is None:
        return
    ids = (tokenizer.encode(render(tokenizer, chat), add_special_tokens=False) for chat in chats)
    tokens = sum(map(len, ids))
    config = read_json(base.folder / "config.json", f"the base model {base.spec!r}")
    chunk = min(CHUNK, int(config.get("max_position_embeddings") or CHUNK))
    if tokens < _SURELY * chunk:
        raise has_too_few_chats(name, tokens, chunk)


def _tokenizer(base: Source) -> Any:
    """The base's tokenizer; None where it cannot be read or has no chat template, which others tell."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
    except (OSError, ValueError):
        return None
    return tokenizer if tokenizer.chat_template else None


@dataclass(frozen=True)
class ImatrixJob:
    """Read the chats of `data` through the full-precision GGUF `model`, and write the matrix to `target`."""

    model: Path
    data: Path
    target: Path
    threads: int


def collect_imatrix(job: ImatrixJob, progress: StepProgress) -> dict[str, Any]:
    """Do the job in a child process; returns how many chunks, tokens and tensors went into the matrix.

    Raises InputError for chats or a model that cannot be used. `target` is written in place.
    """
    request = {"model": str(job.model), "data": str(job.data), "target": str(job.target)}
    with progress.step("Gather what matters", None) as advance:
        return run_worker(
            "pipeline.quantize.imatrix_worker",
            {**request, "threads": job.threads},
            job.target.with_suffix(".log"),
            on_message=lambda message: advance(int(message["done"])),
        )
