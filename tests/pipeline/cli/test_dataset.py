"""The command `dataset`: what it prints, what it writes, and one line for what is wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save_file
from typer.testing import CliRunner, Result

from pipeline.cli.dataset import app
from pipeline.cli.dataset_tables import print_row
from pipeline.data.encoding import encode_row
from pipeline.data.reader import read_chats, read_data
from tests.pipeline.chatml import byte_tokenizer
from tests.pipeline.data.seed_rows import dolly, english_quotes, oasst1, openassistant_guanaco, write_rows

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("COLUMNS", "200")

    def command(*words: object) -> Result:
        return CliRunner().invoke(app, [str(word) for word in words])

    return command


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base's folder as far as its tokenizer is concerned."""
    folder = tmp_path_factory.mktemp("base")
    byte_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    save_file({"model.embed_tokens.weight": np.zeros((258, 2), np.float32)}, folder / "model.safetensors")
    return folder


def table(result: Result) -> dict[str, str]:
    """Return the rows of the printed tables."""
    assert result.exit_code == 0, result.output
    cells = [line.split("│")[1:3] for line in result.stdout.splitlines() if line.startswith("│")]
    return {name.strip(): found.strip() for name, found in cells}


def test_inspect_shows_what_is_in_a_file(run: Run, tmp_path: Path) -> None:
    rows = [
        *dolly(8),
        dolly(1)[0],
        {"instruction": "Hi?", "context": "", "response": "Yo </s>", "category": "x"},
    ]
    path = write_rows(tmp_path / "d.csv", rows)
    shown = table(run("inspect", path, "--field", "category"))
    assert shown["form"] == "Dolly 10" and shown["rows"] == "10"
    assert shown["roles"] == "user 10, assistant 10" and shown["answers a chat"] == "1: 10"
    assert shown["copies"] == f"1 ({path}, row 10)"
    assert shown["short answers"] == "none"
    assert shown["special tokens"] == f"</s> 1 ({path}, row 11)"
    assert shown["categories"] == "open_qa 3, closed_qa 2, brainstorming 2, classification 2, x 1"
    assert "tokens" not in shown


def test_inspect_counts_tokens_by_the_base(run: Run, tmp_path: Path, base: Path) -> None:
    chats = [{"question": "Q" * size, "answer": "No"} for size in (1, 2, 3, 40)]
    path = write_rows(tmp_path / "d.jsonl", [*chats, {"question": "<|im_end|>", "answer": "Aye, aye"}])
    result = run("inspect", path, "--base", base, "--max-length", 40, "--json")
    assert result.exit_code == 0, result.output
    (found,) = json.loads(result.stdout)["files"]
    tokens = found["tokens"]
    rest = len("?user\n" + "?\n" + "?assistant\n" + "No" + "?\n")
    assert tokens["lengths"]["median"] == rest + 2.5
    assert tokens["lengths"]["percentile_95"] == tokens["lengths"]["longest"] == rest + 40
    assert tokens["lengths"]["longest_at"] == f"{path}, line 4"
    assert tokens["trained"] == pytest.approx(3 * 4 / tokens["lengths"]["total"])
    assert (tokens["cut"], tokens["dropped"], tokens["refused_rows"]) == (1, 1, 1)
    assert "line 5, message 1: '<|im_end|>' is one of the model's own" in tokens["refused"][0]
    assert found["short_answers"] == 4
    shown = run("inspect", path, "--base", base, "--max-length", 40)
    assert table(shown)["over 40 tokens"] == "1 row cut, 1 left out without an answer"
    assert "<|im_start|>assistant\n[[No<|im_end|>]]" in shown.stdout


def test_inspect_finds_rows_in_two_files(run: Run, tmp_path: Path) -> None:
    train, test = (
        write_rows(tmp_path / "train.json", dolly(8)),
        write_rows(tmp_path / "test.csv", dolly(10)[6:]),
    )
    result = run("inspect", train, test)
    assert f"{test} has 2 rows of {train}\n" in result.stdout
    again = [{**row, "response": "Otherwise."} for row in dolly(10)[5:]]
    result = run("inspect", train, write_rows(tmp_path / "test.csv", again))
    assert f"{test} has 0 rows of {train}, and 3 rows with a question of it\n" in result.stdout
    overlap = json.loads(run("inspect", train, test, "--json").stdout)["overlaps"]
    assert overlap == [{"files": [str(train), str(test)], "rows": 0, "questions": 3}]


def test_inspect_tells_how_many_trees_became_chats(run: Run, tmp_path: Path) -> None:
    result = run("inspect", write_rows(tmp_path / "o.parquet", oasst1()))
    assert (
        "note: 20 messages in 4 trees: the best-ranked path of each, 16 messages in 4 chats" in result.stdout
    )


