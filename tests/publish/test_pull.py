"""A model or an adapter by the name that people know: owner/name, a type, a revision, a page's address."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from huggingface_hub import constants, hf_api

from engine.errors import ModelError
from tests.publish.hub_server import RunningHub
from ui.models.catalog import make_catalog, resolve_entry
from ui.models.files import catalog_entry, hub_choices
from ui.models.hub import HubName, parse_hub_name

Q4, Q8 = "m-Q4_K_M.gguf", "m-Q8_0.gguf"


@pytest.fixture
def model(hub: RunningHub) -> str:
    """Return the name of a repository with two models."""
    files = {Q4: b"GGUF four", Q8: b"GGUF eight bits", "mmproj-F16.gguf": b"GGUF", "README.md": b""}
    hub.state.add_repository("you/model", files)
    return "you/model"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("you/model", HubName("you/model")),
        ("you/model:Q8_0", HubName("you/model", quant="Q8_0")),
        ("you/model@v1.2", HubName("you/model", "v1.2")),
        ("you/model@v1/sub/m.gguf", HubName("you/model", "v1", "sub/m.gguf")),
        ("hf.co/you/model:q4_k_m", HubName("you/model", quant="q4_k_m")),
        ("https://huggingface.co/you/model", HubName("you/model")),
        ("https://huggingface.co/you/model/tree/main", HubName("you/model", "main")),
        ("https://huggingface.co/you/model/blob/main/m.gguf", HubName("you/model", "main", "m.gguf")),
        (
            "https:/huggingface.co/you/model/resolve/0a1b/m.gguf?download=true",
            HubName("you/model", "0a1b", "m.gguf"),
        ),
        ("https://huggingface.co/you/model?show_file_info=m.gguf", HubName("you/model", file="m.gguf")),
        ("https://huggingface.co/you/model/tree/v1?x=1#top", HubName("you/model", "v1")),
        ("https://huggingface.co/you/model/blob/main/m.gguf#L1", HubName("you/model", "main", "m.gguf")),
        (
            "https://huggingface.co/you/model/blob/refs%2Fpr%2F1/sub/a%20b.gguf",
            HubName("you/model", "refs/pr/1", "sub/a b.gguf"),
        ),
        ("you/model@refs/pr/1:Q8_0", HubName("you/model", "refs/pr/1", quant="Q8_0")),
        ("hf:/you/model@v1/m.gguf", HubName("you/model", "v1", "m.gguf")),
        ("HF.co/you/model", HubName("you/model")),
        ("https://mirror.example/you/model/tree/main", HubName("you/model", "main")),
        ("https://huggingface.co/you", None),
        ("huggingface.co/you", None),
        ("model", None),
        ("/you/model", None),
        ("you/model/more", None),
        ("https://example.com/you/model", None),
    ],
)
def test_names(text: str, name: HubName | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://mirror.example")
    assert parse_hub_name(text) == name


@pytest.mark.parametrize(
    ("ending", "file"),
    [("", Q4), (":Q8_0", Q8), (":q8_0", Q8), (f"/{Q8}", Q8), ("@main", Q4), (f"@main/{Q8}", Q8)],
)
def test_the_named_file_comes(model: str, ending: str, file: str) -> None:
    path = Path(resolve_entry(f"{model}{ending}").source)
    assert (path.name, path.read_bytes()[:4]) == (file, b"GGUF")


def test_a_page_s_address_is_a_name(model: str) -> None:
    assert Path(resolve_entry(f"https://huggingface.co/{model}/blob/main/{Q8}").source).name == Q8


def test_a_name_with_characters_of_patterns_is_that_file(hub: RunningHub) -> None:
    hub.state.add_repository("you/model", {"m[1].gguf": b"GGUF one", "m1.gguf": b"GGUF other"})
    assert Path(resolve_entry("you/model/m[1].gguf").source).read_bytes() == b"GGUF one"


@pytest.mark.parametrize("way", ["offline", "no connection"])
def test_without_a_way_to_the_hub_what_was_downloaded_is_chosen_from(
    model: str, way: str, hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolve_entry(f"{model}/{Q8}")
    hub.state.add_repository("you/half", {"m-00001-of-00002.gguf": b"GGUF", "m-00002-of-00002.gguf": b"GGUF"})
    whole = Path(resolve_entry("you/half").source)
    whole.with_name("m-00002-of-00002.gguf").unlink()
    if way == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    else:
        monkeypatch.setattr(hf_api.api, "endpoint", "http://127.0.0.1:9")
    for name in (model, f"{model}:q8_0", f"{model}@main"):
        assert Path(resolve_entry(name).source).name == Q8
    assert hub_choices(model) == [("m-Q8_0.gguf · 1 MB", f"{model}/{Q8}")]
    for name in (f"{model}:Q4_K_M", "you/half", "you/never"):
        with pytest.raises(ModelError, match="the Hub cannot be reached"):
            resolve_entry(name)


def test_what_is_not_there_is_named(model: str) -> None:
    with pytest.raises(ModelError, match=r"has no GGUF of type IQ4_XS: it has F16, Q4_K_M, Q8_0"):
        resolve_entry(f"{model}:IQ4_XS")
    with pytest.raises(ModelError, match="the Hub has it, but not the revision 'v9'"):
        resolve_entry(f"{model}@v9")
    with pytest.raises(ModelError, match="has no GGUF LoRA file: make one with"):
        hub_adapter_of("maker/base")


def hub_adapter_of(repository: str) -> Path | None:
    return resolve_entry(f"{__file__}::{repository}").adapter


def test_an_adapter_comes_from_the_hub(hub: RunningHub, tmp_path: Path) -> None:
    hub.state.add_repository("you/lora", {"x-LoRA-F16.gguf": b"GGUF lora", Q4: b"GGUF"})
    base = tmp_path / "base.gguf"
    base.write_bytes(b"GGUF")
    adapter = resolve_entry(f"{base}::you/lora").adapter
    assert adapter is not None and adapter.read_bytes() == b"GGUF lora"
    hub.state.add_repository("you/two", {"x-LoRA-F16.gguf": b"", "y-LoRA-F16.gguf": b""})
    with pytest.raises(ModelError, match="has 2 GGUF LoRA files: name one"):
        resolve_entry(f"{base}::you/two")


def test_the_adapter_beside_a_base_comes_with_it(hub: RunningHub) -> None:
    lora = "bob-Q4_0-LoRA-F16.gguf"
    manifest = {"outputs": [], "options": {"loras": {"bob-base-Q4_0.gguf": lora}}}
    files = {"bob-base-Q4_0.gguf": b"GGUF", lora: b"GGUF", "manifest.json": json.dumps(manifest).encode()}
    hub.state.add_repository("you/bob", files)
    entry = resolve_entry("you/bob")
    assert (Path(entry.source).name, entry.adapter and entry.adapter.name) == ("bob-base-Q4_0.gguf", lora)
    assert resolve_entry("you/bob/bob-base-Q4_0.gguf").adapter is None
    catalog = make_catalog(catalog_entry(Path(entry.source)), ["you/bob"])
    opened = []

    def open_gguf(path: Path, adapter: Path | None, *_: object, **__: object) -> None:
        opened.append((path.name, adapter and adapter.name))

    catalog.open("you/bob", open_gguf, lambda _: True)  # type: ignore[arg-type]
    assert opened == [("bob-base-Q4_0.gguf", lora)]


def test_a_repository_s_models_are_listed_with_their_sizes(model: str, tmp_path: Path) -> None:
    assert hub_choices(model) == [
        ("m-Q4_K_M.gguf · 1 MB", f"{model}/{Q4}"),
        ("m-Q8_0.gguf · 1 MB", f"{model}/{Q8}"),
    ]
    assert hub_choices(f"{model}@main")[0][1] == f"{model}@main/{Q4}"
    assert not list((tmp_path / "cache").rglob("*.gguf")), "nothing was downloaded"
    with pytest.raises(ModelError, match="'maker/base' holds no GGUF model"):
        hub_choices("maker/base")
