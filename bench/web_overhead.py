"""Overhead of the web page: the same questions sent to the engine directly and through the page's events.

The throughput of whole answers includes the fixed cost of an answer's three requests; the rate from the
first word to the last shows the cost of streaming.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.metrics import Figures, median_of, ratio
from bench.run_system import FACTS, OURS, PAGE
from bench.serve import LogLine, ServeConfig, interleave, run_contender


@dataclass(frozen=True)
class PageOverhead:
    """Figures of the engine and of the page, by number of users."""

    engine: dict[int, Figures]
    page: dict[int, Figures]

    @property
    def ratios(self) -> dict[int, dict[str, float]]:
        """Return the page's tokens/s over the engine's, for whole answers and from the first word on."""
        return {
            users: {
                name: ratio(getattr(page, name), getattr(self.engine[users], name))
                for name in ("throughput", "decode_rate")
            }
            for users, page in self.page.items()
        }


def measure_page(config: ServeConfig, log: LogLine = lambda line: None) -> PageOverhead:
    """Run the workload `single` on the engine and on the page, alternating, `config.repeat` times."""
    config.scratch.mkdir(parents=True, exist_ok=True)
    config = replace(config, threads=run_contender(config, FACTS)["threads"])
    overhead = PageOverhead({}, {})
    for users in config.users:
        log(f"{users} user{'s' * (users > 1)}: the engine, the page")
        runs: dict[str, list[Figures]] = {OURS: [], PAGE: []}
        for name in interleave(list(runs), config.repeat):
            runs[name].append(Figures(**run_contender(config, name, workload="single", users=users)))
        overhead.engine[users], overhead.page[users] = median_of(runs[OURS]), median_of(runs[PAGE])
    return overhead
