"""Data sets in folders and on the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest

from pipeline.data.dataset import read_chats, read_data
from pipeline.data.reader import DataOptions, load_data
from pipeline.errors import InputError
from tests.pipeline.data.chats import bob, chat, user
from tests.pipeline.data.seed_rows import dolly, english_quotes, write_rows

QA = [{"question": "Hi", "answer": "Yo"}, {"question": "And?", "answer": "No."}]
CHATS = [chat(user(row["question"]), bob(row["answer"])).turns for row in QA]


def contents(spec: str | Path, **options: str) -> list[Any]:
    return [row.content for row in read_data(spec, DataOptions(**options))]


def test_what_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    one = datasets.Dataset.from_list(QA)
    one.save_to_disk(tmp_path / "one")
    datasets.DatasetDict(train=one, test=one.select([1])).save_to_disk(tmp_path / "two")
    datasets.DatasetDict(a=one, b=one).save_to_disk(tmp_path / "other")
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == CHATS
    assert contents(tmp_path / "two", split="test") == CHATS[1:]
    assert load_data(tmp_path / "two").rows[1].where == f"{tmp_path / 'two' / 'train'}, row 2"
    for folder, split, message in (
        ("one", "train", "has no splits: leave --split train out"),
        ("two", "tests", "has no split 'tests': use test"),
        ("other", None, "has the splits a, b: choose one with --split"),
    ):
        with pytest.raises(InputError, match=message):
            read_data(tmp_path / folder, DataOptions(split=split))
    (tmp_path / "one" / "data-00000-of-00001.arrow").write_bytes(b"\xff" * 40)
    with pytest.raises(InputError, match="arrow is damaged or missing"):
        read_data(tmp_path / "one")


def test_a_folder_laid_out_as_on_the_hub_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "repository"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# Questions\n")
    write_rows(folder / "data" / "train-00000-of-00001.parquet", QA)
    write_rows(folder / "data" / "test-00000-of-00001.parquet", QA[1:])
    assert contents(folder) == CHATS
    assert contents(folder, split="test") == CHATS[1:]
    assert contents(folder, split="train[:1]") == CHATS[:1]
    with pytest.raises(InputError, match=r"cannot load \(.*dev.*name a file in it, such as data/test-"):
        read_data(folder, DataOptions(split="dev"))


def test_the_only_file_of_a_folder_is_read(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.csv").write_text("question;answer\nHi;Yo\n")
    assert contents(tmp_path) == CHATS[:1]


@pytest.mark.parametrize("files", [["README.md"], []])
def test_a_folder_without_data_is_refused(tmp_path: Path, files: list[str]) -> None:
    for file in files:
        (tmp_path / file).touch()
    with pytest.raises(InputError, match="cannot be read: it is a folder without data: name a file"):
        read_chats(tmp_path)


def test_a_name_on_the_hub_is_loaded_by_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load(*names: Any, split: str | None, revision: str | None) -> Any:
        asked.append((*names, split, revision))
        found = datasets.DatasetDict(train=datasets.Dataset.from_list(dolly(20)))
        return found if split is None else found[split]

    monkeypatch.setattr(datasets, "load_dataset", load)
    rows = read_data("databricks/databricks-dolly-15k", DataOptions(field="category", revision="bdd27f4"))
    assert rows[1].where == "databricks/databricks-dolly-15k, row 2"
    assert [row.category for row in rows[:2]] == ["open_qa", "closed_qa"]
    assert len(read_data("owner/name:subset", DataOptions(split="train"))) == 20
    assert asked == [
        ("databricks/databricks-dolly-15k", None, None, "bdd27f4"),
        ("owner/name", "subset", "train", None),
    ]


def test_a_failure_of_the_hub_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_names: Any, **_options: Any) -> Any:
        raise ValueError("Config name is missing.\nPlease pick one among the available configs: ['a', 'b']")

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(InputError) as caught:
        read_data("owner/name")
    assert "the data set 'owner/name': the library datasets cannot load it (Config name is missing." in str(
        caught.value
    )
    assert "'a', 'b'" in str(caught.value) and "\n" not in str(caught.value)


def test_a_path_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner").mkdir()
    write_rows(tmp_path / "owner" / "x.jsonl", english_quotes(2)).rename("owner/name")
    assert len(read_data("owner/name", DataOptions(text="{quote}"))) == 2
    for spec in ("owner/other", "data/train.jsonl", "data/train.json.gz", "x.csv", "a/b/c"):
        with pytest.raises(InputError, match=f"the data set {spec} does not exist: give a file"):
            read_data(spec)
    for spec, message in (
        ("https://hub.example/datasets/a/b-c", "is a link: give the data set's name on the Hub, a/b-c"),
        ("http://example.org/x.csv", "is a link: give the file itself, downloaded"),
    ):
        with pytest.raises(InputError, match=message):
            read_data(spec)
    with pytest.raises(InputError, match="--revision is for a data set on the Hub, and owner/name is here"):
        read_data("owner/name", DataOptions(revision="main", text="{quote}"))
    with pytest.raises(InputError, match="is a file, which has no splits: leave --split out"):
        read_data("owner/name", DataOptions(split="train", text="{quote}"))
