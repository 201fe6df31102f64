"""The worker process of the checks: an untrusted GGUF may abort llama.cpp, which only ends this process.

Run by certify.py as `python -m pipeline.certificate.runner.worker`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from common.certificate import Finding
from common.dataclass_json import from_json
from common.text import nan_to_none
from common.worker_process import Message, send, serve
from engine.errors import EngineError
from ggufio.errors import GgufError
from pipeline.certificate.subject import Subject, strip_private_paths
from pipeline.errors import InputError
from pipeline.progress import Advance
from pipeline.tokenizers.own_code import NeedsCode


class RemoteProgress:
    """Sends the progress of each step to the parent process, which shows it."""

    @contextmanager
    def step(self, title: str, total: int | None) -> Iterator[Advance]:
        """Start a step, for which the parent shows a progress bar."""
        send({"step": title, "total": total})
        yield lambda done, note="": send({"done": done})


def check(request: Message) -> Message:
    """Run the checks of the request, and send each finding at once."""
    from pipeline.certificate.runner.registry import CHECKS

    subject = from_json(Subject, request["subject"])
    for name in request["checks"]:
        send({"check": name})
        try:
            for finding in CHECKS[name](subject, RemoteProgress()):
                send_finding(finding, subject)
        except NeedsCode as error:
            send_finding(Finding(name, "skipped", f"{str(error)[:1].upper()}{str(error)[1:]}."), subject)
        except InputError as error:
            send_finding(Finding(name, "warn", f"The check could not be made: {error}."), subject)
        except (EngineError, GgufError) as error:  # llama.cpp refuses the file
            send_finding(Finding(name, "fail", f"{error}."), subject)
    return {}


def send_finding(finding: Finding, subject: Subject) -> None:
    """Send a finding to the parent process, without private paths and with None for NaN."""
    send({"finding": nan_to_none(asdict(strip_private_paths(finding, subject)))})


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # everything needed is in the subject's folders
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # the check of the weights has its own threads
    serve(check, preload=("pipeline.certificate.runner.registry", "gguf"), refusals=(InputError, GgufError))
