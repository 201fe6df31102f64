"""The catalog: names, and the models that each user may choose."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from engine.config import EngineConfig
from engine.errors import ModelError
from engine.serving.backend import ModelLoader
from engine.types import ProgressCallback
from tests.ui.fake_backend import FakeBackend
from ui.models.catalog import Catalog, default_entry, make_catalog
from ui.models.files import catalog_entry
from ui.models.registry import models_of


def touch(path: Path, size: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF" + bytes(size - 4))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("F16", "Q4_K_M", "Q5_K_M"):
        touch(tmp_path / "models" / "bob" / f"bob-{name}.gguf", 2_000_000)
    outputs = [{"file": f"bob-{name}.gguf"} for name in ("Q4_K_M", "Q5_K_M")]
    (tmp_path / "models" / "bob" / "manifest.json").write_text(json.dumps({"outputs": outputs}))
    for number in (1, 2):
        touch(tmp_path / "models" / "big" / f"big-Q8_0-0000{number}-of-00002.gguf", 3_000_000)
    touch(tmp_path / "models" / "big" / "matey-lora.gguf", 1_000_000)
    touch(tmp_path / "models" / "cut" / "cut-Q8_0-00001-of-00002.gguf")
    touch(tmp_path / "models" / ".bob.partial" / "half.gguf")
    (touch(tmp_path / "models" / "odd" / "odd.gguf").parent / "manifest.json").write_text("{")
    return tmp_path / "models"


def labels(catalog: Catalog) -> list[str]:
    return [label for label, _ in catalog.choices(own_machine=False)]


def test_a_folder_offers_each_finished_model_once_under_a_tidy_name(folder: Path) -> None:
    first = folder / "bob" / "bob-Q5_K_M.gguf"
    assert labels(make_catalog(catalog_entry(first), [str(folder)])) == [
        "bob · Q5_K_M · 2 MB",
        "big · Q8_0 · 6 MB",
        "big + matey-lora · Q8_0 · 7 MB",
        "bob · Q4_K_M · 2 MB",
    ]


def test_the_owner_names_models_and_two_of_one_name_are_told_apart(folder: Path, tmp_path: Path) -> None:
    other = touch(tmp_path / "bob-Q4_K_M.gguf", 2_000_000)
    first = folder / "bob" / "bob-Q4_K_M.gguf"
    named = [f"Captain={folder / 'bob' / 'bob-Q5_K_M.gguf'}", str(other), str(first), "you/hub/x.gguf"]
    catalog = make_catalog(catalog_entry(first), named)
    assert catalog.keys() == ["bob-Q4_K_M", "Captain", "bob-Q4_K_M (2)", "you/hub/x.gguf"]
    assert labels(catalog)[1:3] == ["Captain · Q5_K_M · 2 MB", "bob · Q4_K_M · 2 MB (2)"]
    shown = str(catalog.choices(own_machine=True))
    assert str(tmp_path) not in shown  # paths of this machine are not shown


def test_a_name_that_the_owner_chose_is_kept_and_so_is_a_second_one(folder: Path) -> None:
    first = folder / "bob" / "bob-Q4_K_M.gguf"
    catalog = make_catalog(catalog_entry(first), [str(folder), f"Bob={first}", f"Rob={first}", str(first)])
    assert list(filter(lambda key: "ob" in key, catalog.keys())) == ["Bob", "bob-Q5_K_M", "Rob"]
    assert catalog.default == "Bob" and catalog.file("Rob") == first


def test_a_command_names_a_model_with_an_adapter_on_it(folder: Path) -> None:
    base, adapter = folder / "bob" / "bob-Q4_K_M.gguf", folder / "big" / "matey-lora.gguf"
    entry = default_entry(Path(f"{base.parent}::{adapter}"))
    assert (entry.key, entry.source, entry.adapter) == ("bob-Q4_K_M+matey-lora", str(base), adapter)
    with pytest.raises(ModelError, match=r"adapter 'no\.gguf' does not exist"):
        default_entry(Path(f"{base}::no.gguf"))


@pytest.mark.parametrize(
    "named", ["nowhere.gguf", "Bob=nowhere.gguf", "{first}::nowhere-lora.gguf", "my dir/nowhere.gguf"]
)
def test_what_the_owner_names_and_is_not_there_is_said_at_once(folder: Path, named: str) -> None:
    first = folder / "bob" / "bob-Q4_K_M.gguf"
    with pytest.raises(ModelError, match=r"nowhere[-lora]*\.gguf.*does not exist"):
        make_catalog(catalog_entry(first), [named.format(first=first)])


def test_a_model_that_does_not_load_is_named_without_its_folder(tmp_path: Path) -> None:
    (broken := tmp_path / "broken.gguf").write_bytes(b"junk")
    catalog = make_catalog(catalog_entry(broken), [])
    for reason in ("broken.gguf is not a GGUF file", "'broken.gguf' does not exist"):
        with pytest.raises(ModelError, match=reason) as refused:
            catalog.open(catalog.default, ModelLoader(EngineConfig()), lambda _: True)
        assert str(tmp_path) not in str(refused.value)
        broken.unlink(missing_ok=True)


def test_a_given_template_is_for_the_models_of_the_command_line(folder: Path, tmp_path: Path) -> None:
    opened: list[tuple[str, dict[str, str]]] = []

    def open_gguf(path: Path, adapter: Path | None, progress: ProgressCallback, **given: str) -> FakeBackend:
        opened.append((path.name, given))
        return FakeBackend()

    first, typed = folder / "bob" / "bob-Q4_K_M.gguf", touch(tmp_path / "typed.gguf")
    catalog = make_catalog(
        replace(catalog_entry(first), chat_template="{{ mine }}"), [str(folder)], "{{ mine }}"
    )
    keys = ["bob-Q4_K_M", "bob-Q5_K_M", catalog.admit(str(typed), own_machine=True)]
    bundled = make_catalog(replace(catalog_entry(first), chat_template="{{ mine }}"), [str(folder)])
    for each, names in ((catalog, keys), (bundled, keys[:2])):
        for key in names:
            each.open(key, open_gguf, lambda _: True)
    mine = {"chat_template": "{{ mine }}"}
    assert [given for _, given in opened] == [mine, mine, {}, mine, {}]


def test_a_visitor_gets_the_owners_list_alone(folder: Path, tmp_path: Path) -> None:
    secret = touch(tmp_path / "secret.gguf")
    models = models_of(
        make_catalog(catalog_entry(folder / "bob" / "bob-Q4_K_M.gguf"), [str(folder)]),
        lambda *_: FakeBackend(),
    )
    for forged in (str(secret), "you/hub", "", None, 3, ["bob-Q4_K_M"], "x" * 100_000):
        with pytest.raises(ModelError, match="is not offered here") as refused:
            models.admit(forged, own_machine=False)
        assert len(str(refused.value)) < 200
    assert models.admit("bob-Q5_K_M", own_machine=False) == "bob-Q5_K_M"
    assert models.admit(str(secret), own_machine=True) == "secret"
    models.pool.load("secret")
    assert not models.catalog.allows("secret", own_machine=False)
    assert "secret" not in str(models.catalog.choices(own_machine=False))
    with pytest.raises(ModelError, match="not offered"):
        models.admit("secret", own_machine=False)
    models.pool.close()


def test_what_is_typed_again_is_the_same_model_with_its_adapter(folder: Path) -> None:
    base = folder / "big" / "big-Q8_0-00001-of-00002.gguf"
    opened: list[tuple[Path, Path | None]] = []

    def open_gguf(path: Path, adapter: Path | None, _: ProgressCallback) -> FakeBackend:
        opened.append((path, adapter))
        return FakeBackend()

    models = models_of(make_catalog(catalog_entry(base), []), open_gguf)
    adapter = folder / "big" / "matey-lora.gguf"
    keys = [models.admit(f"{base}::{adapter}", own_machine=True) for _ in range(2)]
    assert keys == ["big-Q8_0-00001-of-00002+matey-lora".replace("-00001-of-00002", "")] * 2
    assert models.admit(str(base), own_machine=True) == models.catalog.default
    models.pool.load(keys[0])
    models.pool.close()
    assert opened == [(base, adapter)]


def test_the_embedded_model_is_lonely_until_another_one_comes(folder: Path) -> None:
    catalog = make_catalog(default_entry(None), [])
    assert catalog.has_only_embedded()
    catalog.admit(str(folder / "bob" / "bob-Q4_K_M.gguf"), own_machine=True)
    assert not catalog.has_only_embedded()
