"""A request that waits or is answered: what the engine keeps of it."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config import SamplingParams
from engine.core.detokenizer import IncrementalDetokenizer
from engine.core.scheduler import TokenSequence
from engine.core.speculative import NO_PROPOSAL, NgramProposer, Proposal
from engine.types import RequestStats


@dataclass
class ActiveRequest:
    """One request's state; times are of the engine's clock, 0 for not yet."""

    sequence: TokenSequence
    sampling: SamplingParams
    text: IncrementalDetokenizer
    most: int  # tokens that the answer may have
    added: float
    admitted: float = 0.0
    first: float = 0.0
    cached: int = 0
    said: int = 0  # tokens of the answer, without the one that ends it
    position: int = 0
    lookup: NgramProposer | None = None
    guess: Proposal = NO_PROPOSAL

    def stats(self, now: float) -> RequestStats:
        """Its numbers, if it ends now."""
        admitted, first = self.admitted or now, self.first or now
        return RequestStats(
            prompt_tokens=self.sequence.prompt,
            cached_tokens=self.cached,
            generated_tokens=self.said,
            queue_seconds=admitted - self.added,
            prefill_seconds=first - admitted,
            decode_seconds=now - first,
        )
