from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from common.certificate import NAME, REASONS, Certificate, Finding, Status
from common.design import TOKENS
from common.paths import embedded_gguf
from pipeline.manifest import Output, Record
from pipeline.report.write import remove_report, write_report
from ui.models.files import choose_with_reason

pytestmark = pytest.mark.slow

HOSTILE = '<img src=x onerror=alert(1)> | "Hi" & `this`\n# not a heading'


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(embedded_gguf(), tmp_path / "bob-Q4_K_M.gguf")
    return tmp_path


def record(*types: str) -> Record:
    outputs = [
        Output(f"bob-{kind}.gguf", kind, 90_000_000 + n, 4.9, 1.0, "ab" * 32, 0)
        for n, kind in enumerate(types)
    ]
    adapter = {"source": "you/pirate<script>", "revision": "c0ffee", "kind": "LoRA", "rank": 8, "weight": 0.5}
    inputs = {"base": {"source": "base", "files": {}, "model": "some/base"}, "adapters": [adapter]}
    return Record("f", inputs=inputs, versions={"python": "3.11"}, outputs={o.file: o for o in outputs})


def certificate(of: Record) -> Certificate:
    found = []
    for place, file in enumerate(of.outputs):
        kl = 0.02 + 0.2 * place
        worst = [{"prompt": HOSTILE, "mean_kl": 2 * kl}]
        figures = {"mean_kl": kl, "agreement": 0.9, "perplexity_ratio": 1.1, "worst": worst}
        kept = {"value": 0.98 - kl, "low": 0.97 - kl, "high": 0.99 - kl, "change": 0.5, "doubt": ""}
        status, cause = ("warn", "Rows of 576.") if place else ("pass", "")
        found += [
            Finding("quantization", status, f"{file} differs.", figures, "A reason.", cause, file),
            Finding("survival", "pass", f"{file} keeps it.", {"kept": kept, "gain": None}, file=file),
            Finding(
                "speed", "pass", "Fast.", {"prefill": 900.0, "decode": 150.0 - place, "memory": 0}, file=file
            ),
        ]
    return Certificate.of(found, dict.fromkeys(of.outputs, "ab" * 32), {}, {})


