"""The stand-in answers the real client as the Hub does."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants, errors
from huggingface_hub.utils import get_token

from tests.publish.conftest import FREE, READ, STRANGER
from tests.publish.hub_server import RunningHub

SIZE = 3_000_000


def uploaded(path: Path, name: str = "you/model") -> None:
    api = HfApi()
    api.create_repo(name, exist_ok=True)
    additions = [CommitOperationAdd("m.gguf", path), CommitOperationAdd("note.txt", b"small")]
    api.create_commit(name, additions, commit_message="Add a model")


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    path = tmp_path / "m.gguf"
    path.write_bytes(b"GGUF" + os.urandom(SIZE - 4))
    return path


def test_a_file_comes_back_as_it_was_sent(hub: RunningHub, road: str, gguf: Path) -> None:
    hub.state.part_size = 1_000_000
    uploaded(gguf)
    sha256 = hashlib.sha256(gguf.read_bytes()).hexdigest()
    listed = {file.path: file for file in HfApi().list_repo_tree("you/model")}
    assert listed["m.gguf"].lfs.sha256 == sha256 and listed["m.gguf"].size == SIZE
    assert listed["note.txt"].lfs is None and listed["note.txt"].size == 5
    assert hub.state.received["parts"] == (SIZE if road == "lfs" else 0)
    assert hub.state.storage.xet_bytes() > SIZE or road == "lfs"
    folder = Path(huggingface_hub.snapshot_download("you/model"))
    assert hashlib.sha256((folder / "m.gguf").read_bytes()).hexdigest() == sha256
    assert (folder / "note.txt").read_bytes() == b"small"
    assert all(request.token is None for request in hub.state.requests if request.host == "storage")


def test_what_came_by_xet_is_read_without_it(
    hub: RunningHub, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    uploaded(gguf)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    path = Path(huggingface_hub.hf_hub_download("you/model", "m.gguf"))
    assert path.read_bytes() == gguf.read_bytes()


def test_a_cut_download_goes_on_where_it_ended(
    hub: RunningHub, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.state.add_repository("you/model", {"m.gguf": gguf.read_bytes()})
    hub.state.fail("GET /object", cut=1_000_000)
    path = Path(huggingface_hub.hf_hub_download("you/model", "m.gguf"))
    assert path.read_bytes() == gguf.read_bytes()


def test_a_fault_passes_and_holds_only_as_often_as_asked(
    hub: RunningHub, gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    hub.state.part_size = 1_000_000
    fault = hub.state.fail(r"PUT /part/\w+/2", 500, times=2)
    uploaded(gguf)
    assert fault.reached.is_set() and fault.times == 0
    assert "m.gguf" in hub.state.repositories["model", "you/model"].files


def test_private_and_gated_repositories_open_for_whom_they_should(hub: RunningHub) -> None:
    hub.state.add_repository("you/private", {"a.txt": b"a"}, private=True)
    gated = hub.state.add_repository("you/gated", {"a.txt": b"a"}, gated="manual")
    assert HfApi().model_info("you/private").private is True
    for token, name, wanted in (
        (STRANGER, "you/private", errors.RepositoryNotFoundError),
        (False, "you/private", errors.RepositoryNotFoundError),
        (STRANGER, "you/gated", errors.GatedRepoError),
        (False, "you/gated", errors.GatedRepoError),
    ):
        with pytest.raises(wanted):
            HfApi(token=token).auth_check(name)
    gated.admitted.add("stranger")
    HfApi(token=STRANGER).auth_check("you/gated")


def test_writing_is_for_owners_with_a_token_for_it(hub: RunningHub) -> None:
    assert get_token() == "hf_canary_write"
    for token, name in ((READ, "you/m"), (STRANGER, "you/m"), ("hf_wrong", "you/m")):
        with pytest.raises(errors.HfHubHTTPError) as raised:
            HfApi(token=token).create_repo(name)
        assert raised.value.response.status_code == (401 if token == "hf_wrong" else 403)
    HfApi().create_repo("your-org/m", private=True)
    HfApi().update_repo_settings("your-org/m", gated="auto")
    made = hub.state.repositories["model", "your-org/m"]
    assert made.private and made.gated == "auto"


def test_a_space_has_variables_secrets_and_stages(hub: RunningHub) -> None:
    api = HfApi()
    api.create_repo(
        "you/s", repo_type="space", space_sdk="gradio", space_variables=[{"key": "A", "value": "1"}]
    )
    api.add_space_variable("you/s", "B", "2")
    api.add_space_secret("you/s", "HF_TOKEN", "hidden")
    assert {key: item.value for key, item in api.get_space_variables("you/s").items()} == {"A": "1", "B": "2"}
    assert list(api.get_space_secrets("you/s")) == ["HF_TOKEN"]
    api.delete_space_variable("you/s", "A")
    assert list(api.get_space_variables("you/s")) == ["B"]
    stages = [api.get_space_runtime("you/s").stage for _ in range(4)]
    assert stages == ["BUILDING", "APP_STARTING", "RUNNING", "RUNNING"]
    with pytest.raises(errors.HfHubHTTPError) as raised:
        HfApi(token=FREE).create_repo("free/s", repo_type="space", space_sdk="gradio")
    assert raised.value.response.status_code == 402
    HfApi(token=FREE).create_repo("free/s", repo_type="space", space_sdk="gradio", space_hardware="zero-a10g")
    assert hub.state.repositories["space", "free/s"].space.hardware == "zero-a10g"


def test_a_folder_replaces_a_space_exactly(hub: RunningHub, tmp_path: Path) -> None:
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "app.py").write_text("new")
    hub.state.add_repository("you/s", {"app.py": b"old", "gone.py": b"x"}, kind="space")
    HfApi().upload_folder(
        repo_id="you/s", repo_type="space", folder_path=tmp_path / "space", delete_patterns="*"
    )
    files = hub.state.repositories["space", "you/s"].files
    assert {path: file.content for path, file in files.items()} == {"app.py": b"new"}
