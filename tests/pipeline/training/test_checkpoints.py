"""The work folder of a training: one training at a time, nothing left without a checkpoint."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from common.files import is_disk_full
from pipeline.errors import InputError
from pipeline.training import finetune as module
from pipeline.training.checkpoints import Checkpoints, RunState
from pipeline.training.config import FinetuneConfig
from pipeline.training.device import settled
from pipeline.training.run import _with_intervals


def failed(checkpoints: Checkpoints, *, save: bool) -> None:
    """Fail in a training, after its first checkpoint or before."""
    with pytest.raises(InputError, match="diverged"), checkpoints.locked():
        checkpoints.open({"device": "cpu", "precision": "bfloat16"}, resume=True)
        if save:
            checkpoints.path(3).mkdir()
            checkpoints.seal(RunState(step=3))
        raise InputError("diverged")


def test_two_trainings_do_not_write_into_one_folder(tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    with Checkpoints(out).locked():
        with pytest.raises(InputError, match=r"another training is writing to .*adapter.: wait"):
            Checkpoints(out).locked().__enter__()
        with Checkpoints(tmp_path / "other").locked():
            pass
    with Checkpoints(out).locked():
        pass
    assert not list(tmp_path.iterdir())


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cannot be written \(.*\): choose another place with --out"):
        Checkpoints(tmp_path / "file" / "adapter").locked().__enter__()


def test_a_failure_leaves_only_checkpoints(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "adapter")
    failed(checkpoints, save=False)
    assert not list(tmp_path.iterdir())
    failed(checkpoints, save=True)
    assert checkpoints.last_step == 3
    assert [path.name for path in tmp_path.iterdir()] == [".adapter.training"]


def test_a_kill_while_checkpoints_are_removed_leaves_nothing_to_go_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path / "adapter")
    failed(checkpoints, save=True)
    checkpoints.path(4).mkdir()
    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", lambda *_, **__: None)  # killed before the first file
        checkpoints.seal(RunState(step=4))
        assert checkpoints.last_step == 4
        assert not (checkpoints.path(3) / "complete.json").exists()
        checkpoints.remove()
    assert checkpoints.last_step == 4
    again = {"device": "cpu", "precision": "bfloat16"}
    assert checkpoints.open(again, resume=True) == RunState()
    assert checkpoints.last_step is None


def test_a_training_goes_on_in_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.training.device._faster_precision", lambda _device: "float32")
    config = FinetuneConfig(base="b", data="d", out=tmp_path / "adapter", device="cpu")
    assert settled(config).precision == "float32"
    failed(Checkpoints(config.out), save=True)
    assert settled(config).precision == "bfloat16"
    assert Checkpoints(config.out).precision("cuda") is None


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (RuntimeError("I/O error: No space left on device (os error 28)"), True),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), True),
        (RuntimeError("shape mismatch"), False),
        (OSError(errno.EACCES, "Permission denied"), False),
    ],
)
def test_a_full_disk_is_known_by_its_error(
    tmp_path: Path, error: Exception, full: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1 << 30}))
    later = ValueError("while writing")
    later.__cause__ = error
    assert is_disk_full(error, tmp_path) == is_disk_full(later, tmp_path) == full


def test_the_step_to_go_on_from_is_a_checkpoints(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "adapter")
    assert module._full(checkpoints).endswith("run the same command again")
    failed(checkpoints, save=True)
    assert module._full(checkpoints).endswith("again to go on from step 3")


def test_a_single_step_has_no_warm_up(tmp_path: Path) -> None:
    config = FinetuneConfig(base="b", data="d", out=tmp_path, warmup=0.5)
    assert _with_intervals(config, 1).warmup == 0
    assert _with_intervals(config, 2).warmup == 0.5


def test_a_folder_without_a_name_is_refused() -> None:
    for out in (".", "a/..", "/"):
        with pytest.raises(InputError, match="names no folder to make"):
            module.check_out(FinetuneConfig(base="b", data="d", out=Path(out)))
