"""Divergence and survival with real weights: SmolLM2, Captain Bob, and what quantization makes of both."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.adapter import read_adapter
from pipeline.certificate.finding import Finding
from pipeline.certificate.quality_check import check_quality
from pipeline.certificate.subject import Subject
from pipeline.convert import ConvertJob, convert
from pipeline.progress import Silent
from pipeline.quant_types import quant_type
from pipeline.quantize import QuantizeJob, plan_quantization, quantize
from pipeline.source import adapter_source, base_source
from pipeline.toolchain import ensure_toolchain

Found = dict[tuple[str, str], Finding]
QUANTS = ("Q8_0", "Q5_K_M", "Q4_K_M", "Q3_K_M")


@pytest.fixture(scope="module")
def subject(real_base: Path, demo_adapter: Path, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Captain Bob in f16, his base in f16, and some quantizations."""
    folder = tmp_path_factory.mktemp("quality")
    base, full, plain = base_source(str(real_base)), folder / "bob-F16.gguf", folder / "plain-F16.gguf"
    adapters = (read_adapter(adapter_source(str(demo_adapter))),)
    toolchain = ensure_toolchain()
    convert(ConvertJob(base, adapters, "f16", full, "bob", toolchain, 2, base_alone=plain), Silent())
    files = {"plain": plain}
    for name in QUANTS:
        path, kind = folder / f"bob-{name}.gguf", quant_type(name)
        job = QuantizeJob(full, path, kind, 2, tuple(files.values())[1:])
        quantize(job, plan_quantization(full, kind, folder / "plan.log"), Silent())
        files[name] = path
    (folder / "scratch").mkdir()
    return Subject(real_base, full, folder / "scratch", 2, files, base, adapters)


@pytest.fixture(scope="module")
def found(subject: Subject) -> Found:
    return look_at(subject)


def look_at(subject: Subject) -> Found:
    return {(finding.name, finding.file): finding for finding in check_quality(subject, Silent())}


def test_survival_is_near_1_for_q8_0_and_0_for_the_base_itself(found: Found) -> None:
    assert found["survival", "Q8_0"].status == "pass"
    assert 0.99 < found["survival", "Q8_0"].figures["kept"]["value"] <= 1
    assert found["survival", "plain"].status == "fail"
    assert found["survival", "plain"].figures["kept"]["value"] == pytest.approx(0, abs=1e-6)


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
    plain = subject.files["plain"]
    nothing = replace(subject, full=plain, files={"Q8_0": subject.files["Q8_0"]}, scratch=tmp_path)
    finding = look_at(nothing)["survival", "Q8_0"]
    assert finding.status == "skipped" and "almost nothing" in finding.summary


def test_what_the_tuned_model_says_is_asked_once(subject: Subject, found: Found) -> None:
    before = (subject.scratch / "tuned-scores.json").stat().st_mtime_ns
    again = look_at(replace(subject, files={"Q8_0": subject.files["Q8_0"]}))
    assert again["survival", "Q8_0"].figures == found["survival", "Q8_0"].figures
    assert (subject.scratch / "tuned-scores.json").stat().st_mtime_ns == before
    assert not (subject.scratch / "base.gguf").exists()


def test_held_out_answers_tell_how_much_of_the_gain_is_kept(
    subject: Subject, root: Path, tmp_path: Path
) -> None:
    lines = (root / "examples" / "captain_bob.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "chats.jsonl").write_text("\n".join(lines[:24]), encoding="utf-8")
    asked = replace(
        subject,
        evaluation=tmp_path / "chats.jsonl",
        scratch=tmp_path,
        files={"Q4_K_M": subject.files["Q4_K_M"]},
    )
    finding = look_at(asked)["survival", "Q4_K_M"]
    assert 0.8 < finding.figures["gain"]["value"] < 1.1
    assert "held-out answers" in finding.summary
