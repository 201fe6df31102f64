"""Notes on the data of a training: leaks, texts without an end, rows beyond the context."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from common.text import pluralize
from pipeline.data.dataset import Example, PlainText, Row
from pipeline.errors import InputError


def data_notes(
    settings: Any, tokenizer: Any, rows: Sequence[Row], valid: Sequence[Row], examples: Sequence[Example]
) -> Iterator[str]:
    """Yield a line for each thing to know; `settings` are the base's configuration in transformers.

    Raises InputError where a row of `examples` has more tokens than the base has positions.
    """
    trained = {row.content for row in rows}
    if shared := sum(row.content in trained for row in valid):
        yield (
            f"{pluralize(shared, 'held-out row is', 'held-out rows are')} trained on too (--valid): the "
            "held-out loss says less about new ones"
        )
    if tokenizer.eos_token_id is None and any(isinstance(row, PlainText) for row in rows):
        yield "the base's tokenizer has no end-of-text token, so that the model does not learn to end a text"
    yield from _context_note(settings.get_text_config(), max(len(one.input_ids) for one in examples))


def _context_note(settings: Any, longest: int) -> Iterator[str]:
    context = getattr(settings, "max_position_embeddings", None)
    if not isinstance(context, int) or not 0 < context < longest:
        return
    found = f"the longest row has {longest} tokens, and the base's context is {context}"
    rotary = any(getattr(settings, name, None) for name in ("rope_parameters", "rope_theta", "alibi"))
    if not rotary:  # each position is a learned vector, and there are no more of them
        raise InputError(f"{found}: give --max-length {context}")
    yield f"{found}, beyond which it was not trained: --max-length {context} cuts there"
