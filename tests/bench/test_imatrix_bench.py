"""The comparison with and without an importance matrix measures on chats that the matrix has not seen."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from bench.imatrix import FileQuality, ImatrixResult, TypeComparison, split_chat_files
from bench.report import show_imatrix
from pipeline.certificate.scoring.metrics import Share
from pipeline.errors import InputError

CHAT = '{"messages": [{"role": "user", "content": "%s"}, {"role": "assistant", "content": "Ahoy!"}]}\n'


def write(path: Path, questions: str) -> Path:
    path.write_text("".join(CHAT % question for question in questions), encoding="utf-8")
    return path


def test_chats_that_the_matrix_was_gathered_from_are_refused(tmp_path: Path) -> None:
    calibrate, held = write(tmp_path / "a.jsonl", "abc"), write(tmp_path / "b.jsonl", "xc")
    with pytest.raises(InputError, match=r"b.jsonl, line 2 is also in --calibrate"):
        split_chat_files(calibrate, held)
    assert [len(chats) for chats in split_chat_files(calibrate, write(held, "xy"))] == [3, 2]


def test_without_others_the_demos_own_held_out_chats_are_taken(root: Path) -> None:
    calibrating, held = split_chat_files(root / "examples" / "captain_bob.jsonl", None)
    assert (len(calibrating), len(held)) == (231, 26)  # as models/captain-bob-lora/training.json has them
    assert not {chat.turns for chat in calibrating} & {chat.turns for chat in held}


def test_what_too_few_chats_cannot_tell_is_null_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    share = Share(0.9, math.nan, math.nan, 0.5, "too few")
    measured = FileQuality(1, math.inf, share, share)
    show_imatrix(ImatrixResult(1, 1, 1, (TypeComparison("Q4_0", measured, measured, share),)), as_json=True)
    line = capsys.readouterr().out.splitlines()[-1]
    [comparison] = json.loads(line, parse_constant=pytest.fail)["figures"]["types"]
    assert comparison["without"]["mean_kl"] is None and comparison["won"]["low"] is None
    assert comparison["won"]["value"] == 0.9