class Tags(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_page_is_whole_in_itself_and_shows_strangers_words_as_words(folder: Path) -> None:
    made = record("Q4_K_M", "Q5_K_M")
    assert set(write_report(folder, "bob", made, certificate(made)).names) == {
        "report.html",
        "README.md",
        "chart.svg",
        "Modelfile",
    }
    page = (folder / "report.html").read_text()
    tags = Tags(page).found
    assert not {"script", "img", "link", "iframe"} & {tag for tag, _ in tags}
    assert not any(name.startswith("on") or name == "src" for _, attributes in tags for name in attributes)
    assert "&lt;img src=x onerror" in page
    assert page.count('<span class="status warn">warn</span>') == 2  # the file's, and the finding's
    assert TOKENS.read_text() in page  # the pages' colours, in light and dark
    assert "Rows of 576." in page and "@import" not in page and "url(http" not in page
    assert '<span class="name">speed:</span> Fast.' in page
    assert page.count("<svg") == 4 and page.count('<span class="unit">tokens/s</span>') == 2


def test_a_percent_of_speed_looks_like_one(folder: Path) -> None:
    """150 and 149 tokens/s are plotted next to each other, as the axis starts at zero."""
    made = record("Q4_K_M", "Q5_K_M")
    write_report(folder, "bob", made, certificate(made))
    sheet = (folder / "chart.svg").read_text()
    assert sheet.count("<svg") == 5 and sheet.count(">Written tokens/s, here</text>") == 2
    for speed in sheet.split("<svg")[3::2]:  # the second and the fourth of the four
        ticks = re.findall(r"<text class='middle'[^>]*>(\d+)</text>", speed)
        first, second = (float(x) for x in re.findall(r"<circle cx='([\d.]+)'", speed))
        assert ticks[0] == "0" and 0 < abs(first - second) < 4  # of 360


def test_the_card_is_for_the_hub(folder: Path) -> None:
    made = record("Q4_K_M", "Q5_K_M")
    write_report(folder, "bob", made, certificate(made))
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    values = dict(line.split(": ", 1) for line in head.splitlines())
    assert json.loads(values["base_model"]) == "some/base"
    assert "- base model: base (some/base)\n" in body
    assert "| [bob-Q4_K_M.gguf](bob-Q4_K_M.gguf) | 90 MB | 0.960 (0.950 to 0.970) | 0.0200 | 90.0% |" in body
    assert "\n# not a heading" not in body and "\\<img src=x" in body
    assert "- adapter: you/pirate\\<script\\> at c0ffee, LoRA of rank 8, weight 0.5" in body
    assert "python app.py bob-Q4_K_M.gguf" in body  # the smallest that passed


def test_card_modelfile_and_app_take_the_same_file_for_the_same_reason(folder: Path) -> None:
    shutil.copy(folder / "bob-Q4_K_M.gguf", folder / "bob-Q8_0.gguf")
    made = record("Q4_K_M", "Q8_0")
    statuses: list[tuple[Status, Status]] = [("fail", "pass"), ("warn", "pass"), ("fail", "warn")]
    for found in statuses:
        findings = [
            Finding("quality", status, "", file=file)
            for file, status in zip(made.outputs, found, strict=True)
        ]
        checked = Certificate.of(findings, dict.fromkeys(made.outputs, "ab" * 32), {}, {})
        write_report(folder, "bob", made, checked)
        (folder / NAME).write_text(json.dumps(checked.to_json()))
        file, reason = choose_with_reason(folder)
        assert (file.name, reason) == ("bob-Q8_0.gguf", found[1])
        lines = (folder / "Modelfile").read_text().splitlines()
        assert lines[0] == "FROM ./bob-Q8_0.gguf"
        assert lines[-1] == f"# bob-Q8_0.gguf: {REASONS[found[1]]}."
        card = (folder / "README.md").read_text()
        assert f"`bob-Q8_0.gguf`: {REASONS[found[1]]}." in card and "app.py bob-Q8_0.gguf" in card
        assert f"<code>bob-Q8_0.gguf</code>: {REASONS[found[1]]}." in (folder / "report.html").read_text()


def test_a_readme_of_the_users_own_is_left_alone(folder: Path) -> None:
    (folder / "README.md").write_text("mine")
    made = record("Q4_K_M")
    written = write_report(folder, "bob", made, certificate(made))
    assert (folder / "README.md").read_text() == "mine"
    assert "README.md" not in written.names and "README.md is your own" in written.notes[0]
    (folder / "README.md").unlink()
    write_report(folder, "bob", made, certificate(made))
    assert "README.md" in write_report(folder, "bob", made, certificate(made)).names  # ours is replaced


def test_without_a_modelfile_nobody_is_told_to_use_one(tmp_path: Path) -> None:
    (tmp_path / "bob-Q4_K_M.gguf").write_bytes(b"GGUF")
    written = write_report(tmp_path, "bob", record("Q4_K_M"), None)
    assert "Modelfile" not in written.names and "no Modelfile is written" in written.notes[0]
    assert not any("ollama" in (tmp_path / name).read_text() for name in ("report.html", "README.md"))


def test_without_a_certificate_nothing_is_claimed(folder: Path) -> None:
    (folder / "chart.svg").write_text("of an earlier report")
    names = write_report(folder, "bob", record("Q4_K_M"), None).names
    assert "chart.svg" not in names and not (folder / "chart.svg").exists()
    assert "Nothing was checked." in (folder / "report.html").read_text()


def test_a_report_of_other_files_goes_and_what_is_the_users_own_stays(tmp_path: Path) -> None:
    for card, left in {"made_with: gguf-chat": set(), "mine": {"README.md"}}.items():
        for file in ("report.html", "chart.svg", "Modelfile", "README.md"):
            (tmp_path / file).write_text(card)
        remove_report(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} == left


def test_it_tells_how_the_type_was_chosen_and_what_was_calibrated_on(folder: Path) -> None:
    made = record("Q4_K_M")
    trial = {"type": "Q3_K_M", "size": 94e6, "survival": None, "low": None, "high": None, "mean_kl": 0.2}
    trials = [trial | {"decode": 99.0}, trial | {"decode": 90.0, "survival": 0.96, "low": 0.95, "high": 0.97}]
    made.options["auto"] = {"chosen": "Q4_K_M", "reason": "the smallest that keeps enough", "tried": trials}
    made.inputs["importance"] = {"calibrate": "my_chats.jsonl", "sha256": "ef" * 32}
    write_report(folder, "bob", made, None)
    card, page = ((folder / file).read_text() for file in ("README.md", "report.html"))
    assert "| Q3_K_M | 94 MB | – | 0.2000 | 99 tokens/s |" in card
    assert "- importance matrix: my\\_chats.jsonl, sha256 efef" in card
    assert "0.960 (0.950 to 0.970)" in page and "Q4_K_M: the smallest that keeps enough." in page


def test_shards_are_one_file_for_ollama_alone(folder: Path) -> None:
    first, second = (f"bob-Q4_K_M-0000{number}-of-00002.gguf" for number in (1, 2))
    (folder / "bob-Q4_K_M.gguf").rename(folder / first)
    (folder / second).write_bytes((folder / first).read_bytes()[:4])  # only the magic is read
    made = record("Q4_K_M")
    output = made.outputs.pop("bob-Q4_K_M.gguf")
    made.outputs |= {file: replace(output, file=file) for file in (first, second)}
    write_report(folder, "bob", made, None)
    assert (folder / "Modelfile").read_text().startswith("FROM ./bob-Q4_K_M.gguf\n")
    card = (folder / "README.md").read_text()
    assert f"| [{first}]({first}) and 1 more | 180 MB |" in card
    assert f"llama-gguf-split --merge {first} bob-Q4_K_M.gguf  # Ollama takes one file\nollama" in card


def test_the_modelfile_is_the_real_models(folder: Path) -> None:
    write_report(folder, "bob", record("Q4_K_M"), None)
    lines = (folder / "Modelfile").read_text().splitlines()
    assert lines[0] == "FROM ./bob-Q4_K_M.gguf"
    assert "\nollama create bob -f Modelfile" in (folder / "README.md").read_text()
    assert "<|im_end|>\\n<|im_start|>assistant\\n" in lines[1]
    assert lines[2] == 'PARAMETER stop "<|im_end|>"'


def test_what_was_tried_for_a_size_is_a_table_and_charts(folder: Path) -> None:
    made = record("Q4_K_M")
    tried = {"survival": 0.9, "low": 0.8, "high": 0.95, "prefill": 9.0, "decode": 5.0}
    trials = [
        {"type": "IQ4_XS", "size": 91_000_000, "mean_kl": 0.2152, **tried},
        {"type": "AUTO-98M", "size": 98_000_000, "mean_kl": 0.0603, **tried},
    ]
    choice = {"chosen": "AUTO-98M", "reason": "the nearest", "tried": trials, "note": HOSTILE}
    made.options["auto"] = {**choice, "limit": 98_000_000}
    write_report(folder, "bob", made, None)
    page = (folder / "report.html").read_text()
    assert "Up to 98,000,000 bytes were allowed." in page and "&lt;img src=x onerror" in page
    assert "<td>AUTO-98M</td>" in page and ">0.0603</td>" in page
    assert page.count("<svg") == 2  # survival and KL by size; no file was measured for other charts
    del made.options["auto"]
    write_report(folder, "bob", made, None)
    assert "<svg" not in (folder / "report.html").read_text()
