"""An evaluation of a tiny model: its losses are PEFT's, its files are whole, wrong input is one line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import pipeline
from common.files import sha256
from pipeline.data.dataset import encode_row, read_data, split_rows
from pipeline.data.options import DataOptions
from pipeline.errors import InputError, PipelineError
from pipeline.evaluation import evaluate as module
from pipeline.evaluation.config import PAGE, RESULTS, EvaluateConfig, Evaluation
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.gguf_files import GgufModel
from pipeline.evaluation.statistics import compare_in_memory
from tests.pipeline.evaluation.conftest import ROWS
from tests.pipeline.tiny import make_adapter, make_base, merged_by_peft, resized

pytestmark = pytest.mark.slow


def config(base: Path, data: Path, out: Path, /, **options: Any) -> EvaluateConfig:
    return EvaluateConfig(
        **{"data": data, "out": out, "base": str(base), "max_tokens": 4, "threads": 1, **options}
    )


def expected(model: Any, base: Path, data: Path) -> list[float]:
    """Return the mean cross entropy of each row, as transformers itself computes it."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    losses = []
    for row in read_data(data):
        example = encode_row(tokenizer, row, 1000)
        ids, labels = torch.tensor([example.input_ids]), torch.tensor([example.labels])
        with torch.no_grad():
            losses.append(float(model.eval()(input_ids=ids, labels=labels).loss))
    return losses


def means(evaluation: Evaluation, name: str) -> list[float]:
    return [row.nats / row.tokens for row in evaluation.model(name).losses]


@pytest.fixture(scope="module")
def found(
    tiny_base: Path, tiny_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Evaluation, Path]:
    folder = tmp_path_factory.mktemp("found")
    data = folder / "held.jsonl"
    data.write_text("".join(f"{json.dumps(row)}\n" for row in ROWS), encoding="utf-8")
    options = DataOptions(field="source")
    wanted = config(
        tiny_base, data, folder / "report", adapters=(str(tiny_adapter),), data_options=options, questions=2
    )
    return pipeline.evaluate(wanted), data


def test_the_losses_are_those_of_transformers_and_peft(
    found: tuple[Evaluation, Path], tiny_base: Path, tiny_adapter: Path
) -> None:
    evaluation, data = found
    base = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    assert means(evaluation, "base") == pytest.approx(expected(base, tiny_base, data), rel=1e-5)
    tuned = PeftModel.from_pretrained(base, str(tiny_adapter))  # not merged
    assert means(evaluation, "tuned") == pytest.approx(expected(tuned, tiny_base, data), rel=1e-4)


def test_the_table_compares_row_by_row_and_by_category(found: tuple[Evaluation, Path]) -> None:
    base, tuned = found[0].models
    assert (base.kind, tuned.kind, base.paired) == ("base", "tuned", None)
    summary = compare_in_memory(base.losses, tuned.losses)
    assert tuned.paired is not None and tuned.summary is not None
    assert tuned.paired.better == summary["paired"]["better"]
    assert tuned.summary.loss == summary["tuned"]["loss"]
    assert list(tuned.categories) == ["books", "code"]
    assert tuned.categories["code"].summary.rows == 3
    assert tuned.categories["code"].paired is not None
    assert base.categories["code"].paired is None


def test_the_answers_are_transformers_greedy_ones(
    found: tuple[Evaluation, Path], tiny_base: Path, tiny_adapter: Path
) -> None:
    evaluation, _ = found
    assert [answer.question for answer in evaluation.answers] == ["Question 0?", "Question 1?"]
    assert evaluation.answers[1].wanted == "Aye, 1!"
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_base), merged_by_peft(tiny_base, tiny_adapter)
    prompt = "<|im_start|>user\nQuestion 1?<|im_end|>\n<|im_start|>assistant\n"
    ids = tokenizer(prompt, return_tensors="pt", add_special_tokens=False).input_ids
    whole = model.generate(ids, do_sample=False, max_new_tokens=4, pad_token_id=1)
    wanted = tokenizer.decode(whole[0, ids.shape[1] :], skip_special_tokens=True).strip()
    assert evaluation.answers[1].answers["tuned"] == wanted


def test_results_have_every_row_and_no_path(found: tuple[Evaluation, Path], tiny_base: Path) -> None:
    evaluation, data = found
    text = (evaluation.folder / RESULTS).read_text("utf-8")
    content = json.loads(text)
    assert content["inputs"]["data_sha256"] == sha256(data)
    assert content["inputs"]["base"] == "tiny-llama"
    assert content["inputs"]["adapters"] == ["adapter"]
    assert content["rows"]["categories"] == ["books", "code"] * 3
    assert [model["name"] for model in content["models"]] == ["base", "tuned"]
    nats = content["models"][1]["nats"]
    assert sum(nats) / sum(content["rows"]["tokens"]) == pytest.approx(content["models"][1]["loss"])
    page = evaluation.page.read_text("utf-8")
    assert "By source" in page and "Question 1?" in page
    for private in (str(tiny_base.parent), str(data.parent)):
        assert private not in text and private not in page


