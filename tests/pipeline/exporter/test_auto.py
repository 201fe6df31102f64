"""--quant auto: the chosen type, the number of trials, and the export."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from common.certificate import Finding
from pipeline.certificate.runner.worker import send_finding
from pipeline.certificate.subject import Subject
from pipeline.errors import InputError, PipelineError
from pipeline.exporter import auto_quant as auto_step
from pipeline.exporter.auto_quant import Trial, choose, trial_of
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import export
from pipeline.manifest import Record
from pipeline.progress import Advance, NoProgress
from tests.pipeline.certificate.conftest import complete_tokenizer
from tests.pipeline.conftest import Bases
from tests.pipeline.tiny import make_adapter, make_base

pytestmark = pytest.mark.slow

SMALL = Trial("Q3_K_M", 90, 0.80, 0.78, 0.82, 0.40, 300, 90)
LUCKY = Trial("Q4_0", 92, 0.96, 0.93, 0.98, 0.08, 300, 120)
GOOD = Trial("Q4_K_M", 105, 0.97, 0.96, 0.98, 0.06, 250, 70)
FAST = Trial("Q6_K", 138, 0.998, 0.997, 0.999, 0.01, 250, 80)


def asked(trials: list[Trial], tried: list[str]) -> Iterator[Trial]:
    for trial in trials:
        tried.append(trial.type)
        yield trial


def test_the_smallest_whose_whole_interval_is_good_is_taken_and_no_larger_one_is_tried() -> None:
    tried: list[str] = []
    choice = choose(asked([SMALL, LUCKY, GOOD, FAST], tried), "size")
    assert choice.chosen == "Q4_K_M"
    assert tried == ["Q3_K_M", "Q4_0", "Q4_K_M"] == [trial.type for trial in choice.trials]


def test_for_speed_all_are_tried_and_what_loses_the_tuning_is_not_taken() -> None:
    assert choose(iter([SMALL, LUCKY, GOOD, FAST]), "speed").chosen == "Q6_K"


def test_where_none_is_good_the_nearest_is_taken_and_said_to_be_so() -> None:
    choice = choose(iter([SMALL, LUCKY]), "size")
    assert choice.chosen == "Q4_0" and "no type keeps enough" in choice.reason


def test_without_a_tuning_to_speak_of_the_divergence_decides() -> None:
    untold = [replace(trial, survival=None, low=None, high=None) for trial in (SMALL, LUCKY)]
    assert choose(iter(untold), "size").chosen == "Q4_0"


class Steps(NoProgress):
    """Record the titles of the steps, and press Ctrl-C at one."""

    def __init__(self, interrupted_at: str = "") -> None:
        self.titles: list[str] = []
        self._last = interrupted_at

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        self.titles.append(title)
        if title == self._last:
            raise KeyboardInterrupt
        yield lambda done, note="": None


def test_an_export_keeps_the_chosen_file_alone_says_how_it_was_chosen_and_checks_it_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto_step, "CANDIDATES", ("Q4_0", "Q8_0"))  # each takes a second
    base = make_base(tmp_path / "base")
    complete_tokenizer(base)
    adapter = str(make_adapter(tmp_path / "adapter", base))
    chats = tmp_path / "chats.jsonl"  # the fewest that suffice: each takes time
    chats.write_text("\n".join(f'{{"messages": [{{"role": "user", "content": "{n}?"}}]}}' for n in range(5)))
    config = ExportConfig(
        str(base), tmp_path / "bob", (adapter,), ("auto",), verify="full", evaluation=chats, threads=2
    )
    with pytest.raises(KeyboardInterrupt):
        export(config, Steps(interrupted_at="Quantize to Q8_0"))
    for path in (tmp_path / "bob" / ".work" / auto_step.CANDIDATES_DIR).glob("*.gguf"):
        path.write_bytes(b"")  # not recorded as complete, so it must not be copied from
    steps = Steps()
    result = export(config, steps)
    option = json.loads(result.manifest.read_text())["options"]["auto"]
    assert [path.name for path in result.folder.glob("*.gguf")] == [f"bob-{option['chosen']}.gguf"]
    assert [trial["type"] for trial in option["tried"]] == ["Q4_0", "Q8_0"]
    quantized = sorted(title for title in steps.titles if title.startswith("Quantize"))
    assert quantized == sorted(f"Quantize to {name}" for name in ("Q8_0", option["chosen"]))  # Q4_0 was tried
    assert any(note.startswith("auto chose") for note in result.notes)
    assert export(config).made == ()  # the choice is unchanged
    assert result.certificate is not None
    found = {finding.name: finding for finding in result.certificate.findings}
    assert {"logits", "behaviour", "behaviour.first_words", "survival", "weights.values"} <= found.keys()
    failed = {name for name, finding in found.items() if finding.status == "fail"}
    assert failed <= {"behaviour", "quantization", "survival"}  # random weights end no answer
    assert found["survival"].figures["kept"]["change"] > 0 and found["behaviour"].figures["answers"] == 6
    assert found["quantization"].figures["answers"] == 5


def test_a_model_that_cannot_chat_is_refused_before_it_is_loaded(bases: Bases, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--quant auto chats .* --template FILE\|NAME"):
        export(ExportConfig(str(bases()), tmp_path / "bob", quants=("auto",)))
    assert not (tmp_path / "bob").exists()


def test_what_cannot_be_measured_is_told_with_its_reason() -> None:
    found = [Finding("quality", "warn", "The check could not be made: line 3 of the data set.")]
    with pytest.raises(PipelineError, match=r"cannot measure Q4_0 \(The check .* line 3 of the data set\)"):
        trial_of("Q4_0", Path("bob-Q4_0.gguf"), found)


def test_a_file_whose_divergence_is_no_number_is_never_the_nearest_and_the_manifest_is_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bob-Q2_K.gguf"
    path.write_bytes(b"GGUF")
    subject = Subject(tmp_path, path, tmp_path, 1)
    for name, figures in {
        "quantization": {"mean_kl": math.nan},
        "survival": {"kept": None},
        "speed": {"prefill": 1.0, "decode": 1.0},
    }.items():
        send_finding(Finding(name, "fail", "", figures), subject)
    findings = [Finding(**json.loads(line)["finding"]) for line in capsys.readouterr().out.splitlines()]
    choice = choose(iter([trial_of("Q2_K", path, findings), SMALL]), "size")
    assert choice.chosen == "Q3_K_M"
    record = Record("f", options={"auto": choice.to_json()})
    record.save(path)
    assert '"mean_kl": null' in path.read_text()
    assert "KL unknown" in auto_step.auto_notes(record)[0]
    with pytest.raises(ValueError, match="not JSON compliant"):
        Record("f", model={"parameters": math.inf}).save(path)


def test_an_unknown_preference_is_refused() -> None:
    with pytest.raises(InputError, match="--prefer 'small'"):
        ExportConfig("base", Path("bob"), prefer="small")
