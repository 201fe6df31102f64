"""Files of each kind: read, or named with the way to make one that is read."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import zipfile
from pathlib import Path

import pytest

from pipeline.data.dataset import read_chats
from pipeline.data.reader import load_data
from pipeline.errors import InputError
from tests.pipeline.data.chats import bob, chat, user
from tests.pipeline.data.seed_rows import write_rows


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"messages": [\n', "line 1: this is not JSON"),
        (b"\n\n\xff\xfe{}\n", "line 3: this is not UTF-8"),
        (b"[" * 100_000, "line 1: this is not JSON"),
        (b'{"a":' * 100_000, "line 1: this is not JSON"),
        (b'\xef\xbb\xbf [{"messages": []},\n{"messages": []}]', 'row 1: there is no list "messages"'),
        (b'[{"messages": []},\n{"messages": []}', "line 1: this is not JSON .*line 2 column 17"),
        (b'{\n "messages": [\n}', "line 1: this is not JSON .*line 3 column 1"),
        (b'{"messages": []},\n', "line 1: a comma ends the line: leave it out"),
        (b" \n\n", "is empty"),
        (
            b"question,answer\nHi,Yo\n",
            "line 1: this is not JSON .*; if it is a table, call the file .csv or .tsv",
        ),
    ],
)
def test_files_that_are_no_jsonl(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_chats(path)


def _zip(*names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train.parquet", b"PAR1\x15\x04", "train.parquet is damaged Parquet .*: fetch it again"),
        ("train.jsonl", b"PAR1\x15\x04", "train.jsonl is damaged Parquet"),
        (
            "x.arrow",
            b"ARROW1\0\0",
            r"is Arrow, not JSON, CSV .*Dataset.from_file\('x.arrow'\).to_json\('x.jsonl'\)",
        ),
        ("x.arrow", b"\xff\xff\xff\xff\x10\0\0\0", "is Arrow"),
        ("x.jsonl.gz", gzip.compress(b"{}" * 99, mtime=0)[:-9], "is a damaged gzip file .*: fetch it again"),
        ("x.jsonl.gz", gzip.compress(b"{}", mtime=0), r"x.jsonl.gz, line 1: there is no list \"messages\""),
        ("my x.bz2", bz2.compress(b"{}"), "is bzip2, .*`bzcat 'my x.bz2' > 'my x.jsonl'` does"),
        ("x.xz", lzma.compress(b"{}"), "is xz, .*`xzcat x.xz > x.jsonl`"),
        ("x.zst", b"\x28\xb5\x2f\xfd\0", "is zstd, .*`zstdcat"),
        ("x.zip", _zip("x.jsonl"), "is zip, .*`unzip -p x.zip > x.jsonl`"),
        ("x.xlsx", _zip("xl/workbook.xml"), r"is Excel, .*pandas.read_excel\('x.xlsx'\)"),
        ("x.pt", _zip("x/data.pkl"), "is a pickle, not JSON, CSV or Parquet: a pickle can run code"),
        ("x.pkl", pickle.dumps([1]), "is a pickle, not JSON, CSV or Parquet: .*pandas.read_pickle"),
        ("x.db", b"SQLite format 3\0", "is SQLite, not JSON, CSV or Parquet: write one"),
        ("x.pdf", b"%PDF-1.7", "is PDF, not JSON, CSV or Parquet"),
        (
            "x.jsonl",
            b"version https://git-lfs.github.com/spec/v1\noid",
            "a Git LFS pointer, .*`git lfs pull`",
        ),
        ("x.jsonl", b"\n<!DOCTYPE html><html>", "is HTML, not JSON, CSV or Parquet: it is a web page"),
        (
            "x.jsonl",
            '{"messages"'.encode("utf-16"),
            "is UTF-16, not JSON, CSV or Parquet: .*`iconv -f UTF-16 -t UTF-8",
        ),
        ("x.csv", '{"a"'.encode("utf-16"), "is UTF-16, .*`iconv -f UTF-16 -t UTF-8 x.csv > utf8-x.csv`"),
        (
            "x.csv",
            b"question,answer\nHi,caf\xe9\n",
            "not UTF-8 text: .*`iconv -f WINDOWS-1252 -t UTF-8 x.csv >",
        ),
        (
            "x.csv",
            b"question,answer\nHi,Yo,there\n",
            "x.csv, row 2: 3 cells where the first row names 2 columns",
        ),
        ("x.csv", b"question,question\nHi,Yo\n", "row 1: the column 'question' is there twice"),
        ("x.csv", b'question,answer\nHi,"Yo\n', "line 2: this is no valid CSV"),
        ("x.csv", b"question,answer\n", "is empty: write rows below the names"),
        ("x.csv", b"question,answer\nHi,\n", "x.csv, row 2, message 2: the assistant's content is empty"),
        (
            "x.csv",
            b"Hi,Yo\nAnd,So\n",
            "row 2: .*in the keys 'Hi', 'Yo': name what it has with --columns question=Hi,answer=Yo, or"
            ".*; a table's first row names its columns$",
        ),
    ],
)
def test_files_of_other_kinds_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_chats(path)


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        read_chats(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="cannot be read"):
        read_chats(tmp_path)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.tsv", "x.parquet", "x.ndjson"])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_the_same_rows_are_read_from_each_kind(tmp_path: Path, name: str, packed: str) -> None:
    rows = [{"question": "Why,\nwhy?", "answer": 'So "it"\tis: é'}, {"question": "And?", "answer": "No."}]
    found = load_data(write_rows(tmp_path / f"{name}{packed}", rows))
    assert [row.content for row in found.rows] == [
        chat(user(row["question"]), bob(row["answer"])).turns for row in rows
    ]
    assert found.forms == {"question and answer": 2}
    first = {".csv": "row 2", ".tsv": "row 2", ".json": "row 1", ".parquet": "row 1"}.get(name[1:], "line 1")
    assert found.rows[0].where == f"{tmp_path / name}{packed}, {first}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.json", '{"data": [{"question": "Hi", "answer": "Yo"}]}'),
        ("x.json", '{\n "version": "1.0",\n "rows": [{"question": "Hi", "answer": "Yo"}]}'),
        ("x.json", '[\n{"question": "Hi", "answer": "Yo"}\n]\n'),
        ("x.json", '{\n"question": "Hi",\n"answer": "Yo"}'),
        ("x.json", '{"question": "Hi",\n"answer": "Yo"}'),
        ("x.json", '{"question": "Hi", "answer": "Yo"}\n'),
        ("x.json", '{"question": {"0": "Hi"}, "answer": {"0": "Yo"}}'),
        ("x.json", '{"question": ["Hi"], "answer": ["Yo"], "n": [1]}'),
        ("x.json", '{"prompt": [{"role": "user", "content": "Hi"}], "completion": "Yo"}'),
        ("x.csv", "\ufeffquestion;answer\r\nHi;Yo\r\n;\r\n"),
        ("x.csv", "Question |Answer\nHi|Yo\n"),
        ("x.csv", "id,question,answer,lang\n1,Hi,Yo\n"),
        ("x.CSV", "answer,question\nYo,Hi\n"),
    ],
)
def test_other_ways_to_write_a_row(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode())
    (found,) = read_chats(path)
    assert found.messages() == [user("Hi"), bob("Yo")]


def test_rows_of_one_file_are_counted_on_over_batches(tmp_path: Path) -> None:
    rows = [{"question": f"Question {number}", "answer": "Aye"} for number in range(2500)]
    found = read_chats(write_rows(tmp_path / "x.parquet", rows))
    assert [row.line for row in found] == list(range(1, 2501))
    assert found[2047].turns[0].content == "Question 2047"
