"""What `publish model` says that cannot be done: one line, exit code 2, and nothing half published."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants
from typer.testing import CliRunner

from common.files import sha256
from pipeline.manifest import NAME as MANIFEST
from pipeline.manifest import Output, Record
from publish import hub as hub_module
from publish.cli.app import app
from publish.refusals import PublishError, payment_refusal, refusals
from tests.publish.conftest import BASE, READ, STRANGER, WRITE
from tests.publish.exports import make_adapter, make_export, make_merged
from tests.publish.hub_server import RunningHub

NAME = "you/bob"


def refused(*words: str | Path, code: int = 2) -> str:
    """Run `publish model`; return its error, which is one line without a token."""
    done = CliRunner().invoke(app, ["model", *map(str, words)], catch_exceptions=False)
    assert done.exit_code == code, done.output
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    assert "hf_canary" not in done.output and "Traceback" not in done.output
    return errors[0]


def files(hub: RunningHub, name: str = NAME) -> set[str] | None:
    """Return the names of a repository's files; None when there is no such repository."""
    repository = hub.state.repositories.get(("model", name))
    return None if repository is None else set(repository.files)


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module.time, "sleep", lambda _: None)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return make_export(tmp_path / "bob")


@pytest.mark.parametrize(
    ("token", "name", "wanted"),
    [
        (
            None,
            NAME,
            "there is no token: log in with `hf auth login` or set HF_TOKEN; make one that may write",
        ),
        ("hf_canary_wrong", NAME, "the Hub refuses your token (401), which is mistyped or expired"),
        ('"hf_quoted token"', NAME, "your token has characters that no token has: copy it again"),
        ("hf_t\u00f6ken", NAME, "your token has characters that no token has: copy it again"),
        (
            READ,
            NAME,
            "the token of 'you' may only read: make one that may write at",
        ),
        (STRANGER, NAME, "'you' is neither the account of your token nor one of its organizations: name a"),
        (WRITE, "you/bob.git", "Repo_id cannot end by '.git'"),
        (WRITE, "you/" + "b" * 97, "maximum length is 96"),
        (WRITE, "you/böb", "Repo id must use alphanumeric chars"),
        (WRITE, "you/bob/x.gguf", "is no name of a repository"),
        (WRITE, "bob", "'bob' is no name of a repository: it looks like owner/name"),
        (WRITE, "you/bob--x", "Cannot have -- or .. in repo_id"),
        (WRITE, "https://huggingface.co/you/bob", "is no name of a repository"),
    ],
)
def test_a_wrong_token_or_name_is_refused_first(
    hub: RunningHub,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    token: str | None,
    name: str,
    wanted: str,
) -> None:
    monkeypatch.setenv("HF_TOKEN", token or "")
    assert wanted in refused(out, name)
    assert list(hub.state.repositories) == [("model", BASE)]
    assert not [request for request in hub.state.requests if request.method != "GET"]


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        (
            402,
            "the Hub wants a paying account for this (402), as the storage of private repositories",
        ),
        (403, "your token may not write to you (403): make one with write access at"),
        (405, "takes no such request (405): check HF_ENDPOINT, if it is a mirror"),
        (409, "the name is taken (409): choose another; the Hub says: Said by the Hub."),
        (500, "the Hub itself has a fault (500): try again later"),
    ],
)
def test_a_repository_that_cannot_be_made(hub: RunningHub, out: Path, status: int, wanted: str) -> None:
    hub.state.fail("POST /api/repos/create", status, times=9, message="Said by the Hub.")
    assert wanted in refused(out, NAME)
    assert files(hub) is None


