"""Which GGUF file a path, folder or Hub name resolves to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.certificate import Certificate, Finding
from engine.errors import ModelError
from tests.ggufio.test_summary import F16, Q4_K, Q8_0, write
from ui.models.catalog import default_entry, make_catalog
from ui.models.files import adapters_in, choose_gguf, embedded_gguf, is_embedded, models_in


def touch(folder: Path, *names: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"GGUF")
    return folder


@pytest.mark.parametrize(
    ("names", "best"),
    [
        (["m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q5_K_M.gguf"], "m-Q4_K_M.gguf"),
        (["m-f16.gguf", "m-Q5_K_M.gguf"], "m-Q5_K_M.gguf"),
        (["m.Q4_0.gguf", "mmproj-m.gguf", "imatrix.gguf"], "m.Q4_0.gguf"),
        (["big-Q6_K-00002-of-00002.gguf", "big-Q6_K-00001-of-00002.gguf"], "big-Q6_K-00001-of-00002.gguf"),
        (["whatever.gguf"], "whatever.gguf"),
        (["Llama-BF16.gguf", "Llama-UD-Q4_K_XL.gguf"], "Llama-UD-Q4_K_XL.gguf"),
        (["gemma-F16.gguf", "gemma-Q4_K_L.gguf"], "gemma-Q4_K_L.gguf"),
        (["o-F16.gguf", "o-MXFP4_MOE.gguf", "o-Q2_K.gguf", "o-Q3_K_S.gguf"], "o-MXFP4_MOE.gguf"),
        (["model_F16.gguf", "model_Q4_K_M.gguf"], "model_Q4_K_M.gguf"),
        (["m-F32.gguf", "m-Q3_K_S.gguf"], "m-Q3_K_S.gguf"),
        (["m.fp16.gguf", "m.IQ4_XS.gguf"], "m.IQ4_XS.gguf"),
        (["m-bf16.gguf", "m-TQ1_0.gguf"], "m-TQ1_0.gguf"),
        (["m-F16.gguf", "m-Q9_Z_NEW.gguf"], "m-Q9_Z_NEW.gguf"),
        (["m-F16.gguf", "m.gguf"], "m.gguf"),
        (["Q4-trial-F16.gguf", "Q4-trial-Q8_0.gguf"], "Q4-trial-Q8_0.gguf"),
    ],
)
def test_a_folders_most_sensible_file_is_taken(tmp_path: Path, names: list[str], best: str) -> None:
    assert choose_gguf(touch(tmp_path / "m", *names)).name == best


def test_the_files_themselves_say_what_they_are(tmp_path: Path) -> None:
    write(tmp_path / "a-Q4_K_M.gguf", weights=F16, general__file_type=1)
    write(tmp_path / "b-F16.gguf", weights=Q8_0, general__file_type=7)
    write(tmp_path / "c-Q4_K_M.gguf", general__type="adapter")
    write(tmp_path / "d-Q4_K_M.gguf", general__type="mmproj")
    write(tmp_path / "e-Q4_K_M.gguf", general__type="imatrix")
    write(tmp_path / "f-Q4_K_M.gguf", weights=None)
    write(tmp_path / "g-Q4_K_M.gguf", "bert", weights=Q4_K, general__file_type=15)
    assert choose_gguf(tmp_path).name == "b-F16.gguf"
    assert [path.name[0] for path in models_in(tmp_path)] == ["a", "b", "g"]
    assert [path.name[0] for path in adapters_in(tmp_path)] == ["c"]
    assert default_entry(tmp_path / "b-F16.gguf").label == "b-F16 · Q8_0 · 1 MB"


def test_a_folder_of_other_files_names_one(tmp_path: Path) -> None:
    write(tmp_path / "model.gguf", general__type="mmproj")
    with pytest.raises(
        ModelError, match=r"holds no GGUF model: model\.gguf is the image or audio encoder of"
    ):
        choose_gguf(tmp_path)


def test_an_existing_path_goes_before_any_syntax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("a:Q4", "user/repo", "x::y", "n=m"):
        (tmp_path / folder).mkdir(parents=True)
        touch(tmp_path / folder, "m.gguf")
        assert default_entry(Path(folder)).source == f"{folder}/m.gguf"
    touch(tmp_path, "one=two.gguf", "p::q.gguf")
    catalog = make_catalog(default_entry(Path("a:Q4")), ["one=two.gguf", "p::q.gguf", "n=m"])
    assert [Path(str(catalog.file(key))).name for key in catalog.keys()] == [  # noqa: SIM118
        *("m.gguf", "one=two.gguf", "p::q.gguf", "m.gguf")
    ]


def test_any_shard_names_the_whole_and_a_missing_one_is_named(tmp_path: Path) -> None:
    folder = touch(tmp_path / "m", *(f"m-Q8_0-0000{number}-of-00003.gguf" for number in (1, 2, 3)))
    first = folder / "m-Q8_0-00001-of-00003.gguf"
    assert choose_gguf(folder / "m-Q8_0-00003-of-00003.gguf") == choose_gguf(folder) == first
    (folder / "m-Q8_0-00002-of-00003.gguf").unlink()
    for model in (folder, first):
        with pytest.raises(ModelError, match=r"one of 3 files and m-Q8_0-00002-of-00003\.gguf is missing"):
            choose_gguf(model)


def test_a_file_that_the_manifest_does_not_list_is_unfinished(tmp_path: Path) -> None:
    folder = touch(tmp_path / "m", "m-Q4_K_M.gguf", "m-Q5_K_M.gguf")
    (folder / "manifest.json").write_text(
        json.dumps({"outputs": [{"file": "m-Q5_K_M.gguf", "sha256": "00"}]})
    )
    assert choose_gguf(folder).name == "m-Q5_K_M.gguf"


def test_a_file_whose_certificate_failed_is_not_taken(tmp_path: Path) -> None:
    folder = touch(tmp_path / "m", "m-Q4_K_M.gguf", "m-Q5_K_M.gguf", "m-Q8_0.gguf")
    found = [Finding("quality", "fail", "Do not use.", file="m-Q4_K_M.gguf")]
    certificate = Certificate.of(found, dict.fromkeys(("m-Q4_K_M.gguf", "m-Q8_0.gguf"), "ab"), {}, {})
    findings = [Finding("quality", "pass", "Good.", file="m-Q8_0.gguf"), *found]
    for findings_now, best in ((found, "m-Q5_K_M.gguf"), (findings, "m-Q8_0.gguf")):
        certificate = Certificate.of(findings_now, certificate.hashes, {}, {})
        (folder / "certificate.json").write_text(json.dumps(certificate.to_json()))
        assert choose_gguf(folder).name == best
    entry = default_entry(folder)
    assert entry.loading == ("Loading m · Q8_0 · 1 MB (the smallest file that passed every check) ...")
    assert default_entry(folder / "m-Q4_K_M.gguf").loading == "Loading m · Q4_K_M · 1 MB ..."


def test_a_broken_certificate_is_named(tmp_path: Path) -> None:
    folder = touch(tmp_path / "m", "m-Q4_K_M.gguf")
    (folder / "certificate.json").write_text("[" * 100_000)
    with pytest.raises(ModelError, match=r"certificate\.json cannot be read .*name the \.gguf file itself$"):
        choose_gguf(folder)
    assert choose_gguf(folder / "m-Q4_K_M.gguf").name == "m-Q4_K_M.gguf"


def test_a_broken_manifest_is_named(tmp_path: Path) -> None:
    folder = touch(tmp_path / "m", "m-Q4_K_M.gguf")
    (folder / "manifest.json").write_text("{")
    with pytest.raises(ModelError, match=r"manifest\.json"):
        choose_gguf(folder)


def test_a_folder_without_a_model_says_where_models_are(tmp_path: Path) -> None:
    touch(tmp_path / "inner", "m.gguf")
    with pytest.raises(ModelError, match="inner"):
        choose_gguf(tmp_path)


def test_a_missing_path_is_named() -> None:
    with pytest.raises(ModelError, match=r"nowhere\.gguf"):
        choose_gguf(Path("nowhere.gguf"))


def test_without_a_name_the_embedded_model_answers() -> None:
    assert choose_gguf(None) == embedded_gguf()
    assert is_embedded(embedded_gguf())
    assert not is_embedded(Path("models/m.gguf"))


def test_a_hub_name_that_cannot_be_had_is_named() -> None:
    with pytest.raises(ModelError, match=r"'nobody/nothing'.*Hub cannot be reached"):
        choose_gguf(Path("nobody/nothing"))
    with pytest.raises(ModelError, match=r"'nobody/nothing/m-Q4_0\.gguf'.*Hub cannot be reached"):
        choose_gguf(Path("nobody/nothing/m-Q4_0.gguf"))


def test_a_hub_file_cannot_leave_its_repository() -> None:
    with pytest.raises(ModelError, match="outside of its repository"):
        choose_gguf(Path("nobody/nothing/../../x.gguf"))


def test_a_hub_file_in_the_cache_needs_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    snapshot = tmp_path / "models--you--bob" / "snapshots" / "0123456789012345678901234567890123456789"
    touch(tmp_path / "models--you--bob")
    snapshot.mkdir(parents=True)
    touch(snapshot, "bob-Q4_K_M.gguf")
    refs = tmp_path / "models--you--bob" / "refs"
    refs.mkdir()
    (refs / "main").write_text(snapshot.name)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert choose_gguf(Path("you/bob/bob-Q4_K_M.gguf")) == snapshot / "bob-Q4_K_M.gguf"


def test_a_mistyped_local_path_is_not_sought_on_the_hub() -> None:
    with pytest.raises(ModelError, match="'tests/nothing' does not exist"):
        choose_gguf(Path("tests/nothing"))
