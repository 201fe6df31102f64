"""One schema of certificate.json: strict for an export's own file, lenient for a stranger's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from common.certificate import NAME, Certificate, Finding, Status, load_certificate, recommended
from common.errors import InputError

FINDING = Finding("quality", "warn", "Good.", {"n": 1, "kept": {"low": 0.5}}, file="x.gguf")
MADE = Certificate.of((FINDING,), {"x.gguf": "ab", "y.gguf": "cd"}, {"python": "3"}, {"depth": "fast"})


def load(folder: Path, content: object, *, strict: bool) -> Certificate | None:
    (folder / NAME).write_text(json.dumps(content))
    return load_certificate(folder / NAME, strict=strict)


def with_unknown_keys() -> dict[str, Any]:
    content = json.loads(json.dumps(MADE.to_json()))
    content["findings"][0]["colour"] = content["files"][0]["colour"] = content["colour"] = "red"
    return dict(content)


def test_what_was_written_is_read_by_both(tmp_path: Path) -> None:
    assert load_certificate(tmp_path / NAME) is None
    assert list(MADE.to_json()) == ["format", "status", "files", "findings", "versions", "inputs"]
    for strict in (True, False):
        assert load(tmp_path, MADE.to_json(), strict=strict) == MADE
    assert [(file.file, file.status) for file in MADE.files] == [("x.gguf", "warn"), ("y.gguf", "skipped")]


def test_unknown_keys_are_refused_by_name_or_ignored(tmp_path: Path) -> None:
    assert load(tmp_path, with_unknown_keys(), strict=False) == MADE
    with pytest.raises(InputError, match=r"^certificate\.json is no whole certificate \(files\.0\.colour: "):
        load(tmp_path, with_unknown_keys(), strict=True)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2, "files": 3}, "is no certificate of this version"),
        ({"status": "great"}, r"is no whole certificate \(status: .*'skipped'\)"),
        ({"files": [{"file": "x.gguf"}]}, r"is no whole certificate \(files\.0\.status: Field required\)"),
        ({"versions": {"a\nb": 3}}, r"is no whole certificate \(versions\.a b: .* string\)"),
        (
            {"findings": [{"name": "a", "status": "pass", "summary": "", "figures": []}]},
            r"\(findings\.0\.fig",
        ),
    ],
)
def test_what_is_broken_is_named_in_one_line(
    tmp_path: Path, change: dict[str, Any], message: str, *, strict: bool
) -> None:
    with pytest.raises(InputError, match=message) as raised:
        load(tmp_path, MADE.to_json() | change, strict=strict)
    assert len(str(raised.value).splitlines()) == 1 and str(tmp_path) not in str(raised.value)


def test_a_file_of_any_size_is_not_read_whole(tmp_path: Path) -> None:
    with (tmp_path / NAME).open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(InputError, match="is larger than any certificate"):
        load_certificate(tmp_path / NAME, strict=False)


def test_only_finite_numbers_are_figures() -> None:
    odd = Finding("a", "pass", "", {"huge": 10**400, "nan": float("nan"), "true": True, "text": "1"})
    assert [odd.figure(name) for name in (*odd.figures, "missing")] == [None] * 5
    assert FINDING.figure("kept", "low") == 0.5 and FINDING.figure("n", "low") is None


def test_the_schema_is_imported_without_pydantic(python: str, root: Path) -> None:
    code = "import sys, common.certificate; sys.exit('pydantic' in sys.modules)"
    assert subprocess.run([python, "-c", code], cwd=root, check=False).returncode == 0


def judged(**files: tuple[Status, float]) -> Certificate:
    """Return a certificate with the status and KL of each file by its type."""
    found = [
        Finding("quantization", status, "", {"mean_kl": kl}, file=f"m-{kind}.gguf")
        for kind, (status, kl) in files.items()
    ]
    return Certificate.of(found, dict.fromkeys((one.file for one in found), "ab"), {}, {})


SIZES = {"m-Q4_K_M.gguf": 4, "m-Q5_K_M.gguf": 5, "m-Q8_0.gguf": 8, "m-Q2_K.gguf": 2}


@pytest.mark.parametrize(
    ("certificate", "best"),
    [
        (None, ("m-Q4_K_M.gguf", "skipped")),
        (judged(Q4_K_M=("fail", 9), Q8_0=("pass", 0.1)), ("m-Q8_0.gguf", "pass")),
        (judged(Q4_K_M=("pass", 0.2), Q5_K_M=("pass", 0.1)), ("m-Q4_K_M.gguf", "pass")),
        (judged(Q4_K_M=("warn", 0.2), Q5_K_M=("pass", 0.3)), ("m-Q5_K_M.gguf", "pass")),
        (
            judged(Q4_K_M=("fail", 0.1), Q5_K_M=("warn", 0.3), Q8_0=("warn", 0.2)),
            ("m-Q8_0.gguf", "warn"),
        ),
        (judged(Q4_K_M=("fail", 1), Q2_K=("fail", 1), Q5_K_M=("fail", 1)), ("m-Q8_0.gguf", "skipped")),
        (
            judged(Q4_K_M=("fail", 3), Q2_K=("fail", 2), Q5_K_M=("fail", 4), Q8_0=("fail", 2.5)),
            ("m-Q2_K.gguf", "fail"),
        ),
    ],
)
def test_the_best_that_passed_is_recommended(certificate: Certificate | None, best: tuple[str, str]) -> None:
    found = recommended(SIZES, certificate)
    assert found is not None
    assert (found.name, found.reason) == best
    assert recommended({}, certificate) is None
