"""The process's side: an engine that failed for good ends its process, so that it is started again."""

from __future__ import annotations

from typing import cast

from engine.config import SamplingParams
from engine.errors import EngineStopped
from engine.process.messages import Ask, Failed, Reply
from engine.process.server import STUCK, ModelServer
from engine.serving.backend import LlamaBackend


class FailedBackend:
    """A backend whose engine failed too often."""

    failed = True

    def check_room(self, preparing: int = 0) -> None:
        raise EngineStopped("the engine failed too often and stays down")


def test_a_request_to_an_engine_that_failed_for_good_ends_the_process() -> None:
    sent: list[Reply] = []
    left: list[int] = []
    server = ModelServer(sent.append, left.append)
    server._backends[0] = cast(LlamaBackend, FailedBackend())
    server.handle(Ask(1, 0, [{"role": "user", "content": "hello"}], SamplingParams()))
    assert left == [STUCK]
    [failed] = sent
    assert isinstance(failed, Failed) and "stays down" in failed.failure.text


def test_a_request_to_an_adapter_that_was_closed_ends_only_itself() -> None:
    sent: list[Reply] = []
    left: list[int] = []
    ModelServer(sent.append, left.append).handle(Ask(1, 5, [], SamplingParams()))
    assert left == [] and isinstance(sent[0], Failed)
