"""How much memory a further model may take: what the machine has left, within the container's limit."""

from __future__ import annotations

from pathlib import Path

import shards
from engine.errors import QueueFull

_PROC = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def free_memory(proc: Path = _PROC, group: Path = _GROUP) -> int | None:
    """Bytes that are free or that the system can free at once; None where that cannot be known."""
    left = [_available(proc), _below_limit(group)]
    return min((value for value in left if value is not None), default=None)


def check_room(path: Path, free: int | None) -> None:
    """Raise QueueFull if a model's weights alone are more than the `free` bytes; None lets all pass."""
    size = shards.size(path)
    if free is not None and size > free:
        raise QueueFull(
            f"{path.name} needs {size / 1e9:.1f} GB and {free / 1e9:.1f} GB of memory are free: "
            "try again when fewer models are in use, or choose a smaller one"
        )


def _available(proc: Path) -> int | None:
    try:
        lines = proc.read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)


def _below_limit(group: Path) -> int | None:
    """What a container of the cgroup v2 kind may still take; files' pages that it holds can be dropped."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        parts = dict(
            line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines()
        )
    except (OSError, ValueError):
        return None
    return None if limit == "max" else max(0, int(limit) - used + int(parts.get("inactive_file", 0)))
