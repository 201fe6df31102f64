"""The engine's state of one request, waiting or running."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config import SamplingParams
from engine.core.detokenizer import IncrementalDetokenizer
from engine.core.scheduler import TokenSequence
from engine.core.speculative import NO_PROPOSAL, NgramProposer, Proposal
from engine.types import RequestStats


@dataclass
class ActiveRequest:
    """A request's state. Times are of the engine's clock; 0 means not yet."""

    sequence: TokenSequence
    sampling: SamplingParams
    text: IncrementalDetokenizer
    max_tokens: int  # of the answer
    added: float
    admitted: float = 0.0
    first: float = 0.0
    cached: int = 0
    num_generated: int = 0  # tokens of the answer, without the end token
    position: int = 0
    proposer: NgramProposer | None = None
    proposal: Proposal = NO_PROPOSAL

    def stats(self, now: float) -> RequestStats:
        """Return the request's statistics, as if it ended now."""
        admitted, first = self.admitted or now, self.first or now
        return RequestStats(
            prompt_tokens=self.sequence.num_prompt_tokens,
            cached_tokens=self.cached,
            generated_tokens=self.num_generated,
            queue_seconds=admitted - self.added,
            prefill_seconds=first - admitted,
            decode_seconds=now - first,
        )
