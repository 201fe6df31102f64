"""What the page costs: the same questions asked of the engine, and through the page's own events.

Throughput alone is compared: the page shows something at once, long before the first word.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.contender import FACTS, OURS, PAGE
from bench.figures import Figures, median_of, ratio
from bench.serve import ServeConfig, in_turn, run_contender

Say = Callable[[str], None]


@dataclass(frozen=True)
class PageCost:
    """Figures of both by their numbers of users."""

    engine: dict[int, Figures]
    page: dict[int, Figures]

    @property
    def ratios(self) -> dict[int, float]:
        """The page's tokens a second over the engine's."""
        return {
            users: ratio(page.throughput, self.engine[users].throughput) for users, page in self.page.items()
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
