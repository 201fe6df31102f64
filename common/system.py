"""Physical cores and free memory within the container's limits; limits of this process."""

from __future__ import annotations

import math
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def physical_cores() -> int:
    """Return the physical cores within the affinity mask and the container's CPU quota, at least 1.

    Two hyper-threads of one core share its vector units, so a second thread there costs more than it gains.
    """
    if sys.platform == "darwin":
        return _darwin_cores()
    allowed = os.sched_getaffinity(0)
    cores = count_cores(_read(Path("/proc/cpuinfo")), allowed)
    return granted_cores(cores, cgroup_quota(Path("/sys/fs/cgroup"), _read(Path("/proc/self/cgroup"))))


def granted_cores(cores: int, quota: float | None) -> int:
    """Limit `cores` to a quota in CPUs, rounded down: a throttled thread stalls all others."""
    if quota is None:
        return max(1, cores)
    return max(1, min(cores, math.floor(quota + 1e-9)))


def count_cores(cpuinfo: str, allowed: Iterable[int]) -> int:
    """Count the distinct (physical id, core id) pairs of the `allowed` processors in a /proc/cpuinfo text.

    ARM's cpuinfo has no core ids: each processor counts as one core.
    """
    wanted = set(allowed)
    seen: set[tuple[str, str]] = set()
    for block in cpuinfo.split("\n\n"):
        fields = {
            key.strip(): value.strip()
            for key, _, value in (line.partition(":") for line in block.splitlines())
        }
        if not fields.get("processor", "").isdigit() or int(fields["processor"]) not in wanted:
            continue
        core = fields.get("core id", "cpu" + fields["processor"])
        seen.add((fields.get("physical id", "0"), core))
    return len(seen) or max(1, len(wanted))


def cgroup_quota(root: Path, self_cgroup: str) -> float | None:
    """Return the tightest CPU quota, in CPUs, of this process's cgroup and its parents; None without one.

    `root` is /sys/fs/cgroup and `self_cgroup` the text of /proc/self/cgroup. Reads v2 (`cpu.max`) and v1
    (`cpu.cfs_quota_us`); see the kernel's admin-guide/cgroup-v2.rst and scheduler/sched-bwc.rst.
    """
    quotas: list[float] = []
    for line in self_cgroup.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            for base in (root, root / "unified"):
                quotas += [
                    q for d in _upwards(base, path) if (q := parse_cpu_max(_read(d / "cpu.max"))) is not None
                ]
        elif "cpu" in controllers.split(","):
            for base in (root / controllers, root / "cpu"):
                quotas += [q for d in _upwards(base, path) if (q := _v1_quota(d)) is not None]
    return min(quotas, default=None)


def parse_cpu_max(text: str) -> float | None:
    """Return the CPUs of a v2 `cpu.max` text: 1.5 for `150000 100000`, None for `max 100000`."""
    quota, _, period = text.strip().partition(" ")
    return _ratio(quota, period)


def _v1_quota(folder: Path) -> float | None:
    return _ratio(_read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip())


def _ratio(quota: str, period: str) -> float | None:
    # "max" (v2) and "-1" (v1) mean no limit, and both fail isdigit.
    if not quota.isdigit() or not period.isdigit() or int(period) == 0 or int(quota) == 0:
        return None
    return int(quota) / int(period)


def _upwards(base: Path, path: str) -> list[Path]:
    # In a container the path may be the host's; then only the root of the mount exists.
    here = base / path.lstrip("/")
    inside = [here, *here.parents]
    return [folder for folder in inside if folder == base or base in folder.parents]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _darwin_cores() -> int:
    # Apple's efficiency cores slow a decode down: count only performance cores where possible.
    for name in ("hw.perflevel0.physicalcpu", "hw.physicalcpu"):
        try:
            done = subprocess.run(
                ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=False
            )
        except OSError:
            break
        if done.returncode == 0 and done.stdout.strip().isdigit():
            return max(1, int(done.stdout))
    return max(1, (os.cpu_count() or 2) // 2)


_PROC = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def free_memory(proc: Path = _PROC, group: Path = _GROUP, *, whole_cache: bool = False) -> int | None:
    """Return the free and immediately reclaimable memory in bytes; None when unknown.

    Of a container's page cache only the inactive part counts, but with `whole_cache` the active one too,
    which the kernel reclaims last: files that were read twice, such as a model's weights.
    """
    left = [_entry(proc, "MemAvailable"), _below_limit(group, whole_cache=whole_cache)]
    return min((value for value in left if value is not None), default=None)


def _entry(path: Path, name: str) -> int | None:
    """Return an entry of a file like /proc/meminfo (`NAME: 12 kB`) in bytes, or None."""
    lines = _read(path).splitlines()
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), None)


def _below_limit(group: Path, *, whole_cache: bool) -> int | None:
    """Return the memory left below the cgroup v2 limit; its (inactive) file pages count as free."""
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        parts = dict(
            line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines()
        )
    except (OSError, ValueError):
        return None
    names = ("inactive_file", "active_file") if whole_cache else ("inactive_file",)
    cached = sum(int(parts.get(name, 0)) for name in names)
    return None if limit == "max" else max(0, int(limit) - used + cached)


def total_memory(proc: Path = _PROC, group: Path = _GROUP) -> int | None:
    """Return the memory of the machine or the container in bytes, whichever is less; None when unknown."""
    limit = _read(group / "memory.max").strip()  # "max" is no limit
    sizes = [_entry(proc, "MemTotal"), int(limit) if limit.isdigit() else None]
    return min((size for size in sizes if size is not None), default=None)


def limit_memory(size: int | None) -> None:
    """Limit the private memory of this process to `size` bytes, or to what it may have at most for None.

    Memory-mapped weights do not count (RLIMIT_DATA of man 2 getrlimit). Linux only; elsewhere no effect.
    """
    if sys.platform == "linux":
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        soft = hard if size is None else size if hard == resource.RLIM_INFINITY else min(size, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def raise_file_limit(wanted: int = 65_536) -> int:
    """Raise this process's limit of open files to `wanted`, as far as it may; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    best = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < best:
        with suppress(OSError, ValueError):  # macOS has a lower limit that it does not tell
            resource.setrlimit(resource.RLIMIT_NOFILE, (best, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else soft


def process_memory(kind: str, pid: int | None = None) -> int:
    """Return one kind of memory of a process (default: this one) in bytes; 0 when unknown.

    VmData is private memory, as `limit_memory` counts it; VmHWM is the peak of resident memory (man 5 proc).
    """
    return _entry(Path(f"/proc/{pid or 'self'}/status"), kind) or 0


RENDER_SECONDS = 10.0
"""The time limit for rendering one chat, or a few."""


@contextmanager
def kill_after(seconds: float) -> Iterator[None]:
    """Kill this process when the block takes longer; for child processes, whose exit code is a message.

    SIGALRM keeps its default action, which also works inside a C loop, where no Python handler runs.
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
