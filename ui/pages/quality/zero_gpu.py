"""ZeroGPU, a Space's hardware without a fee: the page's one function for its GPU. The model runs on the CPU.

A Space on it is stopped unless the package `spaces` reports a function for the GPU. It does so in Gradio's
`Blocks.launch`, which is not called here, as the app serves its page itself: hence `report`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import gradio as gr

from ui.cli import ServeError
from ui.i18n.words import text, translator
from ui.render.status import line

VARIABLE = "SPACES_ZERO_GPU"  # set by such a Space
SECONDS = 20
"""Of the GPU, which one click asks for: most of it is the start of a process there."""
_WIDTH, _PRODUCTS = 8192, 50

Timing = tuple[str, float]


def is_on() -> bool:
    """Return whether this runs in a Space on ZeroGPU."""
    return os.environ.get(VARIABLE, "").lower() in ("1", "t", "true")


def time_products() -> Timing:
    """Return the GPU's name and how many TFLOP/s it makes in products of large bfloat16 matrices."""
    import torch

    left, right = (torch.randn(_WIDTH, _WIDTH, device="cuda", dtype=torch.bfloat16) for _ in "ab")
    left @ right
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(_PRODUCTS):
        left @ right
    torch.cuda.synchronize()
    seconds = (time.perf_counter() - began) / _PRODUCTS
    return torch.cuda.get_device_name(), 2 * _WIDTH**3 / seconds / 1e12


def for_the_gpu(task: Callable[[], Timing]) -> Callable[[], Timing]:
    """Return a function that runs the task in a process with a GPU. Raises ServeError without `spaces`."""
    try:
        import spaces
    except ModuleNotFoundError as error:
        raise ServeError(f"ZeroGPU needs a package ({error}): add spaces to requirements.txt") from error
    decorated: Callable[[], Timing] = spaces.GPU(task, duration=SECONDS)
    return decorated


def add_gpu_button() -> None:
    """Add a button that times the GPU to the page that is being built."""
    timing = gr.State()
    button = gr.Button(text("gpu.time"), size="sm", elem_id="time-gpu")
    shown = gr.HTML(line(""), padding=False, elem_id="gpu-timing")

    def show(request: gr.Request, timed: Timing) -> str:
        t = translator(request)
        return line(t("gpu.timed", name=timed[0], speed=t.number(timed[1])))

    # The decorated function is the handler itself, with nothing around it, as ZeroGPU's guides say.
    timed = button.click(for_the_gpu(time_products), None, timing, api_visibility="private")
    timed.success(show, timing, shown, api_visibility="private")


def report() -> None:
    """Tell ZeroGPU of the function. Raises RuntimeError or httpx.HTTPError if it fails."""
    from spaces import zero

    zero.startup()
