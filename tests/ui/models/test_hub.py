"""The file of a repository on the Hub is chosen by the repository's certificate."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest

from common.certificate import NAME, Certificate, Finding, Status
from engine.errors import ModelError
from ui.models.files import choose_with_reason

Q4, Q5, Q8 = "m-Q4_K_M.gguf", "m-Q5_K_M.gguf", "m-Q8_0.gguf"
SIZES: dict[str, int | None] = {"README.md": 10, Q4: 4, Q5: 5, Q8: 8, "mmproj-F16.gguf": 1, "m-F16.gguf": 16}


def certificate(**statuses: Status) -> str:
    """Return a certificate that has a finding of these statuses for the files of these types."""
    files = {name: statuses[name[2:4]] for name in (Q4, Q5, Q8) if name[2:4] in statuses}
    findings = [Finding("survival", status, "", {}, file=name) for name, status in files.items()]
    return json.dumps(Certificate.of(findings, dict.fromkeys(files, "ab"), {}, {}).to_json())


class Hub:
    """A Hub with one repository, "you/model"; `downloaded` are the files that were fetched."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.certificate = folder, ""
        self.sizes = SIZES
        self.downloaded: list[str] = []

    def model_info(self, repository: str, *, revision: str | None, files_metadata: bool) -> SimpleNamespace:
        assert (repository, revision, files_metadata) == ("you/model", None, True)
        sizes = self.sizes | ({NAME: len(self.certificate)} if self.certificate else {})
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=n, size=s) for n, s in sizes.items()])

    def hf_hub_download(self, repository: str, name: str, *, revision: str | None) -> str:
        assert (repository, name, revision) == ("you/model", NAME, None)
        (self._folder / name).write_text(self.certificate, encoding="utf-8")
        return str(self._folder / name)

    def snapshot_download(
        self, repository: str, *, revision: str | None, allow_patterns: list[str], tqdm_class: type
    ) -> str:
        assert (repository, revision) == ("you/model", None)
        for name in allow_patterns:
            (self._folder / name).write_bytes(b"GGUF")
            self.downloaded.append(name)
        return str(self._folder)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    fake = Hub(tmp_path)
    for name in ("model_info", "hf_hub_download", "snapshot_download"):
        monkeypatch.setattr(huggingface_hub, name, getattr(fake, name))
    return fake


@pytest.mark.parametrize(
    ("made", "best", "reason"),
    [
        ("", Q4, "skipped"),  # by the names alone
        (certificate(Q4="pass", Q5="pass", Q8="pass"), Q4, "pass"),
        (certificate(Q4="fail", Q5="pass", Q8="pass"), Q5, "pass"),
        (certificate(Q4="warn", Q5="fail", Q8="pass"), Q8, "pass"),
        (certificate(Q4="fail", Q5="warn", Q8="fail"), Q5, "warn"),
        (certificate(Q4="fail", Q5="fail"), Q8, "skipped"),  # it was added later, unchecked
    ],
)
def test_the_choice_goes_by_the_certificate(hub: Hub, made: str, best: str, reason: str) -> None:
    hub.certificate = made
    path, why = choose_with_reason(Path("you/model"))
    assert (path.name, why, hub.downloaded) == (best, reason, [best])


def test_a_named_file_is_taken_whatever_its_certificate_says(hub: Hub) -> None:
    hub.certificate = certificate(Q4="fail", Q8="pass")
    path, why = choose_with_reason(Path(f"you/model/{Q4}"))
    assert (path.name, why, hub.downloaded) == (Q4, None, [Q4])


def test_a_certificate_of_other_files_decides_nothing(hub: Hub) -> None:
    hub.certificate, hub.sizes = certificate(Q4="fail"), {"n-Q4_K_M.gguf": 4, "n-Q8_0.gguf": 8}
    assert choose_with_reason(Path("you/model"))[0].name == "n-Q4_K_M.gguf"


def test_shards_are_one_model_and_sizes_may_be_missing(hub: Hub) -> None:
    shards = [f"m-Q5_K_M-0000{number}-of-00002.gguf" for number in (1, 2)]
    hub.sizes = {**dict.fromkeys(shards), "m-F16.gguf": None}
    assert choose_with_reason(Path("you/model"))[0].name == shards[0] and hub.downloaded == shards


def test_a_broken_certificate_and_a_repository_without_models_are_named(hub: Hub) -> None:
    hub.certificate = "{"
    with pytest.raises(
        ModelError, match=r"^the repository 'you/model': .*certificate\.json .*or name a file"
    ):
        choose_with_reason(Path("you/model"))
    hub.certificate, hub.sizes = "", {"README.md": 3, "mmproj-F16.gguf": 1}
    with pytest.raises(ModelError, match="'you/model' holds no GGUF model"):
        choose_with_reason(Path("you/model"))
