"""--quant auto --max-size: a file of at most that size, chosen by measurement, and resumed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from ggufio.ggml import type_name
from ggufio.ggml_reader import read_tensors
from pipeline.errors import InputError, PipelineError
from pipeline.evaluation.sensitivity import MeasuredSensitivity
from pipeline.exporter import size_step
from pipeline.exporter.config import ExportConfig
from pipeline.exporter.run import export
from pipeline.exporter.size_finding import size_finding
from pipeline.exporter.size_step import Candidate, check_size, estimate_note, promising, quantization
from pipeline.manifest import ALLOCATIONS, AUTO_OPTION, Output, Record
from pipeline.progress import Advance, NoProgress
from pipeline.quantize.job import Quantization
from pipeline.quantize.types import MIXTURE, TensorTypes, quant_type
from tests.pipeline.certificate.conftest import complete_tokenizer
from tests.pipeline.tiny import make_adapter, make_base


class Quantizations(NoProgress):
    """Record the titles of the steps, and press Ctrl-C at the second quantization."""

    def __init__(self, *, interrupted: bool) -> None:
        self.titles: list[str] = []
        self._interrupted = interrupted

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        self.titles.append(title)
        if self._interrupted and len(self.quantized) == 2:
            raise KeyboardInterrupt
        yield lambda done, note="": None

    @property
    def quantized(self) -> list[str]:
        return [title.rpartition(" ")[2] for title in self.titles if title.startswith("Quantize")]


@pytest.mark.slow
def test_a_file_of_at_most_a_size_is_made_measured_resumed_and_written_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(size_step, "MAX_TRIALS", 2)  # each takes a second
    base = make_base(tmp_path / "base")
    complete_tokenizer(base)
    adapter = str(make_adapter(tmp_path / "adapter", base))
    chats = tmp_path / "chats.jsonl"
    chats.write_text("\n".join(f'{{"messages": [{{"role": "user", "content": "{n}?"}}]}}' for n in range(5)))
    config = ExportConfig(
        str(base),
        tmp_path / "bob",
        (adapter,),
        ("auto",),
        max_bpw="7",
        tensor_type=("blk.0.attn_v=q8_0",),
        evaluation=chats,
        verify="off",
    )
    small, before = Quantizations(interrupted=False), Quantizations(interrupted=True)
    with pytest.raises(
        InputError, match=r"--max-bpw 3 is too small: .* use --max-bpw 4\.\d+ or more, or --cal"
    ):
        export(replace(config, max_bpw="3"), small)
    with pytest.raises(KeyboardInterrupt):
        export(config, before)
    assert before.quantized[0] == "AUTO-7BPW"
    after = Quantizations(interrupted=False)
    result = export(config, after)
    assert ["See what the answers need" in one.titles for one in (small, before, after)] == [
        False,
        True,
        False,
    ]
    assert after.quantized == [before.quantized[1], "AUTO-7BPW"]  # the first trial counts
    (file,) = (path.name for path in result.folder.glob("*.gguf"))
    assert file == "bob-AUTO-7BPW.gguf"

    options = json.loads(result.manifest.read_text())["options"]
    auto, made = options[AUTO_OPTION], options[ALLOCATIONS]["AUTO-7BPW"]
    types = {name: type_name(one.type) for name, one in read_tensors(result.paths[0]).items()}
    assert made["tensors"] == types and types["blk.0.attn_v.weight"] == "Q8_0"
    assert len(set(types.values()) - {"F32"}) > 1
    size = result.paths[0].stat().st_size
    assert size <= auto["limit"] == made["limit"] and size > 0.9 * auto["limit"]
    assert result.outputs[0].bits_per_weight <= 7
    reader = GGUFReader(result.paths[0])
    assert reader.fields["general.file_type"].contents() == quant_type(made["file_type"]).ftype
    assert {one["type"] for one in auto["tried"]} == {"AUTO-7BPW", before.quantized[1]}
    sizes = [one["size"] for one in auto["tried"]]
    assert sizes == sorted(sizes) and size in sizes and max(sizes) <= auto["limit"]
    assert auto["estimate"]["tensors"] == 2 * 7 + 2 and auto["estimate"]["change"] > 0
    lines = [note for note in result.notes if note.startswith("auto")]
    assert len(lines) == 3 and "auto chose AUTO-7BPW: the nearest to the tuned model" in lines[-1]

    assert export(config).made == ()  # the choice is unchanged


def candidate(name: str, size: int, cost: float) -> Candidate:
    return Candidate(name, Quantization(Path("f"), quant_type("Q4_0")), {}, size, cost)


def test_of_llama_cpps_types_those_of_least_cost_are_measured_and_the_largest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(size_step, "MAX_TRIALS", 4)
    ready = [
        candidate(name, size, cost)
        for name, size, cost in (("a", 1, 0.9), ("b", 2, 0.1), ("c", 3, 0.2), ("d", 4, 0.5), ("e", 5, 0.4))
    ]
    assert [one.name for one in promising(ready)] == ["b", "c", "e"]
    assert [one.name for one in promising(ready[:1])] == ["a"]
    assert promising([]) == []


def record(size: int, **options: Any) -> Record:
    output = Output("bob-AUTO-1M.gguf", "AUTO-1M", size, 4.0, 1.0, "0" * 64, 0)
    return Record("f", options=options, outputs={output.file: output})


def test_an_allocation_in_the_manifest_gives_its_quantization_again() -> None:
    tensors = {"token_embd.weight": "Q6_K", "blk.0.attn_norm.weight": "F32", "blk.0.attn_q.weight": "Q4_K"}
    known = record(1, allocations={"AUTO-1M": {"file_type": "Q4_K_M", "limit": 9, "tensors": tensors}})
    user = TensorTypes((("blk.*.attn_v", "Q8_0"),))
    wanted = quantization(known, "AUTO-1M", Path("f"), user, None)
    assert wanted.quant.name == "Q4_K_M"
    assert wanted.types.overrides == (("blk.*.attn_v", "Q8_0"), ("blk.0.attn_q.weight", "Q4_K"))
    assert wanted.types.embedding == "Q6_K" and wanted.types.output is None
    assert quantization(known, "Q5_0", Path("f"), MIXTURE, None) == Quantization(
        Path("f"), quant_type("Q5_0")
    )


def test_the_certificate_says_what_was_asked_for_and_fails_a_file_that_is_larger() -> None:
    choice = {"chosen": "AUTO-1M", "reason": "the nearest", "tried": [{}, {}], "limit": 1_000_000}
    (finding,) = size_finding(record(999_999, auto=choice))
    assert finding.status == "pass" and finding.file == "bob-AUTO-1M.gguf"
    assert "999,999 bytes of 1,000,000" in finding.summary and "2 files were measured" in finding.summary
    assert [one.status for one in size_finding(record(1_000_001, auto=choice))] == ["fail"]
    without = {key: value for key, value in choice.items() if key != "limit"}
    assert list(size_finding(record(1, auto=without))) == list(size_finding(record(1))) == []


def test_a_file_that_came_out_larger_than_reckoned_is_no_result() -> None:
    check_size("AUTO-1M", 10, 10)
    with pytest.raises(PipelineError, match="AUTO-1M has 11 bytes, and 10 are allowed"):
        check_size("AUTO-1M", 11, 10)


def test_it_is_said_where_costs_are_not_those_of_the_models_own_answers() -> None:
    found = MeasuredSensitivity(tokens=900, tensors=16, change=1.5, reason="")
    assert estimate_note(found, 16) == ""
    assert estimate_note(found, 18) == "of 2 of 18 matrices only the rounding errors themselves are known"
    unknown = replace(
        found, tokens=0, tensors=0, reason="transformers has no model class for the base (deci)"
    )
    note = estimate_note(unknown, 18)
    assert note.startswith("of all matrices only the rounding errors") and note.endswith("the base (deci))")
