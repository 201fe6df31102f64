import json
from pathlib import Path

import pytest

from engine.errors import ModelError
from ui.gguf_choice import choose_gguf, embedded_gguf, is_embedded


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
    ],
)
def test_a_folders_most_sensible_file_is_taken(tmp_path: Path, names: list[str], best: str) -> None:
    assert choose_gguf(touch(tmp_path / "m", *names)).name == best


def test_a_file_that_the_manifest_does_not_list_is_unfinished(tmp_path: Path) -> None:
    folder = touch(tmp_path / "m", "m-Q4_K_M.gguf", "m-Q5_K_M.gguf")
    (folder / "manifest.json").write_text(
        json.dumps({"outputs": [{"file": "m-Q5_K_M.gguf", "sha256": "00"}]})
    )
    assert choose_gguf(folder).name == "m-Q5_K_M.gguf"


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
