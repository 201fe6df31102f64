"""A limit on the time of a stranger's program: chat templates can loop for ever."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

RENDER_SECONDS = 10.0
"""For one chat, or a few."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End this process when what is inside takes longer; for child processes, whose end is a message.

    SIGALRM keeps its default action: it kills even inside a C loop, where no Python handler runs.
    """
    if threading.current_thread() is not threading.main_thread():  # signals belong to the main thread
        yield
        return
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
