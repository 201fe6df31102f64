"""Reading a certificate, inspecting a GGUF, and the page of both in a real browser."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from playwright.sync_api import Page, expect

from common.certificate import NAME, Certificate, Finding, load_certificate
from common.errors import InputError
from common.scatter import Axis, Point, scale_of, scatter
from engine.serving.model_pool import ModelPool
from ggufio.errors import GgufError
from ggufio.ggml import Floats, ggml_type_named, quantize
from tests.ui.conftest import FakeSite, becomes
from tests.ui.fake_backend import FakeBackend
from tests.ui.pages.test_look import violations
from ui.i18n.words import ENGLISH, Translator
from ui.models.catalog import Catalog
from ui.models.files import catalog_entry, embedded_gguf
from ui.models.registry import Models
from ui.pages.inspect.client import Inspector
from ui.pages.inspect.tensor_sample import measure_tensor, read_contents, unrounded_beside
from ui.pages.inspect.view import tensor_facts, tensor_tables
from ui.pages.quality.view import (
    CHECKS,
    FileFigures,
    advice,
    charts,
    file_figures,
    findings,
    tried_charts,
    verdict,
)
from ui.render.tables import short_number

HOSTILE = "<img src=x onerror='window.hacked=1'>"
NUMBER = ENGLISH.number
KEPT = {"value": 0.97, "low": 0.96, "high": 0.98, "doubt": ""}


def finding(name: str, status: str, file: str = "", **figures: object) -> dict[str, Any]:
    texts = {"summary": f"{name} {HOSTILE}", "threshold": "Enough.", "cause": HOSTILE}
    return {"name": name, "status": status, "file": file, "figures": figures, **texts}


def read_certificate(model: Path) -> Certificate | None:
    """The certificate beside a model, as the page reads it."""
    return load_certificate(model.with_name(NAME), strict=False)


def certificate(file: str, sha256: str) -> dict[str, Any]:
    worst = [{"prompt": HOSTILE}, "no prompt"]
    return {
        "format": 1,
        "status": "warn",
        "files": [{"file": file, "status": "warn", "sha256": sha256}],
        "findings": [
            finding("tokenizer.text", "pass"),
            finding("quantization", "warn", file, mean_kl=0.06, agreement="much", worst=worst),
            finding("survival", "pass", file, kept=KEPT),
            finding("quantization", "fail", "other.gguf", mean_kl=9),
        ],
        "versions": {},
        "inputs": {},
    }


def test_a_certificate_is_read_with_the_gravest_first(tmp_path: Path) -> None:
    model = tmp_path / "bob-Q4_1.gguf"
    assert read_certificate(model) is None
    (tmp_path / NAME).write_text(json.dumps(certificate(model.name, "ab" * 32)))
    found = read_certificate(model)
    assert found is not None
    about = found.about(model.name)
    assert [one.name for one in about] == ["quantization", "tokenizer.text", "survival"]
    figures = file_figures(found, tmp_path)[0]
    assert (figures.label, figures.kl, figures.survival, figures.agreement) == ("Q4_1", 0.06, 0.97, None)
    assert "<img" not in findings(about, ENGLISH)
    assert "very file" in verdict(model.name, found, {model.name: "ab" * 32}, ENGLISH)
    assert "changed" in verdict(model.name, found, {model.name: "cd" * 32}, ENGLISH)
    assert "about others" in verdict("eve.gguf", found, {}, ENGLISH)


def test_a_model_in_several_files_is_one_row_and_every_file_of_it_counts(tmp_path: Path) -> None:
    content = certificate("bob-Q4_1.gguf", "ab" * 32)
    files = [f"bob-Q4_1-0000{n}-of-00002.gguf" for n in (1, 2)]
    content["files"] = [{"file": file, "status": "warn", "sha256": file} for file in files]
    for file in (*files, NAME):
        (tmp_path / file).write_text(json.dumps(content) if file == NAME else "12345")
    found = read_certificate(tmp_path / files[0])
    assert found is not None
    assert [one.name for one in found.about(files[0])] == ["quantization", "tokenizer.text", "survival"]
    (figures,) = file_figures(found, tmp_path)
    assert (figures.name, figures.label, figures.size, figures.kl) == ("bob-Q4_1.gguf", "Q4_1", 10, 0.06)
    assert "very file" in verdict(files[0], found, {file: file for file in files}, ENGLISH)
    assert "changed" in verdict(files[0], found, {files[0]: files[0], files[1]: "cd"}, ENGLISH)


def test_the_file_to_take_is_named_with_the_reason(tmp_path: Path) -> None:
    content = certificate("bob-Q4_1.gguf", "ab" * 32)
    (tmp_path / NAME).write_text(json.dumps(content))
    found = read_certificate(tmp_path / "bob-Q4_1.gguf")
    assert found is not None
    assert advice(found, tmp_path, ENGLISH) == ""
    (tmp_path / "bob-Q4_1.gguf").write_text("12345")
    assert "take bob-Q4_1.gguf: none passed without a warning" in advice(found, tmp_path, ENGLISH)
    assert "Nehmen Sie von diesen Dateien bob-Q4_1.gguf" in advice(found, tmp_path, Translator("de"))


def test_every_finding_of_the_exports_certificate_has_a_heading_in_each_language(root: Path) -> None:
    sources = (path.read_text("utf-8") for path in (root / "pipeline/certificate/checks").glob("*.py"))
    names = set(re.findall(r'Finding\(\s*"([a-z_.]+)"', "".join(sources)))
    ours = {*CHECKS, *(f"{area}.{part}" for area, parts in CHECKS.items() for part in parts)}
    assert len(names) > 12 and names <= ours
    odd = Finding("weights.colour", "pass", "")
    assert "Gewichte</h3>" in findings([odd], Translator("de"))
    assert "Tokenizer: Sondertokens</h3>" in findings(
        [replace(odd, name="tokenizer.added")], Translator("de")
    )
    assert "ours &lt;b&gt;</h3>" in findings([replace(odd, name="ours <b>")], Translator("zh"))


@pytest.mark.parametrize(
    "content",
    [
        "", "[" * 100_000, "[]", '"x"', '{"format": 2}', '{"format": 1}',
        '{"format": 1, "files": 3, "findings": [], "versions": {}}',
        '{"format": 1, "files": [3], "findings": [], "versions": {}}',
        '{"format": 1, "files": [], "findings": [], "versions": []}',
        json.dumps(certificate("a", "b")).replace('"warn"', '"great"'),
    ],
)  # fmt: skip
def test_what_is_no_certificate_is_an_error_of_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / NAME).write_text(content)
    with pytest.raises(InputError, match=rf"^{NAME} [^\n]*$"):
        read_certificate(tmp_path / "bob.gguf")


def test_a_scatter_keeps_its_names_apart_and_inside() -> None:
    points = [Point(f"Q4_K_{n}", 100 + n / 10, 95 + n / 5, (94, 97)) for n in range(4)]
    points.append(Point("<b>", 299, 99.9, chosen=True))
    drawn = scatter(points, Axis("x"), Axis("y", 100, 95), "", NUMBER)
    names = re.findall(r"<text class='(name(?: end)?)' x='([\d.]+)' y='([\d.]+)'>([^<]+)<", drawn)
    assert [name for *_, name in names] == ["Q4_K_0", "Q4_K_1", "Q4_K_2", "Q4_K_3", "&lt;b&gt;"]
    sides = {kind: [float(y) for one, _, y, _ in names[:4] if one == kind] for kind in ("name", "name end")}
    assert all(abs(a - b) > 12 for ys in sides.values() for a, b in itertools.combinations(ys, 2))
    assert names[-1][0] == "name end"  # otherwise it would overflow
    assert drawn.count("class='interval'") == 4 and drawn.count("class='point chosen'") == 1
    assert [text for text in (">94<", ">100<", "class='limit'") if text not in drawn] == []


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0, 0.24], [0, 0.05, 0.1, 0.15, 0.2, 0.25]),
        ([105.4, 105.4], [100, 150]),
        ([0.0], [0, 0.2]),
        ([90.000001, 90.000002], [90, 90.2]),
    ],
)
def test_scales_are_of_round_numbers(values: list[float], ticks: list[float]) -> None:
    assert scale_of(values, 0, 100).ticks == pytest.approx(ticks)


def test_figures_that_no_file_can_have_are_not_drawn() -> None:
    good = FileFigures("a-Q4_0.gguf", "pass", 10**8, 0.9, (0.8, 0.95), 0.1, None, None, 100.0)
    wild = [replace(good, kl=1e300, survival=-1e300, decode=0.0), replace(good, size=None, decode=None)]
    assert charts(wild, "", ENGLISH) == "" and charts([good, *wild], good.name, ENGLISH).count("<circle") == 4
    assert "interval'" not in charts([replace(good, interval=(2, -1e9))], "", ENGLISH)


def write_gguf(path: Path, kind: str, values: Floats) -> None:
    """Write a GGUF with one tensor, after the format's specification."""
    found = ggml_type_named(kind)
    data = values.tobytes() if kind == "F32" else quantize(found, values)
    name = b"blk.0.attn_q.weight"
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, 0) + struct.pack("<Q", len(name)) + name
    head += struct.pack("<IQQIQ", 2, values.shape[1], values.shape[0], found.number, 0)
    path.write_bytes(head + bytes(-len(head) % 32) + data)


