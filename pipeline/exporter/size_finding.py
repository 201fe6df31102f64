"""The certificate's finding on a file that was made for a size."""

from __future__ import annotations

from collections.abc import Iterator

from common.certificate import Finding, Status
from common.text import pluralize
from ggufio.shards import whole_name
from pipeline.manifest import AUTO_OPTION, Record


def size_finding(record: Record) -> Iterator[Finding]:
    """Yield the finding on the file that was chosen for a size, if one was."""
    choice = record.options.get(AUTO_OPTION) or {}
    chosen = [output for output in record.outputs.values() if output.type == choice.get("chosen")]
    if "limit" not in choice or not chosen:
        return
    name, size = whole_name(chosen[0].file), sum(output.bytes for output in chosen)
    summary = (
        f"{name} has {size:,} bytes of {choice['limit']:,} that it may have, and is {choice['reason']} "
        f"({pluralize(len(choice['tried']), 'file was', 'files were')} measured)."
    )
    figures = {"size": size, "limit": choice["limit"], "tried": choice["tried"]}
    threshold = (
        "The file is no larger than was asked for, and no measured one that fits is nearer to the model."
    )
    status: Status = "pass" if size <= choice["limit"] else "fail"
    yield Finding("size", status, summary, figures, threshold, file=name)