def test_what_is_trained_on_is_in_colour_on_a_terminal(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    (row, *_) = read_chats(write_rows(tmp_path / "d.jsonl", [{"question": "Hi [red]", "answer": "Yo"}]))
    console = Console(force_terminal=True, color_system="standard", width=80, record=True)
    with console.capture() as capture:
        print_row(console, tokenizer, row, encode_row(tokenizer, row, 99))
    shown = capture.get()
    assert "\x1b[1;32mYo<|im_end|>" in shown and "[[" not in shown and "[red]" in shown


def test_render_shows_text_and_tokens(run: Run, tmp_path: Path, base: Path) -> None:
    path = write_rows(tmp_path / "g.jsonl", openassistant_guanaco())
    whole = json.loads(run("render", path, "--base", base, "--row", 3, "--json").stdout)
    last = json.loads(run("render", path, "--base", base, "--row", 3, "--json", "--train-on", "last").stdout)
    tokenizer = byte_tokenizer()
    assert whole["where"] == f"{path}, line 3" and whole["input_ids"] == last["input_ids"]
    assert tokenizer.decode([one for one in last["labels"] if one != -100]) == "Wait for the sun.<|im_end|>"
    assert "Take your time.<|im_end|>Wait" in tokenizer.decode(
        [one for one in whole["labels"] if one != -100]
    )
    shown = run("render", path, "--base", base, "--row", 3).stdout
    assert "[[Wait for the sun.<|im_end|>]]" in shown
    assert "│   1 │ '<|im_end|>'   │ yes " in shown


def test_render_of_a_plain_text_needs_no_template(run: Run, tmp_path: Path, base: Path) -> None:
    bare = byte_tokenizer()
    bare.chat_template = None
    bare.save_pretrained(tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink(missing_ok=True)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "base" / name).write_bytes((base / name).read_bytes())
    path = write_rows(tmp_path / "q.jsonl", english_quotes())
    result = run("render", path, "--base", tmp_path / "base", "--text", r"Quote: {quote}\nAuthor: {author}")
    assert "Author: Author No. 0<|im_end|>]]" in result.stdout
    chats = write_rows(tmp_path / "d.jsonl", dolly())
    refused = run("render", chats, "--base", tmp_path / "base")
    assert refused.exit_code == 2 and "has no chat template: give one with --chat-template" in refused.stderr
    assert run("render", chats, "--base", tmp_path / "base", "--template", "chatml").exit_code == 0


def test_convert_writes_messages(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    path = write_rows(tmp_path / "d.parquet", dolly())
    result = run("convert", path, "--out", out, "--field", "category")
    assert result.stdout == f"20 rows of {path} -> {out}\n"
    assert [chat.turns for chat in read_chats(out)] == [chat.turns for chat in read_chats(path)]
    assert json.loads(out.read_text().splitlines()[1])["category"] == "closed_qa"
    refused = run("convert", path, "--out", out)
    assert refused.exit_code == 2 and "exists: choose another, or give --force" in refused.stderr
    quotes = write_rows(tmp_path / "q.csv.gz", [{"quote": "Sea", "author": "Bob"}])
    assert run("convert", quotes, "--out", out, "--force", "--text", "{quote}").exit_code == 0
    assert out.read_text() == '{"text": "Sea"}\n'


def test_split_writes_the_parts(run: Run, tmp_path: Path) -> None:
    path, out = write_rows(tmp_path / "d.csv", dolly()), tmp_path / "parts"
    result = run("split", path, "--field", "category", "--ratio", "open_qa=0.5", "--total", 10, "--out", out)
    assert result.exit_code == 0, result.output
    assert f"{out}/train.jsonl: 9 rows (" in result.stdout and "note: 10 rows were not taken" in result.stdout
    counts = json.loads((out / "split.json").read_text())["outputs"]["train.jsonl"]["categories"]
    assert sum(counts.values()) == 9 == len(read_data(out / "train.jsonl"))
    assert counts["open_qa"] in (4, 5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspect", "none.csv"], "the data set none.csv does not exist"),
        (["inspect", "{file}", "{file}"], "is given twice"),
        (["inspect", "{file}", "--template", "chatml"], "--template is of no use without --base"),
        (["inspect", "{file}", "--train-on", "first"], "--train-on 'first' is unknown"),
        (
            ["inspect", "{file}", "--columns", "question=x,answer=y"],
            "names 'x', and the row has only 'instruct",
        ),
        (["convert", "{file}", "--out", "{folder}"], "is a folder: name a file"),
        (["convert", "{file}", "--out", "{folder}/no/x.jsonl"], "does not exist: make it first"),
        (
            ["render", "{file}", "--base", "{base}", "--row", "21"],
            "--row 21 is out of range: {file} has 20 rows",
        ),
        (["render", "{file}", "--base", "{base}", "--template", "zzz"], "'zzz'"),
        (["split", "{file}", "--out", "{folder}"], "exists already"),
        (["split", "{file}", "--out", "{folder}/x", "--ratio", "a=1"], "the rows have no categories"),
        (["split", "{file}", "--out", "{folder}/x", "--field", "categry"], "use 'category'"),
    ],
)
def test_what_is_wrong_is_one_line(
    run: Run, tmp_path: Path, base: Path, words: list[str], message: str
) -> None:
    names: dict[str, Any] = {
        "file": write_rows(tmp_path / "d.jsonl", dolly()),
        "folder": tmp_path,
        "base": base,
    }
    result = run(*(word.format(**names) for word in words))
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ") and message.format(**names) in result.stderr
    assert result.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.jsonl"]
