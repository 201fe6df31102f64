"""`publish model`: what goes to the Hub, and that it is there afterwards, byte for byte."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from common.files import sha256
from publish.cli.app import app
from tests.publish.conftest import BASE, WRITE
from tests.publish.exports import make_adapter, make_export, make_merged
from tests.publish.hub_server import RunningHub

NAME = "you/bob-GGUF"


def run(*words: str | Path, code: int = 0) -> str:
    """Run `publish model` in this process; return all that it prints."""
    done = CliRunner().invoke(app, ["model", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == code, done.output
    assert WRITE not in done.output
    return " ".join(done.output.replace("│", " ").split())


def metadata(hub: RunningHub, name: str = NAME) -> dict[str, Any]:
    """Return the metadata in a repository's card."""
    return ModelCard(text(hub, "README.md", name)).data.to_dict()


def text(hub: RunningHub, file: str, name: str = NAME) -> str:
    content = hub.state.repositories["model", name].files[file].content
    assert content is not None
    return content.decode()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return make_export(tmp_path / "bob")


def test_an_export_goes_to_the_hub_and_comes_back(hub: RunningHub, road: str, tmp_path: Path) -> None:
    hub.state.part_size = 1_000_000
    out = make_export(tmp_path / "bob", {"Q4_K_M": 2_500_000, "Q8_0": 400_000})
    (out / "bob-old.gguf").write_bytes(b"GGUF, not recorded")
    (out / ".work").mkdir()
    (out / ".work" / "half.gguf.partial").write_bytes(b"half")
    shown = run(out, NAME)
    assert "note: bob-old.gguf is not in the manifest and is left out" in shown
    assert "7 files were uploaded; all 7 files are equal on the Hub by SHA-256" in shown
    repository = hub.state.repositories["model", NAME]
    wanted = {path.name for path in out.iterdir()} - {".work", "bob-old.gguf"} | {"README.md"}
    assert set(repository.files) == wanted and len(repository.commits) == 2
    assert repository.commits[-1].title == "Publish bob-GGUF with GGUF Chat"
    folder = Path(huggingface_hub.snapshot_download(NAME))
    for name in wanted - {"README.md"}:
        assert sha256(folder / name) == sha256(out / name)
    assert hub.state.received["parts"] == (2_900_000 if road == "lfs" else 0)


def test_a_second_run_sends_nothing_and_makes_no_commit(hub: RunningHub, road: str, out: Path) -> None:
    run(out, NAME)
    before, repository = hub.state.sent_bytes, hub.state.repositories["model", NAME]
    hub.state.requests.clear()
    os.utime(out / "bob-Q4_K_M.gguf")  # such as a copy of the folder has: the content counts
    assert "nothing had to be uploaded; all 6 files are equal" in run(out, NAME)
    assert hub.state.sent_bytes == before and len(repository.commits) == 2
    writes = {one.path for one in hub.state.requests if one.method != "GET"}
    assert writes == {"/api/validate-yaml"}


def test_only_what_changed_is_sent(hub: RunningHub, out: Path) -> None:
    run(out, NAME)
    (out / "report.html").write_text("<html>new</html>")
    before = hub.state.sent_bytes
    assert "1 file was uploaded; all 6 files" in run(out, NAME)
    assert hub.state.sent_bytes - before == len("<html>new</html>")
    assert text(hub, "report.html") == "<html>new</html>"


def test_the_card_says_what_it_is_and_how_it_is_run(hub: RunningHub, tmp_path: Path) -> None:
    adapter = {"source": "you/bob-lora", "revision": "ab", "kind": "LoRA", "rank": 8, "weight": 1.0}
    out = make_export(tmp_path / "bob", adapters=[adapter])
    assert "note: license: apache-2.0, as maker/base has it; --license names another" in run(out, NAME)
    known = metadata(hub)
    assert known["license"] == "apache-2.0" and known["language"] == ["en"]
    assert known["base_model"] == [BASE, "you/bob-lora"] and known["base_model_relation"] == "quantized"
    assert known["quantized_by"] == "you" and known["pipeline_tag"] == "text-generation"
    assert known["library_name"] == "gguf" and {"gguf", "lora"} <= set(known["tags"])
    result = known["model-index"][0]["results"][0]
    assert result["dataset"]["config"] == "bob-Q4_K_M.gguf" and result["task"]["type"] == "text-generation"
    values = {metric["type"]: metric["value"] for metric in result["metrics"]}
    assert values == {"survival": 0.97, "kl_divergence": 0.02, "next_token_agreement": 0.93}
    body = text(hub, "README.md")
    for line in (
        "python app.py you/bob-GGUF/bob-Q4_K_M.gguf ",
        "llama-server -hf you/bob-GGUF:Q4_K_M --jinja",
        "ollama run hf.co/you/bob-GGUF:Q4_K_M ",
        "lms get https://huggingface.co/you/bob-GGUF ",
        'Llama.from_pretrained("you/bob-GGUF", "bob-Q4_K_M.gguf", n_ctx=0)',
    ):
        assert line in body


