"""Publishing a Space in tests: what is published, and how."""

from __future__ import annotations

from collections.abc import Mapping

from publish.hub import HubClient
from publish.llama_wheel import LlamaBuild
from publish.space import SpacePlan, prepare, publish
from tests.publish.hub_server import RunningHub
from tests.publish.hub_state import Space

LLAMA = LlamaBuild(
    "0.3.36",
    {"llama_cpp/__init__.py": b"", "llama_cpp/lib/libllama.so": b"\x7fELF library"},
    "x86_64",
    (2, 34),
    True,
    ("numpy>=1.20.0",),
)
PLAN = SpacePlan("you/chat", "you/bob/bob-Q4_K_M.gguf", llama=LLAMA)
FILE = {"bob-Q4_K_M.gguf": b"GGUF four", "bob-Q5_K_M.gguf": b"GGUF five"}


def published(plan: SpacePlan) -> tuple[str, list[str]]:
    """Publish without waiting between two looks; return the address and what was reported."""
    lines: list[str] = []
    hub = HubClient(plan.repository, "space")
    return publish(hub, plan, prepare(hub, plan), lines.append, interval=0), lines


def packed(plan: SpacePlan) -> Mapping[str, bytes]:
    return prepare(HubClient(plan.repository, "space"), plan).files


def space_of(hub: RunningHub, name: str = "you/chat") -> Space:
    space = hub.state.repositories["space", name].space
    assert space is not None
    return space
