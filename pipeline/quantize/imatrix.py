"""Importance matrix: how much each column of a weight matters for the user's chats.

llama.cpp's quantizers weight the error of each column by the mean square of its inputs. The means come from
the chats of `--calibrate`, run through the full-precision model, or from a file of an earlier run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.dataclass_json import to_json
from common.worker_process import run_worker
from pipeline.data.chat_template import set_template
from pipeline.data.dataset import Chat, render
from pipeline.errors import InputError
from pipeline.progress import StepProgress
from pipeline.sources.model_source import Source, read_json

CHUNK = 512
"""Tokens per chunk, llama-imatrix's default."""

_ENOUGH_CHARACTERS = 16 * CHUNK
"""This many fill a chunk with any tokenizer; loading one takes seconds."""

_MARGIN = 0.75
"""The final count is the GGUF tokenizer's, and an adapter may replace the base's chat template."""


def has_too_few_chats(name: str, tokens: int, chunk: int) -> InputError:
    """Return the error for chats of the file `name` that do not fill a chunk."""
    return InputError(f"--calibrate {name} is {tokens} tokens long and {chunk} are needed: add chats")


def reject_too_few_chats(name: str, chats: Sequence[Chat], base: Source) -> None:
    """Raise InputError when the chats of the file `name` certainly do not fill a chunk."""
    if sum(len(turn.content) for chat in chats for turn in chat.turns) >= _ENOUGH_CHARACTERS:
        return
    tokenizer = _tokenizer(base)
    if tokenizer is None:
        return
    ids = (tokenizer.encode(render(tokenizer, chat), add_special_tokens=False) for chat in chats)
    tokens = sum(map(len, ids))
    config = read_json(base.folder / "config.json", f"the base model {base.spec!r}")
    chunk = min(CHUNK, int(config.get("max_position_embeddings") or CHUNK))
    if tokens < _MARGIN * chunk:
        raise has_too_few_chats(name, tokens, chunk)


def _tokenizer(base: Source) -> Any:
    """Return the base's tokenizer; None when it has no chat template or is unreadable (reported later)."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
    except (OSError, ValueError):
        return None
    set_template(tokenizer)
    return tokenizer if tokenizer.chat_template else None


@dataclass(frozen=True)
class ImatrixJob:
    """Run the chats of `data` through the full-precision GGUF `model`; write the matrix to `target`."""

    model: Path
    data: Path
    target: Path
    threads: int


def collect_imatrix(job: ImatrixJob, progress: StepProgress) -> dict[str, Any]:
    """Run the job in a worker process; return the numbers of "chunks", "tokens" and "tensors" used.

    Raises InputError for chats or a model that cannot be used. `target` is written in place.
    """
    with progress.step("Gather what matters", None) as advance:
        return run_worker(
            "pipeline.quantize.imatrix_worker",
            to_json(job),
            job.target.with_suffix(".log"),
            on_message=lambda message: advance(int(message["done"])),
        )
