from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import BackendError, EngineStopped, ModelError
from engine.llama import library as native
from engine.llama.library import find_variants, variant_name
from engine.probe import cpu_backend as cpu
from engine.probe.client import ProbeResult
from engine.probe.cpu_backend import cache_path, candidates, load_cpu_backend, probe_model


def _string(text: bytes) -> bytes:
    return struct.pack("<Q", len(text)) + text


def _vocabulary_only(path: Path, template: str) -> Path:
    """Write a GGUF with a tiny vocabulary, a template and no weights: enough for the inspection."""
    tokens = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % n for n in range(256)), b"a"]
    types = [2, 3, 3, *([6] * 256), 1]

    def array(kind: int, items: list[bytes]) -> bytes:
        return struct.pack("<IIQ", 9, kind, len(items)) + b"".join(items)

    def text(value: bytes) -> bytes:
        return struct.pack("<I", 8) + _string(value)

    pairs = {
        "general.architecture": text(b"llama"),
        "llama.context_length": struct.pack("<II", 4, 64),
        "tokenizer.ggml.model": text(b"llama"),
        "tokenizer.ggml.tokens": array(8, [_string(t) for t in tokens]),
        "tokenizer.ggml.scores": array(6, [struct.pack("<f", 0.0)] * len(tokens)),
        "tokenizer.ggml.token_type": array(5, [struct.pack("<i", t) for t in types]),
        "tokenizer.chat_template": text(template.encode()),
    }
    body = b"".join(_string(key.encode()) + value for key, value in pairs.items())
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(pairs)) + body)
    return path


def test_every_variant_of_the_build_is_found() -> None:
    names = [variant_name(path) for path in find_variants()]
    if not names:
        pytest.skip("this build has its backend compiled in")
    assert len(names) == len(set(names)) and all(names)


def test_first_with_extra_buffers_then_without() -> None:
    paths = [Path(f"libggml-cpu-{n}.so") for n in "abcdefg"]
    tried = [(variant_name(p) if p else None, extra) for p, extra in candidates(paths, True)]
    assert tried == [
        ("a", True),
        ("b", True),
        ("c", True),
        ("d", True),
        ("a", False),
        ("b", False),
        ("g", False),
    ]
    assert all(not extra for _, extra in candidates(paths, False))
    assert candidates([], True) == [(None, True), (None, False)]


def test_the_real_model_is_probed_once_and_then_recalled(smollm2: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineStopped, match="nobody waits"):
        probe_model(smollm2, cache=tmp_path, progress=lambda _: False)
    reached: list[float] = []
    first = probe_model(smollm2, cache=tmp_path, progress=lambda share: not reached.append(share))  # type: ignore[func-returns-value]
    assert reached == sorted(reached) and len(reached) > 20 and reached[-1] == 1
    assert first.facts.architecture == "llama" and first.facts.quantization == "Q4_1"
    assert first.facts.parameters == 134_515_008 and first.facts.trained_context == 8192
    assert "<|im_end|>" in first.facts.ends and "<|im_end|>" in first.facts.control
    began = time.monotonic()
    assert probe_model(smollm2, cache=tmp_path) == first
    assert time.monotonic() - began < 0.3, "a second start must not probe"


def test_the_choice_loads_here(smollm2: Path, cache: Path) -> None:
    choice = load_cpu_backend(smollm2)
    assert load_cpu_backend(smollm2) == choice


def test_a_changed_file_is_probed_again(smollm2: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.gguf"
    copy.write_bytes(smollm2.read_bytes())
    memo = cache_path("probe", copy, True)
    assert memo == cache_path("probe", copy, True) != cache_path("probe", copy, False)
    copy.touch()
    assert cache_path("probe", copy, True) != memo


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (lambda raw: raw[: len(raw) // 2], "damaged"),
        (lambda raw: raw[:1000], "damaged"),
        (lambda raw: raw[:4] + b"\xff" * 400, "damaged"),
        (lambda raw: b"PK\x03\x04" + raw[4:1000], "not a GGUF"),
        (lambda raw: b"", "not a GGUF"),
    ],
)
def test_a_bad_file_is_one_line(
    smollm2: Path, tmp_path: Path, damage: Callable[[bytes], bytes], word: str
) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(damage(smollm2.read_bytes()))
    with pytest.raises(ModelError, match=word) as caught:
        probe_model(bad, cache=tmp_path / "cache")
    assert str(bad) in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "cache").exists(), "a failure is not remembered"


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"none\.gguf cannot be read"):
        probe_model(tmp_path / "none.gguf", cache=tmp_path)


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "too long"),
        ("{{ 'x' * 10**12 }}", "template"),
        ("{{ raise_exception('never') }}", "never"),
        ("", "no chat template"),
    ],
)
def test_a_hostile_or_missing_template_is_an_error_and_no_hang(
    tmp_path: Path, template: str, word: str
) -> None:
    model = _vocabulary_only(tmp_path / "evil.gguf", template)
    began = time.monotonic()
    with pytest.raises(ModelError, match=word):
        probe_model(model, cache=tmp_path)
    assert time.monotonic() - began < 15


def _fake_children(monkeypatch: pytest.MonkeyPatch, survives: Callable[[bool], bool]) -> list[bool]:
    """Fake the child processes; return the list of their `extra_buffers`. `survives` decides who crashes."""
    calls: list[bool] = []

    def compute(job: str, model: Path, *, extra_buffers: bool, **more: object) -> ProbeResult:
        calls.append(extra_buffers)
        return (
            ProbeResult(0, False, {"finite": True})
            if survives(extra_buffers)
            else ProbeResult(-4, False, None)
        )

    monkeypatch.setattr(cpu, "compute", compute)
    return calls


def test_crashing_variants_are_passed_over(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = _fake_children(monkeypatch, lambda extra_buffers: not extra_buffers)
    choice = probe_model(smollm2, cache=tmp_path).choice
    assert not choice.extra_buffers and len(calls) >= 2


def test_when_nothing_runs_it_says_what_to_do(
    smollm2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake_children(monkeypatch, lambda extra_buffers: False)
    with pytest.raises(BackendError, match=r"SIGILL.*GGML_NATIVE=OFF"):
        probe_model(smollm2, cache=tmp_path)


def test_the_log_is_read_while_another_thread_writes_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Line(str):
        """A line during whose reading another thread logs."""

        def __bool__(self) -> bool:
            native._log_lines.append("later")
            return True

    monkeypatch.setattr(native, "_log_lines", deque([Line("first"), "second"], maxlen=12))
    assert native.last_log() == "first; second"
    assert native.last_log() == "later"