def test_a_whole_checkpoint_is_evaluated_with_and_without_its_base(
    tiny_base: Path, tiny_adapter: Path, data: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    merged_by_peft(tiny_base, tiny_adapter).save_pretrained(whole)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(whole)
    alone = evaluate(config(tiny_base, data, tmp_path / "a", base=None, model=str(whole), questions=0))
    assert [(model.name, model.paired) for model in alone.models] == [("tuned", None)]
    both = evaluate(config(tiny_base, data, tmp_path / "b", model=str(whole), questions=0))
    assert both.model("tuned").paired is not None
    assert means(both, "tuned") == pytest.approx(means(alone, "tuned"))
    tuned = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
    assert means(both, "tuned") == pytest.approx(expected(tuned, tiny_base, data), rel=1e-5)


def test_an_adapter_trained_in_4_bits_is_applied_to_the_rounded_base(
    tiny_base: Path, tiny_adapter: Path, data: Path, tmp_path: Path
) -> None:
    adapter = shutil.copytree(tiny_adapter, tmp_path / "adapter")
    (adapter / "training.json").write_text(
        json.dumps({"options": {"qlora": {"quant_type": "nf4", "double_quant": True, "dtype": "float32"}}})
    )
    found = evaluate(config(tiny_base, data, tmp_path / "a", adapters=(str(adapter),), questions=0))
    assert [model.name for model in found.models] == ["base (NF4)", "tuned"]
    plain = evaluate(config(tiny_base, data, tmp_path / "b", adapters=(str(tiny_adapter),), questions=0))
    given = evaluate(
        config(tiny_base, data, tmp_path / "c", adapters=(str(tiny_adapter),), questions=0, qlora_base="nf4")
    )
    assert means(found, "tuned") == means(given, "tuned")
    for rounded, exact in (("base (NF4)", "base"), ("tuned", "tuned")):
        differences = [
            abs(one - other) for one, other in zip(means(found, rounded), means(plain, exact), strict=True)
        ]
        assert 1e-4 < max(differences) < 1


def test_resized_embeddings_are_evaluated(bases: Callable[..., Path], tmp_path: Path) -> None:
    base = bases()
    adapter = resized(base, tmp_path / "adapter", 328)
    shutil.copytree(base, tmp_path / "base")
    AutoTokenizer.from_pretrained(base)
    rows = tmp_path / "held.jsonl"
    rows.write_text(json.dumps(ROWS[0]) + "\n")
    (tmp_path / "base" / "tokenizer.model").unlink()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "base" / name).unlink(missing_ok=True)
    from tests.pipeline.chatml import byte_tokenizer

    byte_tokenizer().save_pretrained(tmp_path / "base")
    found = evaluate(config(tmp_path / "base", rows, tmp_path / "out", adapters=(str(adapter),), questions=0))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(328, mean_resizing=False)
    tuned = PeftModel.from_pretrained(model, str(adapter))
    assert means(found, "tuned") == pytest.approx(expected(tuned, tmp_path / "base", rows), rel=1e-4)


def test_the_data_of_the_training_is_measured_on_its_held_out_part(
    tiny_base: Path, tiny_adapter: Path, data: Path, tmp_path: Path
) -> None:
    adapter = shutil.copytree(tiny_adapter, tmp_path / "adapter")
    options = {"data_sha256": sha256(data), "held_out": 0.34, "seed": 7}
    (adapter / "training.json").write_text(json.dumps({"options": options}))
    found = evaluate(config(tiny_base, data, tmp_path / "out", adapters=(str(adapter),), questions=9))
    held = split_rows(read_data(data), 0.34, 7)[1]
    assert found.rows == len(held) == 2
    assert [answer.question for answer in found.answers] == [row.turns[0].content for row in held]  # type: ignore[union-attr]
    assert list(found.notes) == [
        "the data is the adapter's own: only the 2 rows that were held out are measured"
    ]
    (adapter / "training.json").write_text(json.dumps({"options": {**options, "held_out": 0}}))
    again = config(tiny_base, data, tmp_path / "all", adapters=(str(adapter),), questions=0)
    rows, notes = module.held_out_part(read_data(data), again, {**options, "held_out": 0})
    assert len(rows) == 6 and "trained on these very rows" in notes[0]
    for changed in ({"valid": "other.jsonl"}, {"data_options": {"columns": "question=q,answer=a"}}):
        rows, notes = module.held_out_part(read_data(data), again, {**options, **changed})
        assert len(rows) == 6 and "trained on these very rows" in notes[0], "none of them was held out"


