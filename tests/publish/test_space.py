"""`publish space` with the real client: made, updated, made anew from other settings, waited for, refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import HfApi, SpaceRuntime, constants
from typer import Typer
from typer.testing import CliRunner

from common.errors import InputError, UserError
from publish import space_runtime
from publish.cli import space as cli
from publish.cli.app import app
from publish.llama_wheel import LlamaBuild
from publish.space import SpacePlan
from publish.space_settings import MARK
from tests.publish.conftest import FREE, READ, STRANGER, WRITE
from tests.publish.hub_server import RunningHub
from tests.publish.hub_state import Space
from tests.publish.spaces import LLAMA, PLAN, packed, published, space_of

pytestmark = pytest.mark.usefixtures("few_files")


@pytest.mark.usefixtures("model")
def test_a_new_space_has_exactly_the_files_the_settings_and_runs(hub: RunningHub) -> None:
    plan = replace(PLAN, variables={"GGUF_CHAT_SLOTS": "2"}, secrets={"GGUF_CHAT_API_KEY": "canary-key"})
    address, lines = published(plan)
    assert address == "https://you-chat.hf.space"
    repository, space = hub.state.repositories["space", "you/chat"], space_of(hub)
    assert set(repository.files) == set(packed(plan))
    assert "llama_cpp/lib/libllama.so" in repository.files
    assert space.hardware == "cpu-basic"
    assert space.variables == {"GGUF_CHAT_SLOTS": "2", "GGUF_CHAT_MODEL": "you/bob/bob-Q4_K_M.gguf"}
    assert space.secrets == {"GGUF_CHAT_API_KEY": "canary-key"}
    assert lines[0] == f"created {hub.url}/spaces/you/chat on cpu-basic"
    assert lines[-2:] == ["the Space is being built (BUILDING)", "the Space starts (APP_STARTING)"]
    assert not [line for line in lines if "canary" in line]


@pytest.mark.usefixtures("model")
def test_publishing_again_changes_nothing(hub: RunningHub) -> None:
    published(PLAN)
    repository, sent = hub.state.repositories["space", "you/chat"], hub.state.sent_bytes
    hub.state.requests.clear()
    _, lines = published(PLAN)
    assert lines == ["no file has changed"]
    assert len(repository.commits) == 2 and hub.state.sent_bytes == sent
    written = {r.path for r in hub.state.requests if r.method != "GET"}
    assert written <= {"/api/spaces/you/chat/preupload/main", "/api/validate-yaml"}


@pytest.mark.usefixtures("model")
def test_publishing_again_removes_files_and_variables_that_left(hub: RunningHub) -> None:
    published(replace(PLAN, variables={"GGUF_CHAT_SLOTS": "2", "GGUF_CHAT_QUEUE": "4"}))
    repository, space = hub.state.repositories["space", "you/chat"], space_of(hub)
    space.variables["THEIR_OWN"] = "kept"
    extra = {**repository.commits[-1].files, "old.py": hub.state.stored("old.py", b"left")}
    repository.add_commit("main", "By hand", extra)
    _, lines = published(replace(PLAN, variables={"GGUF_CHAT_SLOTS": "3"}, model="you/bob/bob-Q5_K_M.gguf"))
    assert "old.py" not in repository.files and "app.py" in repository.files
    assert space.variables == {
        "GGUF_CHAT_SLOTS": "3",
        "GGUF_CHAT_MODEL": "you/bob/bob-Q5_K_M.gguf",
        "THEIR_OWN": "kept",
    }
    assert "variable GGUF_CHAT_QUEUE removed" in lines and "variable GGUF_CHAT_SLOTS = 3" in lines
    assert space.descriptions["GGUF_CHAT_SLOTS"] == MARK


@pytest.mark.usefixtures("model")
def test_the_hardware_stays_unless_another_is_asked_for(hub: RunningHub) -> None:
    published(replace(PLAN, hardware="zero-a10g"))
    assert space_of(hub).hardware == "zero-a10g"
    assert b"spaces==" in packed(PLAN)["requirements.txt"]
    _, lines = published(replace(PLAN, hardware="cpu-basic"))
    assert space_of(hub).hardware == "cpu-basic"
    assert "hardware cpu-basic requested" in lines
    assert b"spaces==" not in packed(PLAN)["requirements.txt"]


@pytest.mark.usefixtures("model")
def test_a_private_space_is_made_and_an_open_one_made_private(hub: RunningHub) -> None:
    published(replace(PLAN, private=True))
    assert hub.state.repositories["space", "you/chat"].private
    published(replace(PLAN, repository="you/open"))
    assert not hub.state.repositories["space", "you/open"].private
    published(replace(PLAN, repository="you/open", private=True))
    assert hub.state.repositories["space", "you/open"].private


@pytest.mark.parametrize(("stage", "log"), [("BUILD_ERROR", "build"), ("RUNTIME_ERROR", "run")])
def test_a_space_that_does_not_run_says_why(
    stage: str, log: str, hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space_runtime, "STALE_SECONDS", 0)
    repository = hub.state.add_repository("you/chat", kind="space", space=Space("gradio"))
    space = space_of(hub)
    space.stages = ["BUILDING", stage]
    space.error, space.build_log = (
        "No @spaces.GPU function",
        ["--> RUN pip install\n", "ERROR: exit code: 1\n"],
    )
    with pytest.raises(UserError) as caught:
        space_runtime.wait_until_running(
            HfApi(), "you/chat", repository.commits[-1].oid, lambda _: None, timeout=5, interval=0
        )
    assert caught.value.exit_code == 1
    assert str(caught.value) == (
        f"the Space you/chat does not run: {stage}: No @spaces.GPU function; its log ends with: "
        "--> RUN pip install | ERROR: exit code: 1"
    )
    assert any(request.path.endswith(f"/logs/{log}") for request in hub.state.requests)


@pytest.mark.parametrize(
    ("stage", "wanted"),
    [("PAUSED", "it is paused: restart it"), ("NO_APP_FILE", "no app.py"), ("BUILDING", "after 0 seconds")],
)
def test_a_space_that_waits_for_somebody_is_not_waited_for(stage: str, wanted: str, hub: RunningHub) -> None:
    repository = hub.state.add_repository("you/chat", kind="space", space=Space("gradio", stages=[stage]))
    with pytest.raises(UserError, match=wanted):
        space_runtime.wait_until_running(
            HfApi(), "you/chat", repository.commits[-1].oid, lambda _: None, timeout=0, interval=0
        )


def test_the_stage_of_an_earlier_commit_does_not_count() -> None:
    stages = [("BUILD_ERROR", "old"), ("BUILDING", "old"), ("RUNNING", "old"), ("RUNNING", "new")]
    runtimes = iter([SpaceRuntime({"stage": stage, "sha": sha}) for stage, sha in stages])
    api: Any = SimpleNamespace(get_space_runtime=lambda _: next(runtimes))
    seen: list[str] = []
    runtime = space_runtime.wait_until_running(api, "you/chat", "new", seen.append, timeout=60, interval=0)
    assert runtime.raw["sha"] == "new"
    assert seen == [
        "the Space waits for its build (BUILD_ERROR)",
        "the Space is being built (BUILDING)",
        "the Space waits for its build (RUNNING)",
    ]


@pytest.mark.usefixtures("model")
def test_faults_of_the_hub_do_not_end_the_wait(hub: RunningHub) -> None:
    hub.state.fail(r"GET /api/spaces/you/chat/runtime", 502, times=3)
    assert published(PLAN)[0] == "https://you-chat.hf.space"
    hub.state.fail(r"GET /api/spaces/you/chat/runtime", 502, times=1000, after=1)
    with pytest.raises(InputError, match="the Hub itself has a fault"):
        published(replace(PLAN, seconds=0.0))


@pytest.mark.parametrize("seconds", ["-3", "nan", "inf"])
def test_a_time_without_end_is_refused(seconds: str, hub: RunningHub) -> None:
    done = CliRunner().invoke(app, ["space", "you/chat", "--model", PLAN.model, "--timeout", seconds])
    assert done.exit_code == 2
    assert done.output == f"error: --timeout {seconds}: give seconds, 0 or more\n"
    assert hub.state.requests == []


@pytest.mark.usefixtures("model")
def test_a_model_that_is_still_here_is_to_be_published_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    (tmp_path / "models" / "mine" / "mine.gguf").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"models/mine/mine.gguf is here: bring it there first"):
        published(replace(PLAN, model="models/mine/mine.gguf"))


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("token", "plan", "wanted"),
    [
        (
            FREE,
            replace(PLAN, repository="free/chat"),
            "take --hardware zero-a10g, of which a free account may",
        ),
        (FREE, replace(PLAN, repository="free/chat", hardware="t4-small"), "payment for t4-small"),
        (READ, PLAN, "may only read: make one that may write"),
        (STRANGER, PLAN, "'you' is neither the account of your token nor"),
        (None, PLAN, "there is no token: log in"),
        ("hf_unknown", PLAN, "refuses your token"),
        (WRITE, replace(PLAN, model="you/bob"), "name one of bob-Q4_K_M.gguf, bob-Q5_K_M.gguf"),
        (WRITE, replace(PLAN, model="you/bob/bob-Q8_0.gguf"), "has no file bob-Q8_0.gguf: name one of"),
        (
            WRITE,
            replace(PLAN, model="you/nothing/x.gguf"),
            "model 'you/nothing': the Hub has no such repository",
        ),
        (WRITE, replace(PLAN, model="models/bob/../x.gguf"), "names no GGUF file"),
        (WRITE, replace(PLAN, model="/models/bob.gguf"), "is no model on the Hub"),
        (WRITE, replace(PLAN, model="bob.gguf"), "is no model on the Hub"),
        (WRITE, replace(PLAN, model="you/bob/bob.txt"), "is no model on the Hub"),
        (WRITE, replace(PLAN, model="https://example.com/you/bob"), "is no model on the Hub"),
        (WRITE, replace(PLAN, model="you/bob:Q8_0"), "has no GGUF file of type Q8_0: name one of bob-Q4_K_M"),
        (WRITE, replace(PLAN, model="you/bob@v9:Q4_K_M"), "the Hub has it, but not that branch"),
    ],
)
def test_refusals_are_one_line_with_the_way_out(
    token: str | None, plan: SpacePlan, wanted: str, hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", token or "")
    with pytest.raises(InputError) as caught:
        published(plan)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value) and "canary" not in str(caught.value)
    assert not [kind for kind, _ in hub.state.repositories if kind == "space"]


@pytest.mark.usefixtures("model")
def test_a_third_free_space_is_refused(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", FREE)
    for name in ("free/one", "free/two"):
        published(replace(PLAN, repository=name, hardware="zero-a10g"))
    with pytest.raises(InputError, match="a free one has two: delete one"):
        published(replace(PLAN, repository="free/three", hardware="zero-a10g"))
    assert ("space", "free/three") not in hub.state.repositories


@pytest.mark.parametrize("closed", [{"private": True}, {"gated": "auto"}])
def test_a_model_that_is_not_open_to_all_needs_a_secret_token(
    closed: dict[str, Any], hub: RunningHub
) -> None:
    hub.state.add_repository("you/bob", {"bob-Q4_K_M.gguf": b"GGUF"}, **closed)
    with pytest.raises(InputError, match="add --secret HF_TOKEN"):
        published(PLAN)
    published(replace(PLAN, secrets={"HF_TOKEN": "hf_canary_reads_only"}))
    assert space_of(hub).secrets == {"HF_TOKEN": "hf_canary_reads_only"}
    assert b"preload_from_hub" not in packed(PLAN)["README.md"]  # a build has no token


@pytest.mark.usefixtures("model")
def test_a_foreign_space_is_not_overwritten(hub: RunningHub) -> None:
    theirs = {"app.py": b"print('theirs')", "README.md": b"---\nsdk: gradio\n---\n"}
    hub.state.add_repository("you/chat", theirs, kind="space", space=Space("gradio"))
    hub.state.add_repository("you/docker", kind="space", space=Space("docker"))
    with pytest.raises(InputError, match=r"has other files \(app.py\), which would go"):
        published(PLAN)
    with pytest.raises(InputError, match="is a docker Space"):
        published(replace(PLAN, repository="you/docker"))
    assert len(hub.state.repositories["space", "you/chat"].commits) == 2


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize("pattern", [r"POST /spaces/you/chat.git/info/lfs", "xet-write-token"])
def test_an_upload_that_fails_changes_nothing(
    pattern: str, hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", "lfs" in pattern)
    published(PLAN)
    space, before = space_of(hub), hub.state.repositories["space", "you/chat"].files
    variables = dict(space.variables)
    hub.state.fail(pattern, 403, times=50)
    library = {"llama_cpp/lib/libllama.so": b"\x7fELF" * 2_000_000}  # too large for git
    plan = replace(PLAN, llama=replace(LLAMA, files=library), variables={"GGUF_CHAT_SLOTS": "3"})
    with pytest.raises(InputError, match="403"):
        published(replace(plan, hardware="cpu-upgrade"))
    assert hub.state.repositories["space", "you/chat"].files == before
    assert space.variables == variables and space.hardware == "cpu-basic"


@pytest.mark.usefixtures("model")
def test_hardware_that_is_refused_changes_nothing(hub: RunningHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", FREE)
    plan = replace(PLAN, repository="free/chat", hardware="zero-a10g")
    published(plan)
    space, before = space_of(hub, "free/chat"), hub.state.repositories["space", "free/chat"].files
    with pytest.raises(InputError, match="are for paying accounts"):
        published(replace(plan, hardware="cpu-basic", variables={"GGUF_CHAT_SLOTS": "3"}))
    assert hub.state.repositories["space", "free/chat"].files == before
    assert space.variables == {"GGUF_CHAT_MODEL": PLAN.model} and space.hardware == "zero-a10g"


@pytest.mark.usefixtures("model")
def test_a_commit_that_fails_leaves_everything_as_it_was(hub: RunningHub) -> None:
    published(replace(PLAN, variables={"GGUF_CHAT_SLOTS": "2", "GGUF_CHAT_QUEUE": "4"}))
    space, before = space_of(hub), hub.state.repositories["space", "you/chat"].files
    space.variables["GGUF_CHAT_SEED"], space.descriptions["GGUF_CHAT_SEED"] = "7", "Mine"
    before_it = {name: (value, space.descriptions[name]) for name, value in space.variables.items()}
    hub.state.fail(r"POST /api/spaces/you/chat/commit", 503, times=50)
    changed = {"GGUF_CHAT_SLOTS": "3", "GGUF_CHAT_CONTEXT": "2048", "GGUF_CHAT_SEED": "8"}
    plan = replace(PLAN, title="Another", hardware="cpu-upgrade", variables=changed)
    with pytest.raises(InputError, match="the Hub itself has a fault"):
        published(replace(plan, model="you/bob/bob-Q5_K_M.gguf"))
    assert hub.state.repositories["space", "you/chat"].files == before
    assert {name: (value, space.descriptions[name]) for name, value in space.variables.items()} == before_it
    assert space.hardware == "cpu-basic"


@pytest.mark.usefixtures("model")
def test_a_dry_run_lists_everything_and_changes_nothing(
    hub: RunningHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "installed_build", lambda: LLAMA)
    monkeypatch.setenv("GGUF_CHAT_API_KEY", "canary-key")
    command = Typer()
    command.command()(cli.space)
    options = ["you/chat", "--model", PLAN.model, "--dry-run", "--secret", "GGUF_CHAT_API_KEY"]
    done = CliRunner().invoke(command, [*options, "--variable", "GGUF_CHAT_SLOTS=2"])
    assert done.exit_code == 0, done.output
    assert "  app.py" in done.output and "  llama_cpp/lib/libllama.so" in done.output
    assert "for the Space you/chat (a new one) on cpu-basic" in done.output
    assert "variable GGUF_CHAT_SLOTS = 2" in done.output and "secret GGUF_CHAT_API_KEY" in done.output
    assert "canary" not in done.output
    assert all(request.method == "GET" for request in hub.state.requests)
    assert ("space", "you/chat") not in hub.state.repositories


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(
    ("build", "code", "wanted"),
    [
        (replace(LLAMA, glibc=(2, 41)), 2, "against glibc 2.41, and a Space may have 2.36: let the Space"),
        (replace(LLAMA, machine="aarch64"), 2, "built for aarch64 here, and a Space has x86_64"),
        (replace(LLAMA, every_cpu=False), 2, "for this machine's processor alone"),
        (replace(LLAMA, machine="macosx_14_0_arm64", glibc=None), 0, "so the Space compiles it"),
    ],
)
def test_a_build_that_a_space_cannot_run_is_refused_or_compiled_there(
    build: LlamaBuild, code: int, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "installed_build", lambda: build)
    command = Typer()
    command.command()(cli.space)
    done = CliRunner().invoke(command, ["you/chat", "--model", PLAN.model, "--dry-run"])
    assert done.exit_code == code
    assert wanted in done.output
    assert ("llama_cpp/" in done.output) is False
