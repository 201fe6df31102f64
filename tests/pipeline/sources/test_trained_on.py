"""An adapter for another base of the same shape gets a note, a matching one never."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pipeline.certificate.checks.settings import warn_other_base
from pipeline.sources.adapter import Adapter
from pipeline.sources.adapter_base import base_mismatch_notes, base_model
from pipeline.sources.model_source import Source

DEMO = "HuggingFaceTB/SmolLM2-135M-Instruct"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def adapter(named: object, **config: Any) -> Adapter:
    source = Source("models/bob", Path("models/bob"), None)
    return Adapter(source, {"base_model_name_or_path": named, **config}, {})


def folder(tmp_path: Path, name: str, made_from: str = "", config_name: str = "") -> Source:
    place = tmp_path / name
    place.mkdir()
    (place / "config.json").write_text(json.dumps({"_name_or_path": config_name}))
    if made_from:
        (place / "made_from.json").write_text(json.dumps({"model": made_from}))
    return Source(str(place), place, None)


@pytest.mark.parametrize(
    ("named", "base"),
    [
        (DEMO, ("smollm2-base", DEMO)),  # README's main job
        (DEMO, ("smollm2-instruct-f16", "", DEMO)),
        (DEMO, ("anything",)),
        (DEMO, ("smollm2-135m-instruct",)),
        ("me/Tuned", ("Tuned", "", "meta-llama/Llama-3.2-1B")),
        ("you/Instruct", ("mine", "", "you/Parent")),  # a published config.json names its parent
        ("/home/me/run7", ("base", DEMO)),
        (r"C:\models\SmolLM2-135M-Instruct", ("base", DEMO)),
        ("unsloth/smollm2-135m-instruct-unsloth-bnb-4bit", ("base", DEMO)),
        (None, ("base", DEMO)),
        ("", ("base", DEMO)),
    ],
)
def test_no_false_note(tmp_path: Path, named: object, base: tuple[str, ...]) -> None:
    assert base_mismatch_notes(folder(tmp_path, *base), [adapter(named)]) == []


@pytest.mark.parametrize(
    ("named", "base", "known"),
    [
        ("meta-llama/Llama-3.2-1B", ("smollm2-base", DEMO), DEMO),
        ("HuggingFaceTB/SmolLM2-135M", ("base", DEMO), DEMO),
        ("meta-llama/Llama-3.2-1B-Instruct", ("Llama-3.2-1B",), "Llama-3.2-1B"),
        ("/content/Llama-3.2-1B", ("llama-3.2-1b-instruct",), "llama-3.2-1b-instruct"),
    ],
)
def test_another_base_is_named(tmp_path: Path, named: str, base: tuple[str, ...], known: str) -> None:
    last = named if named[0] != "/" else "Llama-3.2-1B"
    message = f"the adapter bob was trained on {last}, and the base is {known}"
    source = folder(tmp_path, *base)
    assert base_mismatch_notes(source, [adapter(named)]) == [message]
    found = list(warn_other_base(source, (adapter(named),)))
    assert [(one.name, one.status, one.summary) for one in found] == [
        ("settings.base", "warn", f"T{message[1:]}.")
    ]


def test_another_commit_is_named_where_both_are_commits() -> None:
    base = Source("you/base", Path("snapshots") / COMMIT, COMMIT)
    assert base_mismatch_notes(base, [adapter("you/base", revision="f" * 40)])
    assert not base_mismatch_notes(
        base, [adapter("you/base", revision=COMMIT), adapter("you/base", revision="main")]
    )


@pytest.mark.parametrize(
    ("named", "base", "known"),
    [
        ([], ("base", DEMO), DEMO),
        ([DEMO], ("base",), DEMO),
        ([DEMO, DEMO], ("base",), DEMO),
        ([DEMO, "you/other"], ("base",), ""),
        (["meta-llama/Llama-3.2-1B"], ("base", DEMO), DEMO),
        (["meta-llama/Llama-3.2-1B-Instruct"], ("Llama-3.2-1B",), ""),  # noted, so its base is not recorded
        (["tests/base"], ("base",), ""),  # a path of ours
        (["/home/me/base"], ("base",), ""),
        ([None], ("base",), ""),
    ],
)
def test_a_card_names_the_base_only_where_it_is_known(
    tmp_path: Path, named: list[object], base: tuple[str, ...], known: str
) -> None:
    assert base_model(folder(tmp_path, *base), [adapter(name) for name in named]) == known
