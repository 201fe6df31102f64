"""The model of a Space: how it is named, its shards, the adapter beside it, what is preloaded."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import yaml

from common.errors import InputError
from publish.hub import HubClient
from publish.space import prepare
from tests.publish.hub_server import RunningHub
from tests.publish.spaces import FILE, PLAN, packed, published, space_of

pytestmark = pytest.mark.usefixtures("few_files")


@pytest.mark.usefixtures("model")
def test_shards_are_all_preloaded_and_named_by_the_first(hub: RunningHub) -> None:
    parts = {f"big-0000{number}-of-00002.gguf": b"GGUF" for number in (1, 2)}
    hub.state.add_repository("you/big", parts)
    ready = prepare(HubClient("you/chat", "space"), replace(PLAN, model="you/big"))
    assert ready.model == "you/big/big-00001-of-00002.gguf"
    front_matter = yaml.safe_load(ready.files["README.md"].split(b"---\n")[1])
    assert front_matter["preload_from_hub"] == ["you/big " + ",".join(parts)]


@pytest.mark.parametrize(
    ("model", "setting", "preloaded"),
    [
        ("you/bob:q5_k_m", "you/bob/bob-Q5_K_M.gguf", "you/bob bob-Q5_K_M.gguf"),
        ("hf.co/you/bob:Q4_K_M", "you/bob/bob-Q4_K_M.gguf", "you/bob bob-Q4_K_M.gguf"),
        (
            "https://huggingface.co/you/bob/blob/main/bob-Q4_K_M.gguf",
            "you/bob@main/bob-Q4_K_M.gguf",
            "you/bob bob-Q4_K_M.gguf",
        ),
        ("you/bob@v1:Q4_K_M", "you/bob@v1/bob-Q4_K_M.gguf", "you/bob bob-Q4_K_M.gguf COMMIT"),
    ],
)
def test_a_model_is_named_as_in_the_chat(model: str, setting: str, preloaded: str, hub: RunningHub) -> None:
    repository = hub.state.add_repository("you/bob", FILE)
    repository.branches["v1"] = repository.commits[:]
    commit = repository.commits[-1].oid
    repository.add_commit("main", "Later", repository.commits[-1].files)
    ready = prepare(HubClient("you/chat", "space"), replace(PLAN, model=model))
    assert ready.model == setting
    front_matter = yaml.safe_load(ready.files["README.md"].split(b"---\n")[1])
    assert front_matter["preload_from_hub"] == [preloaded.replace("COMMIT", commit)]
    assert front_matter["models"] == ["you/bob"]


BASE_FILE, LORA = "bob-base-Q4_0.gguf", "bob-Q4_0-LoRA-F16.gguf"


@pytest.mark.parametrize(
    ("model", "setting", "preloaded"),
    [
        ("you/pair", f"you/pair/{BASE_FILE}::you/pair/{LORA}", f"you/pair {BASE_FILE},{LORA}"),
        ("you/pair:Q4_0", f"you/pair/{BASE_FILE}::you/pair/{LORA}", f"you/pair {BASE_FILE},{LORA}"),
        (f"you/pair/{BASE_FILE}", f"you/pair/{BASE_FILE}", f"you/pair {BASE_FILE}"),
        (
            f"you/pair/{BASE_FILE}::you/lora",
            f"you/pair/{BASE_FILE}::you/lora/x-LoRA-F16.gguf",
            f"you/pair {BASE_FILE}",
        ),
    ],
)
def test_an_adapter_is_loaded_on_its_base(model: str, setting: str, preloaded: str, hub: RunningHub) -> None:
    manifest = {"outputs": [], "options": {"loras": {BASE_FILE: LORA}}}
    pair = {BASE_FILE: b"GGUF", LORA: b"GGUF", "manifest.json": json.dumps(manifest).encode()}
    hub.state.add_repository("you/pair", pair)
    hub.state.add_repository("you/lora", {"x-LoRA-F16.gguf": b"GGUF"})
    ready = prepare(HubClient("you/chat", "space"), replace(PLAN, model=model))
    assert ready.model == setting
    front_matter = yaml.safe_load(ready.files["README.md"].split(b"---\n")[1])
    assert front_matter["preload_from_hub"] == [preloaded]


def test_a_private_adapter_needs_a_secret_token(hub: RunningHub) -> None:
    hub.state.add_repository("you/bob", FILE)
    hub.state.add_repository("you/lora", {"x-LoRA-F16.gguf": b"GGUF"}, private=True)
    with pytest.raises(InputError, match="the model you/lora is private, and the Space has no token"):
        published(replace(PLAN, model=f"{PLAN.model}::you/lora"))


@pytest.mark.usefixtures("model")
def test_a_missing_shard_is_named(hub: RunningHub) -> None:
    hub.state.add_repository("you/half", {"big-00001-of-00002.gguf": b"GGUF"})
    for model in ("you/half", "you/half/big-00001-of-00002.gguf"):
        with pytest.raises(InputError, match=r"lacks big-00002-of-00002.gguf: upload all of its parts"):
            published(replace(PLAN, model=model))


def test_a_name_that_the_configuration_cannot_hold_is_not_preloaded(hub: RunningHub) -> None:
    hub.state.add_repository("you/bob", {"bob, small.gguf": b"GGUF"})
    assert b"preload_from_hub" not in packed(replace(PLAN, model="you/bob"))["README.md"]
    published(replace(PLAN, model="you/bob"))
    assert space_of(hub).variables == {"GGUF_CHAT_MODEL": "you/bob/bob, small.gguf"}
