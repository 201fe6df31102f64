"""The report and the card say what a recovery gained."""

from __future__ import annotations

from pipeline.manifest import RECOVERY, Output, Record
from pipeline.report.context import provenance, report_context


def test_recovery_is_among_the_facts() -> None:
    output = Output("bob-Q4_0.gguf", "Q4_0", 9, 4.5, 1.0, "ab", 0)
    options = {RECOVERY: {"Q4_0": {"helped": True, "note": "Q4_0 was recovered"}, "Q8_0": {"differ": 0}}}
    record = Record("", inputs={"base": {"source": "base"}}, options=options, outputs={output.file: output})
    context = report_context("bob", record, None)
    assert context.recoveries == ("Q4_0 was recovered",)
    assert ("recovery", "Q4_0 was recovered") in list(provenance(context))
