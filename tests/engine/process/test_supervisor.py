"""Models in processes of their own: what happens to callers when one dies, hangs or misbehaves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bench.tiny_gguf import CHATML, write_adapter, write_model
from engine.config import EngineConfig, SamplingParams
from engine.errors import EngineError, EngineStopped, ModelError, PromptTooLong, QueueFull, RequestError
from engine.probe.cpu_backend import is_known
from engine.process import client, supervisor
from engine.process.supervisor import ProcessBackend, ProcessLoader
from engine.serving.backend import LlamaBackend
from engine.serving.stream import EventStream
from engine.types import Finished, TextDelta
from tests.engine.helpers import text_of, user

SETTINGS = EngineConfig(context=512, slots=3, queue=2, speculation=False, threads=1)
LONG = SamplingParams(temperature=0, max_tokens=400, ignore_end=True)
SHORT = SamplingParams(temperature=0, max_tokens=8, ignore_end=True)
LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
EAT = "{% set ns = namespace(x=[1]) %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"
EAT_TEXT = (
    "{% set ns = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
)
HANG = "{% set n = 9 %}{% set x = n ** (n ** n) %}"  # one call of C that keeps the interpreter's lock


def when(word: str, then: str) -> str:
    return "{% if '" + word + "' in messages[-1]['content'] %}" + then + "{% endif %}" + CHATML


@pytest.fixture
def loader() -> Iterator[ProcessLoader]:
    loader = ProcessLoader(SETTINGS)
    yield loader
    for models in loader._models.values():
        for model in models:
            model.close()
    loader.close()


def open_with(loader: ProcessLoader, folder: Path, template: str = CHATML) -> ProcessBackend:
    return loader(write_model(folder / "tiny.gguf", template=template))


def begin(backend: ProcessBackend) -> tuple[EventStream, str]:
    """Start a long answer and read its first words."""
    stream, text = backend.stream(user("hello"), LONG), ""
    for event in stream:
        text += text_of([event])
        if len(text) > 5:
            break
    return stream, text


class Reader(threading.Thread):
    """Reads an answer to its end in a thread."""

    def __init__(self, stream: EventStream) -> None:
        super().__init__(daemon=True)
        self.stream, self.text, self.first = stream, "", threading.Event()
        self.error: EngineError | None = None
        self.start()

    def run(self) -> None:
        try:
            for event in self.stream:
                if isinstance(event, TextDelta):
                    self.text += event.delta
                    self.first.set()
        except EngineError as error:
            self.error = error


def ask(backend: ProcessBackend, text: str, sampling: SamplingParams = SHORT) -> str:
    return text_of(list(backend.stream(user(text), sampling)))


def test_it_answers_as_the_model_in_this_process_does(loader: ProcessLoader, tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.gguf")
    with LlamaBackend.open(path, SETTINGS) as here:
        expected = text_of(list(here.stream(user("hello ÿ é"), SHORT)))
        continued = text_of(list(here.stream("hello ÿ é", SHORT)))
        info = here.info
    with loader(path) as backend:
        assert backend.info == info
        events = list(backend.stream(user("hello ÿ é"), SHORT))
        assert text_of(events) == expected
        assert isinstance(events[-1], Finished) and events[-1].stats.generated_tokens == 8
        assert text_of(list(backend.stream("hello ÿ é", SHORT))) == continued != expected
        with pytest.raises(RequestError, match="tokens too long"):
            backend.stream(user("x" * 600), SHORT)
        with pytest.raises(PromptTooLong, match="shorten it"):
            backend.stream("x" * 600, SHORT)
        with pytest.raises(RequestError, match="not valid GBNF"):
            backend.stream(user("x"), SamplingParams(grammar="root ::= ("))
        assert ask(backend, "a lone \ud800 surrogate")
    with pytest.raises(EngineStopped, match="shut down"):
        backend.stream(user("x"), SHORT)


def test_a_file_without_a_template_is_served_with_one_that_is_given(
    loader: ProcessLoader, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "tiny.gguf", template=" ")
    with pytest.raises(ModelError, match="carries no chat template: give one with --template FILE"):
        loader(path)
    with pytest.raises(ModelError, match=r"template of --template does not render: .*give another"):
        loader(path, chat_template="{% if %}")
    with loader(write_model(tmp_path / "own.gguf")) as own, loader(path, chat_template="chatml") as given:
        assert ask(given, "hello") == ask(own, "hello")
    info = loader.describe(path, "chatml")
    assert info.name == "tiny" and is_known(path, True, "chatml") and not is_known(path, True)


def test_cancel_ends_an_answer_and_frees_its_slot(loader: ProcessLoader, tmp_path: Path) -> None:
    backend = open_with(loader, tmp_path)
    streams = [begin(backend)[0] for _ in range(3)]
    assert ask(backend, "hello")  # the streams were left, which cancels them
    stream = backend.stream(user("hello"), LONG)
    stream.cancel()
    last = list(stream)[-1]
    assert isinstance(last, Finished) and last.reason == "cancelled"
    del streams


def test_a_full_queue_is_refused_and_counted(loader: ProcessLoader, tmp_path: Path) -> None:
    backend = open_with(loader, tmp_path)
    streams = [backend.stream(user(f"hello {n}"), LONG) for n in range(5)]
    with pytest.raises(QueueFull, match="5 requests"):
        backend.stream(user("hello"), LONG)
    for stream in streams:
        stream.cancel()
    assert all(isinstance(list(stream)[-1], Finished) for stream in streams)


def test_killed_amid_three_answers_each_keeps_its_text_and_the_next_question_is_answered(
    tmp_path: Path,
) -> None:
    loader = ProcessLoader(replace(SETTINGS, context=1 << 15))
    endless = SamplingParams(temperature=0, max_tokens=30_000, ignore_end=True)  # minutes
    roomy = {"llama.context_length": 1 << 15}
    backend = loader(write_model(tmp_path / "tiny.gguf", metadata=roomy))
    other = loader(write_model(tmp_path / "other.gguf", metadata=roomy, seed=1))
    readers = [Reader(backend.stream(user(f"hello {n}"), endless)) for n in range(3)]
    undisturbed = Reader(other.stream(user("hello"), endless))
    for reader in (*readers, undisturbed):
        assert reader.first.wait(30)
    os.kill(backend.pid, signal.SIGKILL)
    for reader in readers:
        reader.join(30)
        assert reader.text
        assert isinstance(reader.error, EngineStopped)
        assert "tiny.gguf ended (SIGKILL); it starts again: repeat the request" in str(reader.error)
    before = len(undisturbed.text)
    assert ask(backend, "hello") and not backend.failed
    assert undisturbed.error is None and len(undisturbed.text) > before
    backend.close()
    other.close()
    undisturbed.join(30)
    assert isinstance(undisturbed.error, EngineStopped) and "shut down" in str(undisturbed.error)


def test_after_three_deaths_it_is_given_up_by_name(
    loader: ProcessLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_BACK_OFF", 0.1)
    backend = open_with(loader, tmp_path)
    for _ in range(2):
        os.kill(backend.pid, signal.SIGKILL)
        while not ask_or_wait(backend):
            pass
    os.kill(backend.pid, signal.SIGKILL)
    with pytest.raises(EngineStopped, match=r"tiny\.gguf is not started again, as its process ended 3 times"):
        while True:
            ask_or_wait(backend)
    assert backend.failed and backend.given_up
    with pytest.raises(EngineStopped, match="not started again"):
        backend.stream(user("hello"), SHORT)


def ask_or_wait(backend: ProcessBackend) -> str:
    """Ask; return nothing when the process ended meanwhile and starts again."""
    try:
        return ask(backend, "hello")
    except EngineStopped as error:
        if "starts again" not in str(error):
            raise
        return ""


def test_a_process_that_hangs_is_killed_and_started_again(
    loader: ProcessLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "HANG_SECONDS", 1.0)
    backend = open_with(loader, tmp_path, when("abcdef", HANG))
    assert begin(backend)[1]
    with pytest.raises(EngineStopped, match="it hung"):
        backend.stream(user("abcdef"), SHORT)
    assert ask(backend, "hello")


@pytest.mark.parametrize(
    ("trap", "line"),
    [
        (LOOP, "takes too long for this conversation"),
        (EAT, "chat template|ended"),
        (EAT_TEXT, "chat template|ended"),
    ],
    ids=["loop", "list", "text"],
)
def test_a_template_that_misbehaves_for_some_conversations_costs_only_those(
    loader: ProcessLoader, tmp_path: Path, trap: str, line: str
) -> None:
    backend = open_with(loader, tmp_path, when("abcdef", trap))
    child = psutil.Process(backend.pid)
    with pytest.raises((RequestError, EngineStopped), match=line):
        backend.stream(user("abcdef"), SHORT)
    assert ask(backend, "hello")
    if child.is_running():
        assert child.memory_info().rss < 2 << 30


def test_loops_of_many_callers_do_not_add_up(tmp_path: Path) -> None:
    loader = ProcessLoader(replace(SETTINGS, queue=40))
    with loader(write_model(tmp_path / "tiny.gguf", template=when("abcdef", LOOP))) as backend:
        child = psutil.Process(backend.pid)
        before = child.cpu_times().user
        started = [backend.start(user("abcdef"), SHORT) for _ in range(16)]
        assert all(isinstance(accepted.exception(120), RequestError) for _, accepted in started)
        assert ask(backend, "hello")
        assert child.cpu_times().user - before < 20  # 16 times three seconds would be 48


def test_who_hangs_up_ends_the_loop_of_a_template(loader: ProcessLoader, tmp_path: Path) -> None:
    backend = open_with(loader, tmp_path, when("abcdef", LOOP))
    for _ in range(45):
        stream, accepted = backend.start(user("abcdef"), SHORT)
        stream.cancel()
        assert accepted.exception(30) is None
        last = list(stream)[-1]
        assert isinstance(last, Finished) and last.reason == "cancelled"
    assert ask(backend, "hello")


def test_a_file_truncated_while_it_is_served_is_refused_with_the_cause(
    loader: ProcessLoader, tmp_path: Path
) -> None:
    backend = open_with(loader, tmp_path)
    path = Path(backend.info.path)
    os.truncate(path, 4096)
    with pytest.raises((EngineStopped, ModelError)):
        while True:  # pages that were read stay in memory until the kernel takes them away
            ask(backend, "hello " * 20)
            os.kill(backend.pid, signal.SIGBUS)
    with pytest.raises(ModelError, match=r"tiny\.gguf is damaged or not supported"):
        backend.stream(user("hello"), SHORT)
    assert backend.given_up


def test_a_truncated_or_missing_file_is_refused_as_in_this_process(
    loader: ProcessLoader, tmp_path: Path
) -> None:
    path = write_model(tmp_path / "tiny.gguf")
    os.truncate(path, 5000)
    with pytest.raises(ModelError, match="damaged or not supported"):
        loader(path)
    with pytest.raises(ModelError, match="cannot be read"):
        loader.describe(tmp_path / "missing.gguf")


def test_an_adapter_shares_the_process_and_comes_back_with_it(loader: ProcessLoader, tmp_path: Path) -> None:
    backend = open_with(loader, tmp_path)
    adapter = write_adapter(tmp_path / "adapter.gguf")
    tuned = loader(Path(backend.info.path), adapter)
    assert tuned.model is backend.model and tuned.info.adapter == str(adapter)
    plain, changed = ask(backend, "hello"), ask(tuned, "hello")
    assert plain != changed
    os.kill(backend.pid, signal.SIGKILL)
    while not (again := ask_or_wait(tuned)):
        pass
    assert again == changed and ask_or_wait(backend) == plain
    backend.close()
    assert ask(tuned, "hello") == changed
    with pytest.raises(EngineStopped):
        ask(backend, "hello")
    with pytest.raises(ModelError, match="is no working adapter"):
        loader(Path(tuned.info.path), write_adapter(tmp_path / "wrong.gguf", width=32))
    assert ask(tuned, "hello") == changed
    child = psutil.Process(tuned.pid)
    tuned.close()
    child.wait(10)


def test_a_load_that_nobody_waits_for_is_ended(loader: ProcessLoader, tmp_path: Path) -> None:
    path = write_model(tmp_path / "tiny.gguf")
    with pytest.raises(EngineStopped, match="nobody waits"):
        loader(path, progress=lambda share: False)


def test_an_adapter_that_nobody_waits_for_leaves_its_model_alone(
    loader: ProcessLoader, tmp_path: Path
) -> None:
    backend = open_with(loader, tmp_path)
    adapter = write_adapter(tmp_path / "adapter.gguf")
    with pytest.raises(EngineStopped, match="nobody waits"):
        loader(Path(backend.info.path), adapter, progress=lambda share: False)
    assert ask(backend, "hello")
    with loader(Path(backend.info.path), adapter) as tuned:
        assert ask(tuned, "hello")


@pytest.mark.parametrize(
    "sampling",
    [SamplingParams(stop=("\ud800",)), SamplingParams(grammar="\udfff"), SamplingParams(top_k=5.5)],  # type: ignore[arg-type]
    ids=["stop", "grammar", "type"],
)
def test_settings_that_cannot_be_sent_are_refused_and_the_process_lives(
    loader: ProcessLoader, tmp_path: Path, sampling: SamplingParams
) -> None:
    backend = open_with(loader, tmp_path)
    before = backend.pid
    with pytest.raises(RequestError, match="settings of the request"):
        backend.stream(user("hello"), sampling)
    assert ask(backend, "hello") and backend.pid == before


def test_counters_survive_a_death_and_are_counted_once(loader: ProcessLoader, tmp_path: Path) -> None:
    backend = open_with(loader, tmp_path)
    assert ask(backend, "hello")
    while backend.stats().requests < 1:
        time.sleep(0.01)
    os.kill(backend.pid, signal.SIGKILL)
    while not ask_or_wait(backend):
        assert backend.stats().requests == 1
    while backend.stats().requests < 2:
        time.sleep(0.01)
    assert backend.stats().requests == 2


def test_a_process_that_cannot_be_started_is_tried_again(
    loader: ProcessLoader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_BACK_OFF", 0.1)
    backend = open_with(loader, tmp_path)
    start, tries = supervisor.ModelProcess, []

    def short_of_memory(*arguments: object) -> object:
        tries.append(arguments)
        if len(tries) == 1:
            raise OSError("cannot allocate memory")
        return start(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(supervisor, "ModelProcess", short_of_memory)
    os.kill(backend.pid, signal.SIGKILL)
    while not ask_or_wait(backend):
        pass
    assert len(tries) == 2


def test_nothing_is_left_behind_a_server_that_was_killed(tmp_path: Path) -> None:
    """Also while C code keeps the lock of the model process's interpreter."""
    path = write_model(tmp_path / "tiny.gguf", template=when("abcdef", HANG))
    code = """
import os, sys, time
from pathlib import Path
from engine.config import EngineConfig, SamplingParams
from engine.process.supervisor import ProcessLoader
backend = ProcessLoader(EngineConfig(context=512, slots=2, threads=1, speculation=False))(Path(sys.argv[1]))
print("llama_cpp" in sys.modules, backend.pid, flush=True)
kept = backend.start([{"role": "user", "content": "abcdef"}], SamplingParams())
time.sleep(60)
"""
    server = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    loaded, number = server.stdout.readline().split()
    assert loaded == "False"  # the server's process has no llama.cpp
    child = psutil.Process(int(number))
    before = child.cpu_times().user
    while child.cpu_times().user < before + 0.5:  # until it is in the C code
        time.sleep(0.05)
    server.kill()
    server.wait()
    child.wait(10)
