from __future__ import annotations

from pathlib import Path

import pytest

from common.system import cgroup_quota, count_cores, granted_cores, parse_cpu_max, physical_cores

HYPERTHREADED = "\n\n".join(
    f"processor\t: {cpu}\nphysical id\t: 0\ncore id\t\t: {cpu % 2}\nflags\t\t: a b" for cpu in range(4)
)
ARM = "processor\t: 0\nFeatures\t: fp\n\nprocessor\t: 1\nFeatures\t: fp\n\nHardware\t: board\n"


def test_hyperthreads_count_once_and_only_allowed_ones() -> None:
    assert count_cores(HYPERTHREADED, range(4)) == 2
    assert count_cores(HYPERTHREADED, {0, 2}) == 1
    assert count_cores(ARM, {0, 1}) == 2
    assert count_cores("", {0, 1, 2}) == 3


@pytest.mark.parametrize(
    ("text", "cpus"), [("150000 100000\n", 1.5), ("max 100000\n", None), ("", None), ("50000 100000", 0.5)]
)
def test_cpu_max(text: str, cpus: float | None) -> None:
    assert parse_cpu_max(text) == cpus


def test_quota_is_rounded_down_but_not_to_nothing() -> None:
    assert granted_cores(8, 2.5) == 2
    assert granted_cores(8, 0.5) == 1
    assert granted_cores(2, 16.0) == 2
    assert granted_cores(4, None) == 4


def test_v2_takes_the_tightest_of_all_parents(tmp_path: Path) -> None:
    inner = tmp_path / "pod" / "box"
    inner.mkdir(parents=True)
    (inner / "cpu.max").write_text("max 100000\n")
    (tmp_path / "pod" / "cpu.max").write_text("200000 100000\n")
    assert cgroup_quota(tmp_path, "0::/pod/box\n") == 2.0


def test_v2_in_a_container_where_the_path_is_the_hosts(tmp_path: Path) -> None:
    (tmp_path / "cpu.max").write_text("300000 100000\n")
    assert cgroup_quota(tmp_path, "0::/kubepods/x\n") == 3.0


def test_v1(tmp_path: Path) -> None:
    folder = tmp_path / "cpu,cpuacct" / "docker"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text("150000\n")
    (folder / "cpu.cfs_period_us").write_text("100000\n")
    assert cgroup_quota(tmp_path, "4:cpu,cpuacct:/docker\n3:memory:/docker\n") == 1.5
    (folder / "cpu.cfs_quota_us").write_text("-1\n")
    assert cgroup_quota(tmp_path, "4:cpu,cpuacct:/docker\n") is None


def test_this_machine_has_at_least_one() -> None:
    assert physical_cores() >= 1