def test_plain_texts_are_measured_whole(
    tiny_base: Path, tiny_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.data.dataset import PlainText

    texts = [PlainText(f"A text, number {n}.", n, "texts.jsonl", None) for n in range(1, 4)]
    monkeypatch.setattr(module, "read_data", lambda *_: texts)
    wanted = config(tiny_base, tmp_path / "t.jsonl", tmp_path / "out", adapters=(str(tiny_adapter),))
    found = evaluate(wanted)
    # its bytes but the first, and the end of the text
    assert [row.tokens for row in found.model("tuned").losses] == [len("A text, number 1.")] * 3
    assert found.answers == ()
    assert "plain texts ask nothing" in found.notes[0]


def test_long_rows_are_cut_and_those_without_an_answer_left_out(
    tiny_base: Path, data: Path, tmp_path: Path
) -> None:
    long = {"messages": [{"role": "user", "content": "x" * 90}, {"role": "assistant", "content": "y"}]}
    more = {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y" * 90}]}
    data.write_text("".join(f"{json.dumps(row)}\n" for row in (*ROWS[:2], long, more)))
    found = evaluate(config(tiny_base, data, tmp_path / "out", max_length=64, questions=0))
    assert (found.rows, found.cut, found.left_out) == (3, 1, 1)
    assert [note.partition(" ")[0] for note in found.notes] == ["1", "1"]
    assert found.model("base").losses[2].tokens < 64


def test_an_evaluation_that_is_there_is_not_replaced(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    (tmp_path / RESULTS).write_text("mine")
    with pytest.raises(InputError, match=r"has an evaluation already: .*--force"):
        config(tiny_base, data, tmp_path)
    evaluate(config(tiny_base, data, tmp_path, force=True, questions=0))
    assert json.loads((tmp_path / RESULTS).read_text())["format"] == 1
    assert (tmp_path / PAGE).is_file()


Broken = Callable[[Path, Path, Path], dict[str, Any]]


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


WRONG: dict[str, tuple[Broken, str]] = {
    "no data": (lambda b, d, t: {"data": t / "none.jsonl"}, r"none\.jsonl does not exist"),
    "no answer": (
        lambda b, d, t: {
            "data": _write(t / "q.jsonl", '{"messages": [{"role": "user", "content": "Hi"}]}\n')
        },
        r"q\.jsonl, line 1",
    ),
    "all cut": (lambda b, d, t: {"max_length": 5}, "--max-length 5 cuts off every answer"),
    "no base": (lambda b, d, t: {"base": str(t / "none")}, "none"),
    "another base": (
        lambda b, d, t: {"adapters": (str(make_adapter(t / "other", make_base(t / "b"))),)},
        "made for another base|does not fit the base",
    ),
    "no gguf": (lambda b, d, t: {"gguf": (t / "none.gguf",)}, r"--gguf .*none\.gguf does not exist"),
    "not a gguf": (lambda b, d, t: {"gguf": (_write(t / "x.gguf", "text"),)}, "is not a GGUF file"),
    "an empty folder": (lambda b, d, t: {"gguf": (t,)}, "there is no model in GGUF in this folder"),
    "a damaged gguf": (
        lambda b, d, t: {"gguf": (_write(t / "x.gguf", "GGUF\3\0\0\0rest"),)},
        r"x\.gguf cannot be read \(.*\): export it again",
    ),
    "no questions": (
        lambda b, d, t: {"questions": t / "none.txt"},
        r"--questions .*none\.txt does not exist",
    ),
    "empty questions": (
        lambda b, d, t: {"questions": _write(t / "q.txt", "\n \n")},
        r"q\.txt is empty: write one question a line",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_refused_before_anything_is_loaded(
    name: str, tiny_base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(_: Any) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("pipeline.evaluation.models.TorchModel.load", load)
    change, message = WRONG[name]
    options = change(tiny_base, data, tmp_path)
    with pytest.raises(InputError, match=message) as caught:
        evaluate(config(tiny_base, data, tmp_path / "out", **options))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"base": None}, "there is no model: give --base BASE"),
        ({"base": None, "adapters": ("a",), "model": "m"}, "--adapter needs --base"),
        ({"adapters": ("a",), "model": "m"}, "are both the tuned model"),
        ({"adapters": ("a=0",)}, "--adapter 'a=0' has no use"),
        ({"qlora_base": "nf4"}, "--qlora-base needs --adapter"),
        ({"adapters": ("a",), "qlora_base": "int8"}, "--qlora-base 'int8' is unknown: use nf4"),
        ({"base": " "}, "--base is empty"),
        ({"questions": -1}, "--questions -1 is no number of rows"),
        ({"max_tokens": 0}, "--max-tokens 0 is too few"),
        ({"max_length": 1}, "--max-length 1 is too few"),
        ({"threads": 0}, "--threads 0 is too few"),
        ({"out": Path("/proc/none")}, "--out '/proc/none' cannot be written"),
        ({"train_on": "first"}, "--train-on 'first' is unknown: use last or all"),
    ],
)
def test_wrong_options_are_one_line(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        config(Path("b"), tmp_path / "d.jsonl", tmp_path / "out", **options)


def test_weights_that_are_no_numbers_are_told(tiny_base: Path, data: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(tiny_base, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PipelineError, match="the loss of the base model is no number"):
        evaluate(config(broken, data, tmp_path / "out", questions=0))
    assert not (tmp_path / "out").exists()


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"two have the name x\.gguf"):
        module._reject_same_names([GgufModel(tmp_path / name / "x.gguf") for name in "ab"])
