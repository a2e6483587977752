"""Counting CPUs as the container has them, on faked cgroup files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from captioning.cpus import available_cpus


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [("400000 100000", 4), ("150000 100000", 1), ("50000 100000", 1), ("max 100000", 8), ("nonsense", 8), ("", 8)],
)
def test_a_v2_quota_binds(tmp_path: Path, quota: str, cpus: int) -> None:
    assert available_cpus(write(tmp_path, {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": quota})) == cpus


def test_the_quota_of_a_group_above_binds_too(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pod/container",
        "sys/fs/cgroup/pod/cpu.max": "200000 100000",
        "sys/fs/cgroup/pod/container/cpu.max": "max 100000",
    }
    assert available_cpus(write(tmp_path, files)) == 2


@pytest.mark.parametrize(("quota", "cpus"), [("300000", 3), ("-1", 8), ("20000", 1)])
@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_a_v1_quota_binds(tmp_path: Path, mount: str, quota: str, cpus: int) -> None:
    files = {
        "proc/self/cgroup": "5:memory:/other\n4:cpu,cpuacct:/task",
        f"sys/fs/cgroup/{mount}/task/cpu.cfs_quota_us": quota,
        f"sys/fs/cgroup/{mount}/task/cpu.cfs_period_us": "100000",
    }
    assert available_cpus(write(tmp_path, files)) == cpus


def test_without_cgroups_affinity_counts(tmp_path: Path) -> None:
    assert available_cpus(tmp_path) == 8
