"""The child process that meets a stranger's GGUF and each CPU backend first: a crash ends only the child.

`python -m engine.probe.child inspect MODEL` reads the file's header, ranks the CPU variants and renders the
chat template. `python -m engine.probe.child run MODEL --variant PATH` computes with one variant, and `time`
measures how long batches take with it. Each prints its answer as a line of JSON, after its progress;
engine.probe.client reads both.
"""

from __future__ import annotations

import argparse
import json
import resource
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path

from engine.core.speculative import measure
from engine.core.types import BatchRow
from engine.errors import EngineError, ModelError
from engine.llama.library import find_variants, load_variant, rank_variants
from engine.llama.model import Adapter, Model, ModelMetadata, model_metadata
from engine.llama.runner import Runner
from engine.prompt.chat_template import ChatTemplate
from ggufio.untrusted_reader import is_adapter

ADAPTER_ALONE = "it is a LoRA adapter, no model: name it after its base, as BASE.gguf::ADAPTER.gguf"
TEMPLATE_SECONDS = 3.0
_TEMPLATE_BYTES = 4 << 30
_EXIT_REFUSED = 3


def inspect(path: Path) -> dict[str, object]:
    """What the file says about itself, and the CPU variants that this machine supports, best first."""
    ranked = [str(p) for p in rank_variants(find_variants())]
    print(json.dumps({"ready": True}), flush=True)  # from here on, a crash is the file's fault
    try:
        model = Model(path, vocab_only=True)
    except ModelError as error:
        raise ModelError(ADAPTER_ALONE if is_adapter(path) else str(error)) from error
    facts = model_metadata(model, path)
    _check_template(facts)
    return {"variants": ranked, "facts": asdict(facts)}


def _check_template(facts: ModelMetadata) -> None:
    """Render once, under a limit on time and memory.

    SIGALRM keeps its default action: it kills the process even inside a C loop, where no Python handler runs.
    """
    if sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_DATA, (_TEMPLATE_BYTES, _TEMPLATE_BYTES))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, TEMPLATE_SECONDS)
    template = ChatTemplate(facts.template, facts.bos, facts.eos)
    template.render(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi."},
            {"role": "user", "content": "Bye"},
        ]
    )
    signal.setitimer(signal.ITIMER_REAL, 0)


def run(
    path: Path, variant: Path | None, extra_buffers: bool, threads: int, lora: Path | None = None
) -> dict[str, object]:
    """Load the model and decode as the engine will: a prompt, then four sequences side by side, then one."""
    if variant is not None:
        load_variant(variant)
    model = Model(path, extra_buffers=extra_buffers, reach=_ProgressPrinter())
    adapter = Adapter(model, lora) if lora else None
    runner = Runner(model, slots=4, context=256, batch=64, threads=threads, adapter=adapter)
    some = [token % model.vocab.size for token in range(100, 164)]
    steps = [
        [BatchRow(0, 0, some, 1)],
        [BatchRow(1, 0, some[:16], 1), BatchRow(2, 0, some[:16], 1), BatchRow(3, 0, some[:16], 1)],
        [BatchRow(0, 64, some[:1], 1), *(BatchRow(slot, 16, some[:1], 1) for slot in (1, 2, 3))],
        [BatchRow(0, 65, some[1:2], 1)],
    ]
    for rows in steps:
        runner.decode(rows)
        if not all(runner.logits_are_finite(row.slot) for row in rows):
            return {"finite": False}
    return {"finite": True}


def time_batches(path: Path, variant: Path | None, extra_buffers: bool, threads: int) -> dict[str, object]:
    """(tokens of a batch, seconds) pairs, and speculative.Costs.exact; no pairs without drafts."""
    if variant is not None:
        load_variant(variant)
    model = Model(path, extra_buffers=extra_buffers)
    runner = Runner(model, slots=4, context=256, batch=64, threads=threads)
    if not runner.can_cut:
        return {"seconds": [], "exact": 1}
    costs = measure(runner, time.perf_counter)
    return {"seconds": list(costs.table.items()), "exact": costs.exact}


class _ProgressPrinter:
    """Prints each hundredth of a load that is reached."""

    def __init__(self) -> None:
        self._last = -1

    def __call__(self, share: float) -> bool:
        if (now := int(100 * share)) > self._last:
            self._last = now
            print(json.dumps({"reached": share}), flush=True)
        return True


def main(arguments: list[str]) -> int:
    """Parse the command line, do one job, print its JSON."""
    parser = argparse.ArgumentParser(prog="engine.probe.child", description=__doc__)
    parser.add_argument("job", choices=["inspect", "run", "time"])
    parser.add_argument("model", type=Path)
    parser.add_argument("--variant", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--no-extra-bufts", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a crash is an answer here, not something to debug
    extra = not options.no_extra_bufts
    try:
        if options.job == "inspect":
            result = inspect(options.model)
        elif options.job == "time":
            result = time_batches(options.model, options.variant, extra, options.threads)
        else:
            result = run(options.model, options.variant, extra, options.threads, options.adapter)
    except EngineError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return _EXIT_REFUSED
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