def test_shards_are_one_model(hub: RunningHub, tmp_path: Path) -> None:
    sizes = {f"Q4_K_M-0000{number}-of-00002": 100_000 for number in (1, 2)}
    run(make_export(tmp_path / "bob", sizes), NAME)
    assert {f"bob-{kind}.gguf" for kind in sizes} <= set(hub.state.repositories["model", NAME].files)
    body = text(hub, "README.md")
    assert "ollama run" not in body  # it takes no shards
    assert 'additional_files=["bob-Q4_K_M-00002-of-00002.gguf"]' in body


def test_license_and_language_are_the_users(hub: RunningHub, out: Path) -> None:
    run(out, NAME, "--license", "mit", "--language", "de", "--language", "fr")
    known = metadata(hub)
    assert known["license"] == "mit" and known["language"] == ["de", "fr"]


def test_ones_own_card_is_published_as_it_is(hub: RunningHub, out: Path) -> None:
    own = "---\nlicense: mit\n---\n\n# Bob\n\nMy words: ö.\n"
    (out / "README.md").write_text(own, encoding="utf-8")
    assert "is your own card and is published as it is; it lacks base_model" in run(out, NAME)
    assert text(hub, "README.md") == own
    (out / "README.md").write_text(own + "More.\n", encoding="utf-8")
    run(out, NAME)  # the repository is known by its commits
    assert text(hub, "README.md").endswith("More.\n")
    assert "is your own card" in run(out, NAME, "--license", "mit", code=2)


def test_a_dry_run_checks_all_and_changes_nothing(hub: RunningHub, out: Path) -> None:
    shown = run(out, NAME, "--dry-run", "--json", "--private", "--gated", "auto")
    assert "you/bob-GGUF (is new, account you)" in shown and "300.0 kB upload" in shown
    assert "a dry run: nothing was uploaded" in shown
    summary = json.loads(shown[shown.index('{"dry_run"') :])
    (one,) = summary["repositories"]
    assert one["files"]["bob-Q4_K_M.gguf"] == sha256(out / "bob-Q4_K_M.gguf") and one["uploaded"] == []
    asked = {request.path for request in hub.state.requests}
    assert {"/api/whoami-v2", "/api/validate-yaml", f"/api/models/{NAME}/auth-check/write"} <= asked
    assert list(hub.state.repositories) == [("model", BASE)] and hub.state.sent_bytes == 0


def test_private_and_gated_hold_before_anything_is_there(hub: RunningHub, out: Path) -> None:
    run(out, "your-org/bob", "--private", "--gated", "manual")
    made = hub.state.repositories["model", "your-org/bob"]
    assert made.private and made.gated == "manual"
    paths = [request.path for request in hub.state.requests]
    assert paths.index("/api/models/your-org/bob/settings") < paths.index(
        "/api/models/your-org/bob/preupload/main"
    )
    run(out, NAME)
    assert hub.state.repositories["model", NAME].private is False
    run(out, NAME, "--private")  # an existing one is made so
    assert hub.state.repositories["model", NAME].private


def test_a_branch_is_made_and_main_stays(hub: RunningHub, out: Path) -> None:
    run(out, NAME, "--revision", "v2")
    branches = hub.state.repositories["model", NAME].branches
    assert "bob-Q4_K_M.gguf" in branches["v2"][-1].files and len(branches["main"]) == 1
    assert "nothing had to be uploaded" in run(out, NAME, "--revision", "v2")


def test_adapter_and_merged_model_get_repositories_of_their_own(
    hub: RunningHub, out: Path, tmp_path: Path
) -> None:
    adapter, merged = make_adapter(tmp_path / "lora"), make_merged(tmp_path / "merged")
    run(out, NAME, "--adapter", adapter, "--merged", merged, "--license", "mit")
    files = {name: set(repository.files) for (_, name), repository in hub.state.repositories.items()}
    assert files["you/bob-lora"] == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert files["you/bob-merged"] == {path.name for path in merged.iterdir()} | {"README.md"}
    lora = metadata(hub, "you/bob-lora")
    assert (
        lora["base_model"] == BASE and lora["base_model_relation"] == "adapter" and lora["license"] == "mit"
    )
    assert lora["tags"] == ["lora"] and text(hub, "README.md", "you/bob-lora").endswith("My own words.\n")
    whole = metadata(hub, "you/bob-merged")
    assert whole["library_name"] == "transformers" and whole["base_model_relation"] == "finetune"
    assert metadata(hub)["base_model"] == [BASE, "you/bob-lora", "you/bob-merged"]
    again = run(out, NAME, "--adapter", adapter, "--merged", merged, "--license", "mit")
    assert again.count("nothing had to be uploaded") == 3


def test_a_file_is_told_to_be_there_by_its_content(hub: RunningHub, out: Path) -> None:
    """A repository that has another file of the same name and size gets the right one."""
    path = out / "bob-Q4_K_M.gguf"
    hub.state.add_repository(NAME, {path.name: bytes(path.stat().st_size)})
    run(out, NAME)
    stored = hub.state.repositories["model", NAME].files[path.name]
    assert stored.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