@pytest.mark.parametrize(
    ("pattern", "status", "said", "wanted"),
    [
        ("POST .*/commit/", 429, "You have exceeded our hourly quotas", "the Hub limits your requests (429)"),
        (
            "POST .*/commit/",
            412,
            "A commit has happened since.",
            "somebody else has changed it meanwhile (412)",
        ),
        ("POST .*/commit/", 413, "Payload Too Large", "it is too large for the Hub (413)"),
        (
            "objects/batch",
            403,
            "Private repository storage limit reached, please upgrade your plan.",
            "the storage of private repositories is used up",
        ),
        ("objects/batch", 403, "Forbidden", "your token may not write to you (403)"),
        (
            "PUT /part",
            403,
            "RequestTimeTooSkewed",
            "the Hub's storage refused it (HTTP 403): check clock and",
        ),
    ],
)
def test_what_the_hub_refuses_during_an_upload(
    hub: RunningHub,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    pattern: str,
    status: int,
    said: str,
    wanted: str,
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.state.fail(pattern, status, times=9, message=said)
    assert wanted in refused(out, NAME)
    assert files(hub) == set()


def test_a_name_with_ones_own_card_is_taken(hub: RunningHub, out: Path) -> None:
    hub.state.add_repository(NAME, {"README.md": b"# Another model\n", "config.json": b"{}"})
    assert "the name is taken: 'you/bob' has a README.md that this program did not write" in refused(
        out, NAME
    )
    assert files(hub) == {"README.md", "config.json"}
    done = CliRunner().invoke(app, ["model", str(out), NAME, "--replace-card"], catch_exceptions=False)
    assert done.exit_code == 0 and "bob-Q4_K_M.gguf" in (files(hub) or set())


def test_a_repository_with_only_a_card_is_free(hub: RunningHub, out: Path) -> None:
    """The Hub's page for a new model makes one with a license."""
    hub.state.add_repository(NAME, {"README.md": b"---\nlicense: mit\n---\n"})
    assert CliRunner().invoke(app, ["model", str(out), NAME]).exit_code == 0


@pytest.mark.parametrize(("pattern", "status"), [(r"PUT /part/\w+/2", 500), ("POST .*/commit/", 503)])
def test_a_passing_fault_is_tried_again(
    hub: RunningHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, status: int
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.state.part_size = 100_000
    fault = hub.state.fail(pattern, status, times=2)
    out = make_export(tmp_path / "bob")
    assert CliRunner().invoke(app, ["model", str(out), NAME], catch_exceptions=False).exit_code == 0
    assert fault.times == 0 and len(hub.state.repositories["model", NAME].commits) == 2


@pytest.mark.parametrize(
    ("pattern", "road"),
    [
        (r"PUT /part/\w+/2", "lfs"),
        ("POST .*/commit/", "lfs"),
        ("POST .*/commit/", "xet"),
        ("xet-write", "xet"),
    ],
    indirect=["road"],
)
def test_a_lasting_fault_leaves_the_repository_as_it_was(
    hub: RunningHub, road: str, tmp_path: Path, pattern: str
) -> None:
    hub.state.part_size = 100_000
    out = make_export(tmp_path / "bob", {"Q4_K_M": 300_000, "Q8_0": 400_000})
    fault = hub.state.fail(pattern, 500, times=99)
    assert "the Hub itself has a fault (500): try again later" in refused(out, NAME)
    assert files(hub) == set()
    fault.times = 0
    assert CliRunner().invoke(app, ["model", str(out), NAME], catch_exceptions=False).exit_code == 0
    assert {"bob-Q4_K_M.gguf", "bob-Q8_0.gguf", "README.md"} <= (files(hub) or set())


def test_a_commit_whose_answer_is_lost_is_not_made_twice(hub: RunningHub, out: Path) -> None:
    hub.state.fail("POST .*/commit/", 503, late=True)
    assert CliRunner().invoke(app, ["model", str(out), NAME], catch_exceptions=False).exit_code == 0
    assert len(hub.state.repositories["model", NAME].commits) == 2


def test_another_content_on_the_hub_is_named(
    hub: RunningHub, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    apply = hub_module.HubClient.files

    def with_a_flipped_hash(client: hub_module.HubClient) -> dict[str, object]:
        found = apply(client)
        for file in found.values():
            if file.lfs is not None:
                file.lfs.sha256 = "0" * 64
        return dict(found)

    monkeypatch.setattr(hub_module.HubClient, "files", with_a_flipped_hash)
    error = refused(out, NAME)
    assert "the Hub does not hold these files as they are here: bob-Q4_K_M.gguf; run the same" in error


def test_a_file_that_changes_while_it_is_sent_is_not_committed(
    hub: RunningHub, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = out / "bob-Q4_K_M.gguf"
    create = hub_module.HubClient.create

    def and_overwrite(client: hub_module.HubClient, private: bool, gated: None, *, exists: bool) -> None:
        create(client, private, gated, exists=exists)
        path.write_bytes(os.urandom(path.stat().st_size))

    monkeypatch.setattr(hub_module.HubClient, "create", and_overwrite)
    assert "bob-Q4_K_M.gguf changed while it was sent: run the same command again" in refused(out, NAME)
    assert files(hub) == set()


def test_no_connection_and_offline(hub: RunningHub, out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set: unset it to publish" in refused(out, NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert "the Hub cannot be reached" in refused(out, NAME)


def edited(out: Path, **values: object) -> None:
    content = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps(content | values))


@pytest.mark.parametrize(
    ("spoil", "wanted"),
    [
        (shutil.rmtree, "is no folder: name one with an export"),
        (lambda out: (out / MANIFEST).unlink(), "has no manifest.json, so that it is no complete export"),
        (lambda out: (out / MANIFEST).write_text("{"), "cannot be read"),
        (lambda out: edited(out, complete=False), "is not complete: run its command again"),
        (lambda out: edited(out, outputs=[]), "is not complete: run its command again"),
        (lambda out: (out / "bob-Q4_K_M.gguf").unlink(), "bob-Q4_K_M.gguf is missing: run the export's"),
        (lambda out: (out / "bob-Q4_K_M.gguf").write_bytes(b"GGUF"), "is not the file that was exported"),
        (lambda out: (out / "certificate.json").write_text("{}"), "certificate.json is no certificate"),
        (
            lambda out: (out / "report.html").write_text(f"<p>{WRITE}</p>"),
            "report.html contains your HF_TOKEN",
        ),
    ],
)
def test_what_is_no_complete_export_is_refused(
    hub: RunningHub, out: Path, spoil: object, wanted: str
) -> None:
    assert callable(spoil)
    spoil(out)
    assert wanted in refused(out, NAME)
    assert files(hub) is None


def test_an_interrupted_export_is_refused(hub: RunningHub, out: Path) -> None:
    (out / ".work").mkdir()
    (out / ".work" / "record.json").write_text("{}")
    assert "is not complete: run its command again, then publish" in refused(out, NAME)


def test_a_manifest_names_no_files_elsewhere(hub: RunningHub, out: Path) -> None:
    content = json.loads((out / MANIFEST).read_text())
    content["outputs"][0]["file"] = "../secret.gguf"
    (out / MANIFEST).write_text(json.dumps(content))
    assert "names '../secret.gguf', which is no GGUF in that folder" in refused(out, NAME)


def test_a_checkpoint_is_the_one_that_was_exported(hub: RunningHub, tmp_path: Path) -> None:
    merged = make_merged(tmp_path / "merged")
    name = "model-00001-of-00002.safetensors"
    record = Record("f", complete=True)
    record.outputs[name] = Output(name, "F32", 64, 32.0, 1.0, sha256(merged / name), 0)
    record.save(merged / MANIFEST)
    assert CliRunner().invoke(app, ["model", str(merged), "you/merged", "--dry-run"]).exit_code == 0
    shutil.copyfile(merged / "model-00002-of-00002.safetensors", merged / name)
    assert f"{merged / name} is not the file that was exported" in refused(merged, "you/merged")
    assert ("model", "you/merged") not in hub.state.repositories


def test_a_failed_certificate_needs_a_word(hub: RunningHub, tmp_path: Path) -> None:
    out = make_export(tmp_path / "bob", status="fail")
    assert "has a failed check: see report.html there; --allow-failed publishes" in refused(out, NAME)
    assert CliRunner().invoke(app, ["model", str(out), NAME, "--allow-failed"]).exit_code == 0


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--gated", "yes"], "--gated 'yes': give auto or manual"),
        (["--license", "Apache 2"], "--license 'Apache 2': give an identifier of the Hub"),
        (["--license", "my-own"], "the Hub does not accept the card of 'you/bob'"),
        (["--language", "English"], "--language 'English': give an ISO 639 code"),
        (["--adapter", "/none"], "'/none' is no folder"),
        (["--merged", "/none"], "'/none' is no folder"),
        (["--revision", ""], "--revision '' is no name of a branch"),
        (["--revision", "new branch"], "--revision 'new branch' is no name of a branch"),
        (["--revision", "refs/pr/1"], "--revision 'refs/pr/1' is no name of a branch"),
        (["--revision", "0123456789abcdef0123456789abcdef01234567"], "is no name of a branch"),
    ],
)
def test_a_wrong_option_is_refused(hub: RunningHub, out: Path, words: list[str], wanted: str) -> None:
    assert wanted in refused(out, NAME, *words)
    assert files(hub) is None


def test_a_faulty_card_of_ones_own_is_found_before_the_upload(hub: RunningHub, out: Path) -> None:
    (out / "README.md").write_text("---\nlicense: [unclosed\n---\n# Bob\n")
    assert "the card of 'you/bob' has faulty metadata" in refused(out, NAME)
    (out / "README.md").write_text("---\nbase_model: my folder\n---\n# Bob\n")
    assert '"base_model" with value' in refused(out, NAME)
    assert files(hub) is None


def test_a_checkpoint_is_no_adapter(hub: RunningHub, out: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "lora")
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    assert "is stored as a pickle (adapter_model.bin)" in refused(out, NAME, "--adapter", adapter)


def test_the_folders_are_of_the_kind_that_their_options_say(
    hub: RunningHub, out: Path, tmp_path: Path
) -> None:
    adapter, merged = make_adapter(tmp_path / "lora"), make_merged(tmp_path / "merged")
    assert f"--adapter '{merged}' is a checkpoint: name the folder of an adapter" in refused(
        out, NAME, "--adapter", merged
    )
    assert f"--merged '{adapter}' is an adapter: name the folder of a checkpoint" in refused(
        out, NAME, "--merged", adapter
    )
    assert "has no config.json" in refused(out, NAME, "--merged", out)
    assert files(hub) is None


def test_a_space_that_must_be_paid_says_how_to_go_without() -> None:
    assert "take --hardware zero-a10g, of which a free account may have two" in payment_refusal("space")


def test_a_full_disk_is_named() -> None:
    with pytest.raises(PublishError, match=re.escape("full: make room")), refusals(NAME):
        raise OSError(28, "No space left on device")
