"""The soak test for a few seconds; `scripts/bench.py soak` runs it for any time."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from bench.oracle import ReferenceTurn, Tie
from bench.process_usage import Usage
from bench.soak import SoakConfig, SoakResult, _fault
from engine.types import Finished, FinishReason, RequestStats
from pipeline.errors import InputError

TURN = ReferenceTurn("?", ("", "one", "one two", "one two three"), ends=True)


def _finished(reason: FinishReason, tokens: int) -> Finished:
    return Finished(reason, RequestStats(9, 0, tokens, 0.0, 0.0, 0.0))


@pytest.mark.parametrize(
    ("action", "length", "text", "finished", "fault"),
    [
        ("read", 2, "one two", _finished("length", 2), ""),
        ("read", 4, "one two three", _finished("stop", 3), ""),
        ("cancel", 3, "one", _finished("cancelled", 1), ""),
        ("cancel", 1, "one", _finished("length", 1), ""),
        ("hang up", 3, "one tw", None, ""),
        ("read", 2, "one", _finished("length", 2), "said 'one' with 2 tokens"),
        ("read", 2, "one three", _finished("length", 2), "not 'one two'"),
        ("read", 3, "one two", _finished("length", 2), "ended with length after 2"),
        ("read", 2, "one", _finished("cancelled", 1), "ended with cancelled"),
        ("read", 4, "one two three", _finished("length", 3), "ended with length"),
        ("hang up", 3, "two", None, "said 'two'"),
    ],
)
def test_faults_are_found(action: str, length: int, text: str, finished: Finished | None, fault: str) -> None:
    found = _fault(TURN, action, length, text, finished)
    assert fault in found if fault else not found


@pytest.mark.parametrize(
    ("text", "finished", "tied"),
    [
        ("one day", _finished("length", 2), True),
        ("one day, long ago", _finished("length", 5), True),
        ("one day", None, True),
        ("one", _finished("stop", 1), True),
        ("one", _finished("length", 2), False),  # a lost token
        ("one night", _finished("length", 2), False),
        ("one two four", _finished("length", 3), False),  # no near tie there
        ("two", _finished("length", 1), False),
    ],
)
def test_an_answer_may_leave_its_reference_only_for_a_token_that_is_as_likely(
    text: str, finished: Finished | None, tied: bool
) -> None:
    turn = ReferenceTurn("?", TURN.texts, True, (Tie(1, ("one day", "one dare"), ends=True),))
    assert (turn.sure_tokens, TURN.sure_tokens) == (1, 3)
    result = SoakResult()
    result.compare(turn, "read", finished.stats.generated_tokens if finished else 3, text, finished)
    assert (result.checked, result.ties, len(result.wrong)) == (1, int(tied), int(not tied))
    result = SoakResult()
    result.compare(turn, "read", 2, "one two", _finished("length", 2))
    assert (result.checked, result.ties, result.wrong) == (1, 0, [])


def test_growth_is_of_the_last_third_over_the_first_without_the_warm_up() -> None:
    usage = Usage([1, 100, 100, 100, 110, 110, 110, 120, 120, 120], [99, 9, 8, 8, 8, 8, 8, 9, 8, 8])
    assert usage.thirds == (100, 120) and usage.growth == pytest.approx(1.2)
    assert usage.more_descriptors == 0 and not usage.is_flat
    flat, leaking = Usage([100] * 9, [7] * 9), Usage([100] * 9, [7] * 8 + [8])
    assert flat.is_flat and not leaking.is_flat and leaking.more_descriptors == 1
    assert SoakResult(usages={"server": flat}).flat
    assert not SoakResult(usages={"server": flat, "model": leaking}).flat


def test_what_cannot_be_run_is_said(smollm2: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.gguf"):
        SoakConfig(Path("nowhere.gguf"), 1, 1, 1, 1, 0)
    with pytest.raises(InputError, match="--minutes"):
        SoakConfig(smollm2, 1, 0, 1, 1, 0)


def test_twenty_people_for_a_while(smollm2: Path, root: Path, python: str) -> None:
    command = [python, "scripts/bench.py", "soak", "--model", smollm2, "--users", "20", "--minutes", "0.15"]
    command += ["--talks", "4", "--cache-ram", "16", "--chat-turns", "4", "--json"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    figures = result["figures"]
    stats = figures["stats"]
    assert figures["wrong"] == [] and set(figures["fates"]) == {"read", "cancel", "hang up", "cancel at once"}
    assert figures["turns"] == 4
    assert figures["checked"] == sum(figures["fates"].values()) + 4
    assert stats["requests"] == sum(figures["fates"].values()) > 20
    assert stats["cancelled"] > 1 and stats["evictions"] > 5 and stats["restores"] > 1
    assert (stats["running"], stats["waiting"]) == (0, 0)
    assert result["ratios"]["model"] < 1.3, "the KV cache fills up for the first time, and no more"
    assert result["ratios"]["server"] < 1.1
    for usage in figures["usages"].values():
        assert usage["more_descriptors"] <= 0 and max(usage["descriptors"]) < 50