def test_a_tensor_is_held_against_the_file_in_full_precision_beside_it(tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(0, 1, (8, 96)).astype(np.float32)
    model = tmp_path / "bob-Q4_0.gguf"
    write_gguf(model, "Q4_0", values)
    without_reference = measure_tensor(model, "blk.0.attn_q.weight")
    assert without_reference.reference == "" and unrounded_beside(model) is None
    again = next(one.result for one in without_reference.roundings if one.type == "Q4_0")
    # Rounding rounded values again changes little.
    assert again is not None and again.relative is not None and again.relative < 1e-3
    write_gguf(tmp_path / "bob-F32.gguf", "F32", values)
    write_gguf(tmp_path / "eve-F32.gguf", "F32", values)
    seen = measure_tensor(model, "blk.0.attn_q.weight")
    assert seen.reference == "bob-F32.gguf"
    assert (seen.low, seen.high) == (float(values.min()), float(values.max()))
    own, *others = seen.roundings
    assert own.type == "Q4_0" and own.result is not None and own.result.relative is not None
    assert 0.05 < own.result.relative < 0.15
    assert own.result.blocks is not None and own.result.blocks.codes == 16
    for number, block in enumerate(own.result.blocks.first):
        assert block.before == values.ravel()[32 * number :][:32].tolist()
        assert block.step is not None and block.minimum is not None and block.zero == 8
        codes = (np.array(block.after) - block.minimum) / block.step
        assert np.abs(codes - codes.round()).max() < 1e-4 and codes.round().min() >= 0 and codes.max() < 15.5
    assert {one.type: one.result for one in others}["Q4_K"] is None  # rows of 96, not a multiple of 256
    (tmp_path / "bob-F32.gguf").write_bytes(b"GGUF")
    assert measure_tensor(model, "blk.0.attn_q.weight").reference == ""
    with pytest.raises(GgufError, match="no tensor"):
        measure_tensor(model, "blk.9")


def test_numbers_of_any_size_have_a_short_form() -> None:
    shown = {0.00001234: "1.23e-05", 0.012345: "0.0123", 999.4: "999", 1234.5: "1,234", -54321.0: "-54,321"}
    assert {value: short_number(value, ENGLISH) for value in shown} == shown
    assert short_number(1234.5, Translator("de")) == "1.234" and short_number(1e300, ENGLISH) == "1.00e+300"
    for exponent in range(-320, 308):
        assert float(short_number(float(f"9.996e{exponent}"), ENGLISH).replace(",", "")) > 0


def test_the_demos_own_tensors_are_shown_with_every_type() -> None:
    """All of its vectors, which have numbers above 1,000, and the matrices of some layers."""
    model = embedded_gguf()
    found = read_contents(model)
    names = [one.name for one in found.tensors if len(one.shape) == 1 or one.name.startswith("blk.7.")]
    assert len(names) > 60
    for name in names:
        seen = measure_tensor(model, name)
        assert name in tensor_facts(seen, ENGLISH)
        for kind in ("", *(one.type for one in seen.roundings)):
            assert "table" in tensor_tables(seen, kind, ENGLISH)


def test_a_strangers_file_is_read_in_a_worker_that_may_die(tmp_path: Path) -> None:
    values = np.random.default_rng(3).normal(0, 1, (8, 96)).astype(np.float32)
    model = tmp_path / "bob-F32.gguf"
    write_gguf(model, "F32", values)
    inspector = Inspector()
    assert [one.name for one in inspector.contents(model).tensors] == ["blk.0.attn_q.weight"]
    worker = inspector._worker
    assert worker is not None
    worker._process.kill()
    with pytest.raises(GgufError, match=r"^bob-F32.gguf cannot be inspected: it ends the process"):
        inspector.tensor(model, "blk.0.attn_q.weight")
    assert inspector.tensor(model, "blk.0.attn_q.weight").high == float(values.max())
    inspector.close()
    assert worker._process.poll() is not None and inspector._worker is None
    assert (
        inspector.tensor(model, "blk.0.attn_q.weight").of_rows == 8 and inspector._worker is None
    )  # remembered
    write_gguf(model, "F32", values[:4])
    assert inspector.tensor(model, "blk.0.attn_q.weight").of_rows == 4
    inspector.close()


@pytest.fixture
def site(fake_site: Callable[[Models], FakeSite], tmp_path: Path) -> FakeSite:
    """Start a page with two real files, one with a certificate; no model is loaded from them."""
    with_one, without = tmp_path / "one" / "bob-Q4_1.gguf", tmp_path / "two" / "eve-Q4_1.gguf"
    for path in (with_one, without):
        path.parent.mkdir()
        path.symlink_to(embedded_gguf())
    sha256 = hashlib.sha256(with_one.read_bytes()).hexdigest()
    with_one.with_name(NAME).write_text(json.dumps(certificate(with_one.name, sha256)))
    catalog = Catalog([catalog_entry(with_one), catalog_entry(without)])
    return fake_site(Models(catalog, ModelPool(lambda *_: FakeBackend(), catalog.keys(), "bob-Q4_1")))


def test_the_page_shows_the_certificate_and_looks_into_the_file(
    open_page: Callable[..., Page], site: FakeSite
) -> None:
    page = open_page(site.url)
    page.locator("#open-quality").click()
    expect(page.locator(".verdict")).to_contain_text("something to know", timeout=30_000)
    expect(page.locator("#quality-verdict")).to_contain_text("very file")
    expect(page.locator(".finding").first).to_contain_text(HOSTILE)
    expect(page.get_by_role("img", name="KL, nats a token, by Size, MB")).to_be_visible()
    expect(page.locator("#quality-files td").nth(3)).to_have_text("97.0 % (96.0 to 98.0)")
    becomes(lambda: violations(page), [])
    page.get_by_role("tab", name="Inspect").click()
    expect(page.locator("#inspect-facts")).to_contain_text("blk.0.attn_q.weight · Q4_1 · 576 × 576")
    block = page.locator("#inspect-block")
    told = block.locator(".block-told")
    expect(block.locator("circle.before")).to_have_count(32)
    stored = told.inner_text()
    block.get_by_role("button", name="Least error").click()
    least = float(told.inner_text().split("error ")[1].split()[0])
    block.get_by_role("slider").fill("0.3")
    expect(told).to_contain_text("cut off")
    assert float(told.inner_text().split("error ")[1].split()[0]) > 2 * least
    block.get_by_role("button", name="As Q4_0 has it").click()
    expect(told).to_have_text(stored)
    block.get_by_role("button", name="Block after").click()
    expect(block).to_contain_text("Block 2 of 10")
    page.get_by_role("radio", name="Q8_0").check()
    expect(block.locator("h2")).to_contain_text("Q8_0")
    expect(block).to_contain_text("Block 1 of 10")
    expect(page.locator("#inspect-tables h2").nth(1)).to_contain_text("Q8_0")
    expect(page.locator("#inspect-tables")).to_contain_text("multiple of 256")
    page.locator("#inspect-tensor input").click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("blk.7.ffn_down")
    page.get_by_role("option", name="blk.7.ffn_down.weight").click()
    expect(page.locator("#inspect-facts")).to_contain_text("blk.7.ffn_down.weight")
    expect(page.get_by_role("radio", name="Q6_K")).to_be_visible()
    expect(page.get_by_role("radio", name="Q8_0")).to_be_checked()
    page.wait_for_function("!document.querySelector('.pending')")  # pale while it is being recomputed
    page.wait_for_timeout(300)  # it fades in
    becomes(lambda: violations(page), [])
    page.locator("#quality-model input").click()
    page.get_by_role("option", name="eve").click()
    expect(page.locator("#quality-verdict")).to_contain_text("certify eve-Q4_1.gguf")
    assert page.evaluate("window.hacked") is None
    page.set_viewport_size({"width": 390, "height": 844})
    becomes(lambda: page.evaluate("document.scrollingElement.scrollWidth > 390"), wanted=False)


def tried(kind: object, size: object, kl: object, **more: object) -> dict[str, object]:
    return {"type": kind, "size": size, "mean_kl": kl, "survival": 0.9, "low": 0.8, "high": 0.95, **more}


def test_what_was_tried_for_a_size_is_drawn_with_the_chosen_one_highlighted(tmp_path: Path) -> None:
    model = tmp_path / "bob-AUTO-98M.gguf"
    trials = [tried("IQ4_XS", 91_000_000, 0.21), tried("AUTO-98M", 98_000_000, 0.06)]
    content = certificate(model.name, "0" * 64)
    assert tried_charts(load(model, content), ENGLISH) == ""
    content["findings"].append(finding("size", "pass", model.name, tried=trials, limit=98_000_000))
    drawn = tried_charts(load(model, content), ENGLISH)
    assert drawn.count("<svg") == 2  # survival and KL
    assert drawn.count("IQ4_XS") >= 2 and drawn.count("AUTO-98M") >= 2
    assert drawn.count("point chosen") == drawn.count("AUTO-98M<") == 2


@pytest.mark.parametrize(
    "trials",
    [None, "many", [1, None, []], [tried(HOSTILE, True, "x")], [tried([], 10**400, -(10**400))], [{}] * 999],
)
def test_a_strangers_trials_are_drawn_as_far_as_they_are_numbers(tmp_path: Path, trials: object) -> None:
    model = tmp_path / "bob-AUTO-98M.gguf"
    content = certificate(model.name, "0" * 64)
    content["findings"].append(finding("size", "pass", model.name, tried=trials))
    assert tried_charts(load(model, content), ENGLISH) == ""
    named = [tried(HOSTILE, 1_000_000, 0.2), tried(HOSTILE, 2_000_000, 0.1)]
    content["findings"][-1]["figures"]["tried"] = named
    assert "<img" not in tried_charts(load(model, content), ENGLISH)


def load(model: Path, content: dict[str, Any]) -> Certificate:
    model.with_name(NAME).write_text(json.dumps(content))
    found = read_certificate(model)
    assert found is not None
    return found
