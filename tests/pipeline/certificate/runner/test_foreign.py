"""Wrong inputs of `certify`: a folder, an adapter instead of a model, an adapter that was not given."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest

from common.certificate import Certificate, Finding
from pipeline.certificate.runner.external import ExternalCheck, certify_file, hint_at_adapters
from pipeline.certificate.subject import Subject
from pipeline.errors import InputError
from pipeline.progress import NoProgress
from pipeline.sources.adapter import Adapter
from pipeline.sources.model_source import Source


def test_of_a_folder_its_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder: and there is no GGUF in it"):
        ExternalCheck(tmp_path, "base")
    for name in ("b.gguf", "a.gguf"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r"is a folder: name one of its files, a\.gguf, b\.gguf"):
        ExternalCheck(tmp_path, "base")
    with pytest.raises(InputError, match="does not exist: give a GGUF file"):
        ExternalCheck(tmp_path / "c.gguf", "base")


def test_what_git_checks_out_without_lfs_is_known(tmp_path: Path) -> None:
    (file := tmp_path / "bob.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(InputError, match=r"bob\.gguf is Git LFS's pointer to a file.*git lfs pull"):
        ExternalCheck(file, "base")
    for content in (b"", b"GGU", b"version of something"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"bob\.gguf is not a GGUF file"):
            ExternalCheck(file, "base")


def test_a_reference_without_anything_to_check_against(tmp_path: Path) -> None:
    (file := tmp_path / "bob.gguf").write_bytes(b"GGUF")
    (tmp_path / "reference").mkdir()
    (tmp_path / "reference" / "config.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"reference.* has neither a tokenizer nor weights.*nothing to check"
    ):
        certify_file(ExternalCheck(file, str(tmp_path / "reference")), NoProgress())


def test_an_adapter_alone_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "bob-LoRA-F16.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_type("adapter")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(InputError, match="is a LoRA adapter, no model: give the GGUF of a whole model"):
        ExternalCheck(file, "base")


def test_other_weights_may_be_an_adapter_that_was_not_named() -> None:
    subject = Subject(Path(), Path("bob.gguf"), Path(), 1)
    good, other = (
        Finding("settings.rope", "pass", "Good."),
        Finding("weights.values", "fail", "Bad.", cause="Why."),
    )
    found = hint_at_adapters(subject, Certificate.of((good, other), {}, {}, {}))
    assert found.findings[0] == good
    assert found.findings[1].cause == "Why. If an adapter is merged into the file, name it with --adapter."
    adapter = Adapter(Source("bob", Path("bob"), None), {}, {})
    given = Subject(Path(), Path("bob.gguf"), Path(), 1, adapters=(adapter,))
    assert hint_at_adapters(given, Certificate.of((other,), {}, {}, {})).findings == (other,)
