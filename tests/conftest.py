"""Fixtures shared by the tests of all packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from common.paths import cache_folder

if TYPE_CHECKING:
    from pipeline.exporter.config import ExportConfig
    from pipeline.exporter.run import ExportResult

_CACHE = cache_folder()
"""The user's, also for the fixtures of tests that have a cache of their own: workers share it."""

ROOT = Path(__file__).resolve().parent.parent
os.environ["HF_HUB_OFFLINE"] = "1"  # tests must not use the network
if "PYTEST_XDIST_WORKER" in os.environ:
    # The workers share the cores: threads of torch beyond them wait for each other in loops.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# No deadlines, so that a busy machine cannot fail a test. One profile for all tests.
settings.register_profile("tests", deadline=None)
settings.load_profile("tests")

# Marks by fixture; a test gets the mark when it uses the fixture directly or indirectly.
MARKS = {
    "browser": {"browser"},
    "model": {
        "real_base",
        "demo_adapter",
        "captain_bob",
        "plain_smollm2",
        "smollm2",
        "backend",
        "app",
        "bases",
    },
}


# The files that take longest, in this order: begun last, one would keep a core busy while the other is idle.
LONGEST = (
    "tests/ui/pages/test_page.py",
    "tests/pipeline/certificate/checks/test_quality.py",
    "tests/test_demo.py",
    "tests/pipeline/convert/test_convert.py",
    "tests/ui/pages/test_browser.py",
    "tests/pipeline/quantize/test_quantize.py",
    "tests/pipeline/exporter/test_run.py",
    "tests/bench/test_serve_bench.py",
    "tests/bench/test_soak.py",
    "tests/bench/test_export_bench.py",
    "tests/bench/test_fuzz.py",
    "tests/test_python_docs.py",
    "tests/ui/server/test_real_server.py",
    "tests/engine/process/test_supervisor.py",
    "tests/engine/prompt/test_window.py",
    "tests/pipeline/certificate/test_sabotage.py",
    "tests/pipeline/certificate/runner/test_step.py",
    "tests/ui/pages/test_models_page.py",
    "tests/ui/pages/chat/test_chat_events.py",
    "tests/test_compatibility.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the files that take long first, and mark tests by their fixtures as `model` or `browser`."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))
    for item in items:
        for mark, fixtures in MARKS.items():
            if fixtures & set(getattr(item, "fixturenames", ())):
                item.add_marker(mark)


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def python() -> str:
    return sys.executable


@pytest.fixture(scope="session")
def real_base() -> Path:
    """Return the embedded SmolLM2 as a checkpoint; cached per machine, as it never changes."""
    from pipeline.sources.bundled import make_base

    return make_base(_CACHE / "tests" / "smollm2-base")


@pytest.fixture(scope="session")
def demo_adapter() -> Path:
    return ROOT / "models" / "captain-bob-lora"


@pytest.fixture(scope="session")
def captain_bob(
    real_base: Path, demo_adapter: Path, tmp_path_factory: pytest.TempPathFactory
) -> ExportResult:
    """Export the demo as its documentation does, with more types and the f16 file for comparison."""
    from pipeline.exporter.config import ExportConfig

    out, quants = of_all_workers(tmp_path_factory) / "captain-bob", ("Q4_K_M", "Q5_K_M", "Q8_0")
    return _exported(
        ExportConfig(str(real_base), out, (str(demo_adapter),), quants, keep_f16=True, threads=2)
    )


@pytest.fixture(scope="session")
def plain_smollm2(real_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an export without an adapter: smollm2-F16.gguf and smollm2-Q4_K_M.gguf."""
    from pipeline.exporter.config import ExportConfig

    out = of_all_workers(tmp_path_factory) / "smollm2"
    return _exported(ExportConfig(str(real_base), out, quants=("Q4_K_M",), keep_f16=True, threads=2)).folder


def of_all_workers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a temporary folder that the worker processes of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


def _exported(config: ExportConfig) -> ExportResult:
    """Export, one worker process at a time: the next one finds the files finished."""
    from filelock import FileLock

    from pipeline.exporter.run import export

    with FileLock(config.out.with_suffix(".lock")):
        return export(config)
