"""What the page costs: the same questions asked of the engine, and through the page's own events.

An answer's whole time holds the cost of its three requests, however short it is; what streaming costs shows
in the rate from its first word to its last.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.metrics import Figures, median_of, ratio
from bench.run_system import FACTS, OURS, PAGE
from bench.serve import ServeConfig, in_turn, run_contender

Say = Callable[[str], None]


@dataclass(frozen=True)
class PageCost:
    """Figures of both by their numbers of users."""

    engine: dict[int, Figures]
    page: dict[int, Figures]

    @property
    def ratios(self) -> dict[int, dict[str, float]]:
        """The page's tokens a second over the engine's: of whole answers, and from the first word on."""
        return {
            users: {
                name: ratio(getattr(page, name), getattr(self.engine[users], name))
                for name in ("throughput", "decode_rate")
            }
            for users, page in self.page.items()
        }


def measure_page(config: ServeConfig, say: Say = lambda line: None) -> PageCost:
    """Ask the first turn of the workload `single` both ways, in turn, `config.repeat` times."""
    config.scratch.mkdir(parents=True, exist_ok=True)
    config = replace(config, threads=run_contender(config, FACTS)["threads"])
    cost = PageCost({}, {})
    for users in config.users:
        say(f"{users} user{'s' * (users > 1)}: the engine, the page")
        runs: dict[str, list[Figures]] = {OURS: [], PAGE: []}
        for name in in_turn(list(runs), config.repeat):
            runs[name].append(Figures(**run_contender(config, name, workload="single", users=users)))
        cost.engine[users], cost.page[users] = median_of(runs[OURS]), median_of(runs[PAGE])
    return cost
