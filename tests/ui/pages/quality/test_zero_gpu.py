"""ZeroGPU: a button bound to a decorated function, which is reported; elsewhere neither, nor the package."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.ui.fake_backend import FakeBackend
from ui.cli import ServeError
from ui.models.registry import one_model
from ui.pages.quality import zero_gpu
from ui.server.launch import _report_to_zero_gpu
from ui.server.page import build_page


class FakeSpaces(ModuleType):
    """The package `spaces` as on ZeroGPU; `startup` reports to `reports`, or fails with `error`."""

    def __init__(self) -> None:
        super().__init__("spaces")
        self.decorated: dict[Callable[[], Any], int] = {}
        self.reports: list[int] = []
        self.error: Exception | None = None
        self.zero = SimpleNamespace(startup=self.startup)

    def GPU(self, task: Callable[[], Any], *, duration: int) -> Callable[[], Any]:
        def decorated() -> Any:
            return task()

        self.decorated[decorated] = duration
        return decorated

    def startup(self) -> None:
        if self.error is not None:
            raise self.error
        self.reports.append(len(self.decorated))


@pytest.fixture
def spaces(monkeypatch: pytest.MonkeyPatch) -> FakeSpaces:
    fake = FakeSpaces()
    monkeypatch.setitem(sys.modules, "spaces", fake)
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    return fake


def handlers_of_the_button() -> list[Any]:
    """Return the functions that a click of the button runs, out of a page that is built for it."""
    page = build_page(one_model(FakeBackend()), 8)
    buttons = {key for key, block in page.blocks.items() if block.elem_id == "time-gpu"}
    return [fn.fn for fn in page.fns.values() if any(target in buttons for target, _ in fn.targets)]


def test_the_button_runs_the_decorated_function_itself(spaces: FakeSpaces) -> None:
    assert handlers_of_the_button() == list(spaces.decorated)
    assert list(spaces.decorated.values()) == [zero_gpu.SECONDS]
    _report_to_zero_gpu()
    assert spaces.reports == [1]


@pytest.mark.parametrize("value", [None, "", "false", "0"])
def test_elsewhere_there_is_no_button_and_no_report(
    value: str | None, spaces: FakeSpaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spaces", None)  # its import would fail
    monkeypatch.delenv("SPACES_ZERO_GPU") if value is None else monkeypatch.setenv("SPACES_ZERO_GPU", value)
    if value is None:
        assert handlers_of_the_button() == []
    _report_to_zero_gpu()
    assert spaces.reports == []


def test_a_report_that_is_not_taken_ends_the_start_with_one_line(spaces: FakeSpaces) -> None:
    spaces.error = RuntimeError("Error while initializing ZeroGPU: NotFound")
    with pytest.raises(ServeError, match=r"initializing ZeroGPU: NotFound\): restart the Space"):
        _report_to_zero_gpu()


def test_a_missing_package_ends_the_start_with_one_line(
    spaces: FakeSpaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "spaces", None)
    with pytest.raises(ServeError, match=r"add spaces to requirements.txt"):
        zero_gpu.for_the_gpu(zero_gpu.time_products)


def test_the_speed_is_that_of_the_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two operations for each of 8192³ pairs; one product is not timed, since it loads the library."""
    products: list[int] = []

    class Matrix:
        def __matmul__(self, _other: Matrix) -> None:
            products.append(1)

    cuda = SimpleNamespace(synchronize=lambda: None, get_device_name=lambda: "Fake H200")
    torch = SimpleNamespace(randn=lambda *_, **__: Matrix(), bfloat16=None, cuda=cuda)
    monkeypatch.setitem(sys.modules, "torch", torch)
    clock = iter([10.0, 10.5])
    monkeypatch.setattr(zero_gpu, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    name, speed = zero_gpu.time_products()
    assert name == "Fake H200" and len(products) == 51
    assert speed == pytest.approx(50 * 2 * 8192**3 / 0.5 / 1e12)
