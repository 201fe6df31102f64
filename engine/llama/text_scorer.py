"""Log-probabilities of a text's tokens, and the likeliest token after it.

A context of its own, of one sequence, on the weights that answer too, as for embeddings.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from engine.core.types import BatchRow
from engine.errors import EngineError
from engine.llama.model import Adapter, Model
from engine.llama.runner import Runner
from engine.llama.tokenizer import LlamaTokenizer
from engine.types import TextScores

_PIECE = 64  # tokens a step: no more than answers wait for a prompt's piece
_LEAST = -9999.0  # for an impossible token, as OpenAI has it: JSON has no infinity


class TextScorer:
    """Scores one text at a time. It belongs to one thread."""

    def __init__(self, model: Model, *, context: int, threads: int, adapter: Adapter | None = None) -> None:
        """`context` is the most tokens of a text. Raises EngineError when the memory does not suffice."""
        self._runner = Runner(model, slots=1, context=context, batch=_PIECE, threads=threads, adapter=adapter)

    def start(self, tokens: Sequence[int], top: int, first: int = 0) -> Scores:
        """Return the empty scores of a text, of the tokens from `first` on; those before are over.

        `top` is as in TextToScore.
        """
        self._runner.prepare(0, 0)
        return Scores(self._runner.vocab, tokens, top, first)

    def add(self, found: Scores) -> None:
        """Read the next tokens of the text, as many as a step takes. Raises EngineError."""
        piece = list(found.tokens[found.count : found.count + _PIECE])
        wanted = min(len(piece), max(1, found.count + len(piece) + 1 - found.first))
        self._runner.decode([BatchRow(0, found.count, piece, wanted)])
        found.add(self._runner.logits(0, wanted), len(piece))

    def close(self) -> None:
        """Free the context."""
        self._runner.close()


class Scores:
    """The scores of a text's tokens from `first` on, and of the one that follows; `count` tokens are read."""

    def __init__(self, vocab: LlamaTokenizer, tokens: Sequence[int], top: int, first: int = 0) -> None:
        self.tokens, self.first = tokens, first
        self.count = 0
        self._vocab, self._top = vocab, top
        self._ids = list(tokens)
        nothing = [None] if first == 0 else []  # nothing predicts the first token
        self._log_probs: list[float | None] = [*nothing]
        self._likeliest: list[dict[str, float] | None] = [*nothing]

    def add(self, logits: NDArray[np.float32], read: int | None = None) -> None:
        """Add the logits after the last of the next `read` tokens, or after each: [tokens, vocabulary].

        Raises EngineError for no numbers.
        """
        self.count += (len(logits) if read is None else read) - len(logits)
        for row in logits:
            self.count += 1
            if self.count < self.first:
                continue
            log_probs = _log_softmax(row)
            if self.count == len(self.tokens):
                self._ids.append(int(log_probs.argmax()))
            self._log_probs.append(_finite(log_probs[self._ids[self.count]]))
            best = np.argsort(-log_probs, kind="stable")[: self._top] if self._top else ()
            self._likeliest.append(self._by_spelling(log_probs, [int(token) for token in best]))

    def event(self) -> TextScores:
        """Return the scores of the text's tokens and of the one that follows."""
        spelled = [self._spelling(token) for token in self._ids[self.first :]]
        return TextScores(spelled, self._log_probs, self._likeliest)

    def _by_spelling(self, log_probs: NDArray[np.float64], best: Sequence[int]) -> dict[str, float]:
        found: dict[str, float] = {}
        for token in best:  # the likelier of two tokens with one spelling comes first
            found.setdefault(self._spelling(token), _finite(log_probs[token]))
        return found

    def _spelling(self, token: int) -> str:
        raw = self._vocab.piece(token)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:  # OpenAI's notation of a part of a character
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - float(logits.max())
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum())
    if np.isnan(result).any():
        raise EngineError("the model gives no finite numbers for this text")
    return result


def _finite(log_prob: float) -> float:
    return max(float(log_prob), _LEAST)
