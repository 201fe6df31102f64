"""`publish model`: what goes to the Hub, and that it is there afterwards, byte for byte."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import ModelCard
from huggingface_hub.utils.tqdm import enable_progress_bars
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


class Terminal(io.StringIO):
    """What a terminal is sent."""

    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_the_bytes_that_are_sent(
    hub: RunningHub, road: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, terminal = make_export(tmp_path / "bob", {"Q4_K_M": 1_200_000}), Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    enable_progress_bars()  # another test's command may have turned them off
    app(["model", str(out), NAME], standalone_mode=False)
    sent = [line for line in re.split(r"[\r\n]", terminal.getvalue()) if "bob-Q4_K_M.gguf" in line]
    assert sent[0] == "sending bob-Q4_K_M.gguf, 1 of 6 (1.2 MB)"
    assert re.search(r"100%.*1\.20MB? ?/ ?1\.20MB?", sent[-1]), sent
    assert "files are equal on the Hub" not in terminal.getvalue()


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
    hub.state.add_repository("you/bob-lora", {"adapter_config.json": b"{}"})
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


def test_an_adapter_beside_its_base_is_loaded_with_it(hub: RunningHub, tmp_path: Path) -> None:
    base, lora = "bob-Q4_K_M.gguf", "bob-Q4_K_M-LoRA-F16.gguf"
    out = make_export(tmp_path / "bob", {"Q4_K_M": 100_000, "Q4_K_M-LoRA-F16": 50_000})
    content = json.loads((out / "manifest.json").read_text())
    content["options"] = {"format": "base+adapter", "loras": {base: lora}}
    (out / "manifest.json").write_text(json.dumps(content))
    run(out, NAME)
    assert {base, lora} <= set(hub.state.repositories["model", NAME].files)
    body = text(hub, "README.md")
    for line in (
        f"hf download {NAME} {base} {lora} Modelfile --local-dir . ",
        f"python app.py {base}::{lora} ",
        f"llama-server -m {base} --lora {lora} --jinja",
        "ollama create bob -f Modelfile && ollama run bob ",
        f'lora = hf_hub_download("{NAME}", "{lora}")',
        f'Llama.from_pretrained("{NAME}", "{base}", lora_path=lora, n_ctx=0)',
    ):
        assert line in body
    assert len(metadata(hub)["model-index"][0]["results"]) == 1


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
    run(out, NAME, "--revision", "v1.0_x")
    assert "bob-Q4_K_M.gguf" in branches["v1.0_x"][-1].files


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


def test_an_adapter_alone_and_a_checkpoint_alone(hub: RunningHub, tmp_path: Path) -> None:
    adapter, merged = make_adapter(tmp_path / "lora"), make_merged(tmp_path / "merged")
    (merged / "additional_chat_templates").mkdir()
    (merged / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    run(adapter, "you/lora")
    assert metadata(hub, "you/lora")["base_model"] == BASE
    run(merged, "you/merged")
    assert "additional_chat_templates/tools.jinja" in hub.state.repositories["model", "you/merged"].files
    assert "base_model_relation" not in metadata(hub, "you/merged")  # no base is known
    assert "is an adapter itself: --adapter and --merged go with" in run(
        adapter, "you/lora", "--merged", merged, code=2
    )


def test_vocabularies_go_along_and_code_only_where_the_configuration_names_it(
    hub: RunningHub, tmp_path: Path
) -> None:
    merged = make_merged(tmp_path / "merged")
    vocabularies = {"qwen.tiktoken", "source.spm", "tokenizer.model.v3", "vocab.bpe", "NOTICE.md"}
    for name in (*vocabularies, "chats.jsonl", "notes.py", "optimizer.pt"):
        (merged / name).write_text("x")
    assert "note: left out, as no model needs them: chats.jsonl, notes.py, optimizer.pt" in run(
        merged, "you/merged"
    )
    files = hub.state.repositories["model", "you/merged"].files
    assert vocabularies < set(files) and not {"chats.jsonl", "notes.py", "optimizer.pt"} & set(files)
    config = json.loads((merged / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "configuration_m.M", "AutoModel": "maker/base--modeling_m.M"}
    (merged / "config.json").write_text(json.dumps(config))
    tokenizer = {"auto_map": {"AutoTokenizer": ["tokenization_m.M", None]}}
    (merged / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    (merged / "tokenization_m.py").write_text("import os\nfrom .parts import Part\n")
    for name in ("configuration_m.py", "modeling_m.py", "parts.py"):
        (merged / name).write_text("")
    shown = run(merged, "you/merged")
    named = {"configuration_m.py", "parts.py", "tokenization_m.py"}
    for name in named:
        assert f"note: {name} is code that the configuration names, and is published" in shown
    files = hub.state.repositories["model", "you/merged"].files
    assert {name for name in files if name.endswith(".py")} == named


@pytest.mark.parametrize(
    ("front", "base_model"),
    [
        ("base_model: /home/you/models/base\n", BASE),
        ("base_model:\n- ./base\n- /x\nlicense: mit\n", BASE),
        ('base_model: "maker/other"\n', "maker/other"),
        ("", BASE),
    ],
)
def test_a_path_as_base_model_is_replaced(
    hub: RunningHub, tmp_path: Path, front: str, base_model: str
) -> None:
    """PEFT writes the base's folder into its card, and the Hub refuses that."""
    adapter = make_adapter(tmp_path / "lora")
    text = f"\ufeff---\r\n{front}tags: [lora]\r\n---\r\n# Mine\r\n".replace("\r\n", "\n")
    (adapter / "README.md").write_text(text, encoding="utf-8")
    shown = run(adapter, "you/lora")
    assert ("is no name on the Hub and is left out" in shown) == (base_model == BASE and bool(front))
    known = metadata(hub, "you/lora")
    assert known["base_model"] == base_model and known["tags"] == ["lora"]
    assert known["license"] == ("mit" if "mit" in front else "apache-2.0")


