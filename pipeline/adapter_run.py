"""--format adapter: the adapter alone as a GGUF, to be loaded beside its base."""

from __future__ import annotations

import time

from pipeline.adapter_format import AdapterJob, write_adapter
from pipeline.export_run import ExportRun
from pipeline.manifest import versions
from pipeline.toolchain import ensure_toolchain
from pipeline.trained_on import other_bases


class AdapterRun(ExportRun):
    """One export of an adapter alone."""

    def missing(self) -> tuple[str, ...]:
        """The adapter's file, unless it stands."""
        file = self.config.adapter_name
        return () if self.stands(file) else (file,)

    def make(self) -> None:
        """Write the adapter's file and give it its name."""
        with self.progress.step("Fetch llama.cpp's converter", None):
            toolchain = ensure_toolchain()
        started = time.monotonic()
        partial = self.work.folder / f"{self.config.adapter_name}.partial"
        job = AdapterJob(
            self.base, self.adapters[0], self.config.outtype, partial, self.config.name, toolchain
        )
        written = write_adapter(job, self.progress)
        self.record.options = {"format": "adapter", "outtype": self.config.outtype}
        self.record.versions = versions()
        self.record.inputs = self.describe_inputs()
        self.record.model = {
            "parameters": written.parameters,
            "changed_weights": written.tensors,
            "notes": other_bases(self.base, self.adapters),
        }
        bits = partial.stat().st_size * 8 / max(1, written.parameters)
        self.publish([partial], self.config.outtype.upper(), bits, time.monotonic() - started)
