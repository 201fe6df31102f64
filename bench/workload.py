"""The users' questions: generated from a seed, all different, and the same for every contender."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from pipeline.errors import InputError


def _words(line: str) -> list[str]:
    return line.split()


_THINGS = _words("lighthouse harbour kettle garden violin engine letter mountain river market bridge window")
_WHO = _words("captain teacher neighbour doctor painter farmer pilot student baker sailor writer gardener")
_HOW = _words("quiet early bright heavy narrow gentle rusty green distant careful golden hollow")
_DID = _words("repaired painted described followed measured carried noticed admired opened visited")


@dataclass(frozen=True)
class Workload:
    """The shape of each user's conversation: turns, sentences per question, and tokens per answer."""

    name: str
    turns: int
    first_sentences: int
    later_sentences: int
    new_tokens: int
    task: str

    def question(self, user: int, turn: int) -> str:
        """Return the question of a user in a turn, counted from 0; user -1 is the warm-up."""
        count = self.later_sentences if turn else self.first_sentences
        return f"{story(f'{self.name} {user} {turn}', count)} {self.task}"


def story(seed: str, sentences: int) -> str:
    """Return a text of that many sentences; a different one for each seed."""
    words = random.Random(seed)
    return " ".join(_sentence(words) for _ in range(sentences))


def _sentence(words: random.Random) -> str:
    pick = words.choice
    return (
        f"The {pick(_HOW)} {pick(_WHO)} {pick(_DID)} the {pick(_HOW)} {pick(_THINGS)} "
        f"near the {pick(_HOW)} {pick(_THINGS)}."
    )


# With SmolLM2's tokenizer and template, the first prompt has 146 tokens and a later turn adds 40.
WORKLOADS = {
    w.name: w
    for w in (
        Workload(
            "single", 1, 8, 0, 128, "What may have happened before, and what happens next? Tell it briefly."
        ),
        Workload(
            "conversation", 5, 8, 2, 64, "Go on with the story, and say how each of them felt about it."
        ),
        Workload("repeat", 1, 10, 0, 128, "Repeat the text above word for word, from its beginning."),
    )
}


def find_workload(name: str, *, quick: bool = False) -> Workload:
    """Return the workload `name`; `quick` cuts it to a few tokens for tests. Raises InputError."""
    if name not in WORKLOADS:
        raise InputError(f"--workload {name!r} is unknown: use one of {', '.join(WORKLOADS)}")
    found = WORKLOADS[name]
    if not quick:
        return found
    return replace(found, turns=min(2, found.turns), first_sentences=2, later_sentences=1, new_tokens=8)