def test_a_folder_that_looks_like_a_name_is_no_base(hub: RunningHub, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "lora")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "models/base"}))
    shown = run(adapter, "you/lora")
    assert "note: base_model: models/base is not on the Hub and is left out" in shown
    assert "note: no license is known: name it with --license" in shown
    assert metadata(hub, "you/lora").keys().isdisjoint({"base_model", "base_model_relation", "license"})


def test_a_gguf_lora_file_is_an_adapter_of_its_base(hub: RunningHub, tmp_path: Path) -> None:
    out = make_export(tmp_path / "bob", {"F16": 100_000})
    (out / "certificate.json").unlink()
    content = json.loads((out / "manifest.json").read_text())
    content["options"] = {"format": "adapter"}
    (out / "manifest.json").write_text(json.dumps(content))
    assert "has no certificate, so that the card says nothing about quality" in run(out, NAME)
    known = metadata(hub)
    assert known["base_model_relation"] == "adapter" and "model-index" not in known
    assert "llama-server -m BASE.gguf --lora bob-F16.gguf --jinja" in text(hub, "README.md")


def test_a_type_that_the_name_does_not_tell_is_asked_for_by_name(hub: RunningHub, tmp_path: Path) -> None:
    out = make_export(tmp_path / "bob", {"900M": 100_000})
    content = json.loads((out / "manifest.json").read_text())
    content["outputs"][0]["type"] = "Q4_K_M"
    (out / "manifest.json").write_text(json.dumps(content))
    run(out, NAME)
    body = text(hub, "README.md")
    assert f"llama-server -hfr {NAME} -hff bob-900M.gguf" in body
    assert f"ollama run hf.co/{NAME}:bob-900M.gguf" in body


def test_an_importance_matrix_goes_along(hub: RunningHub, out: Path) -> None:
    (out / "bob-imatrix.gguf").write_bytes(b"GGUF matrix")
    content = json.loads((out / "manifest.json").read_text())
    content["importance"] = {"file": "bob-imatrix.gguf", "sha256": sha256(out / "bob-imatrix.gguf")}
    (out / "manifest.json").write_text(json.dumps(content))
    run(out, NAME)
    assert "bob-imatrix.gguf" in hub.state.repositories["model", NAME].files
    (out / "bob-imatrix.gguf").write_bytes(b"another one")
    assert "bob-imatrix.gguf is not the importance matrix of the export" in run(out, NAME, code=2)


def test_a_name_of_any_letters_is_valid_metadata(hub: RunningHub, tmp_path: Path) -> None:
    run(make_export(tmp_path / 'B\u00f6b "x" \U0001f600: y'), NAME)
    assert metadata(hub)["model-index"][0]["name"] == 'B\u00f6b "x" \U0001f600: y'


def test_a_file_is_told_to_be_there_by_its_content(hub: RunningHub, out: Path) -> None:
    """A repository that has another file of the same name and size gets the right one."""
    path = out / "bob-Q4_K_M.gguf"
    hub.state.add_repository(NAME, {path.name: bytes(path.stat().st_size)})
    run(out, NAME)
    stored = hub.state.repositories["model", NAME].files[path.name]
    assert stored.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
