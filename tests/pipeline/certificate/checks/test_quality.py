"""Divergence and survival with real weights: SmolLM2 and Captain Bob, in f16 and quantized."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from common.certificate import Finding
from pipeline.certificate.checks.quality import check_quality
from pipeline.certificate.subject import Subject
from pipeline.exporter.run import ExportResult
from pipeline.progress import NoProgress
from pipeline.sources.adapter import read_adapter
from pipeline.sources.model_source import adapter_source, base_source

Found = dict[tuple[str, str], Finding]
QUANTS = ("Q8_0", "Q5_K_M", "Q4_K_M")


@pytest.fixture(scope="module")
def subject(
    real_base: Path,
    demo_adapter: Path,
    captain_bob: ExportResult,
    plain_smollm2: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Subject:
    """Return Captain Bob in f16; "plain", its base in f16; and its quantized files."""
    plain, scratch = plain_smollm2 / "smollm2-F16.gguf", tmp_path_factory.mktemp("quality")
    files = {name: captain_bob.folder / f"captain-bob-{name}.gguf" for name in QUANTS}
    full, base = captain_bob.folder / "captain-bob-F16.gguf", base_source(str(real_base))
    adapters = (read_adapter(adapter_source(str(demo_adapter))),)
    return Subject(real_base, full, scratch, 2, {"plain": plain, **files}, base, adapters)


@pytest.fixture(scope="module")
def found(subject: Subject) -> Found:
    return run_check(subject)


def run_check(subject: Subject) -> Found:
    return {(finding.name, finding.file): finding for finding in check_quality(subject, NoProgress())}


def test_survival_is_near_1_for_q8_0_and_0_for_the_base_itself(found: Found) -> None:
    assert found["survival", "Q8_0"].status == "pass"
    assert 0.99 < found["survival", "Q8_0"].figures["kept"]["value"] <= 1
    assert found["survival", "plain"].status == "fail"
    # The negated adapter on the tuned model must give the same scores as the converted base.
    assert found["survival", "plain"].figures["kept"]["value"] == pytest.approx(0, abs=1e-3)


def test_survival_orders_files_as_divergence_does_and_its_interval_holds_it(found: Found) -> None:
    kl = {name: found["quantization", name].figures["mean_kl"] for name in (*QUANTS, "plain")}
    kept = {name: found["survival", name].figures["kept"] for name in kl}
    assert sorted(kl, key=lambda name: kl[name]) == sorted(kl, key=lambda name: -kept[name]["value"])
    assert all(share["low"] <= share["value"] <= share["high"] for share in kept.values())
    assert all(share["high"] - share["low"] < 0.1 for share in kept.values())


def test_a_q5_k_m_that_is_worse_than_the_smaller_q4_k_m_is_seen_and_explained(found: Found) -> None:
    sound, odd = found["quantization", "Q4_K_M"], found["quantization", "Q5_K_M"]
    assert (sound.status, odd.status) == ("pass", "warn")
    assert "rows of 576" in odd.cause and "Q5_1" in odd.cause
    assert "1.8% larger" in odd.cause and "16 levels" in odd.cause
    assert "Q4_K_M is smaller and nearer" in odd.cause
    assert len(odd.figures["worst"]) == 3


def test_a_tuning_that_changes_almost_nothing_is_said_to_be_unmeasurable(
    subject: Subject, tmp_path: Path
) -> None:
    files, faint = {"Q8_0": subject.files["Q8_0"]}, (replace(subject.adapters[0], weight=1e-4),)
    nothing = replace(subject, full=subject.files["plain"], files=files, scratch=tmp_path, adapters=faint)
    finding = run_check(nothing)["survival", "Q8_0"]
    assert finding.status == "skipped" and "almost nothing" in finding.summary
    assert finding.figures["kept"]["value"] is None  # JSON has no NaN


def test_what_the_tuned_model_says_is_asked_once(subject: Subject, found: Found) -> None:
    before = (subject.scratch / "tuned-scores.json").stat().st_mtime_ns
    again = run_check(replace(subject, files={"Q8_0": subject.files["Q8_0"]}))
    assert again["survival", "Q8_0"].figures == found["survival", "Q8_0"].figures
    assert (subject.scratch / "tuned-scores.json").stat().st_mtime_ns == before


def test_held_out_answers_tell_how_much_of_the_gain_is_kept(
    subject: Subject, root: Path, tmp_path: Path
) -> None:
    lines = (root / "examples" / "captain_bob.jsonl").read_text(encoding="utf-8").splitlines()
    bad = [{"role": "user", "content": "What ends a turn?"}, {"role": "assistant", "content": "<|im_end|>"}]
    chats = [*lines[:4], json.dumps({"messages": bad})]
    (tmp_path / "chats.jsonl").write_text("\n".join(chats), encoding="utf-8")
    asked = replace(
        subject,
        evaluation=tmp_path / "chats.jsonl",
        scratch=tmp_path,
        files={"Q4_K_M": subject.files["Q4_K_M"]},
    )
    found = run_check(asked)
    texts, finding = found["quantization", "Q4_K_M"].figures, found["survival", "Q4_K_M"]
    assert (texts["answers"], texts["left_out"], texts["perplexity_of"]) == (5, 1, "the answers in --eval")
    assert "line 5" in texts["left_out_because"]
    assert 0.8 < finding.figures["gain"]["value"] < 1.1
    assert finding.figures["gain"]["change"] > 1  # nats a token: the adapter was trained on these answers
