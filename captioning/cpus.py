"""How many CPUs the container may really use: `os.cpu_count` counts the host's."""

from __future__ import annotations

import os
from pathlib import Path


def available_cpus(root: Path = Path("/")) -> int:
    """Return the CPUs this process may use: the least of its affinity and its cgroups' quotas, at least 1.

    A quota is rounded down, but to 1 at least: a thread that the quota stops keeps the others waiting. Version 1 of
    cgroups is read too: some machines that run containers still start with it (Amazon Linux 2, RHEL 8).
    ``root`` is where ``/proc`` and ``/sys`` are looked up.
    Source: Linux, Documentation/admin-guide/cgroup-v2.rst (cpu.max) and scheduler/sched-bwc.rst (v1).
    """
    quotas = [*_quotas_v2(root), *_quotas_v1(root)]
    return max(1, min(len(os.sched_getaffinity(0)), *(int(quota) for quota in quotas), 4096))


def _quotas_v2(root: Path) -> list[float]:
    quotas = []
    for folder in _cgroup_folders(root / "sys/fs/cgroup", _own_cgroup(root, "")):
        quota, _, period = _read(folder / "cpu.max").partition(" ")
        if quota.isdigit() and period.isdigit() and int(period):
            quotas.append(int(quota) / int(period))
    return quotas


def _quotas_v1(root: Path) -> list[float]:
    quotas = []
    for mount in ("cpu", "cpu,cpuacct"):
        for folder in _cgroup_folders(root / "sys/fs/cgroup" / mount, _own_cgroup(root, "cpu")):
            quota, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
            if quota.isdigit() and period.isdigit() and int(period):
                quotas.append(int(quota) / int(period))
    return quotas


def _own_cgroup(root: Path, controller: str) -> str:
    # /proc/self/cgroup has lines such as "0::/a/b" (v2) and "4:cpu,cpuacct:/a/b" (v1).
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    return "/"


def _cgroup_folders(mount: Path, path: str) -> list[Path]:
    """List the group's folder and those above it: each may carry a quota, and all of them bind."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return [mount.joinpath(*parts[:count]) for count in range(len(parts) + 1)]


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
