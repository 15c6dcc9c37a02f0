"""A container's limits are seen, in both versions of control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ser_memory.common import machine


def in_container(monkeypatch: pytest.MonkeyPatch, folder: Path, groups: str, files: dict[str, str]) -> None:
    """Put this process into control groups that say what `files` say."""
    (folder / "own").write_text(groups)
    for name, content in files.items():
        path = folder / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    monkeypatch.setattr(machine, "_CGROUPS", folder / "cgroup")
    monkeypatch.setattr(machine, "_OWN_CGROUP", folder / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/\n", {"cpu.max": "200000 100000"}, 2),
        ("0::/\n", {"cpu.max": "max 100000"}, 64),
        ("0::/\n", {"cpu.max": "50000 100000"}, 1),
        ("0::/job/step\n", {"job/cpu.max": "300000 100000", "job/step/cpu.max": "max 100000"}, 3),
        ("0::/job/step\n", {"job/cpu.max": "800000 100000", "job/step/cpu.max": "250000 100000"}, 2),
        (
            "4:memory:/m\n2:cpu,cpuacct:/pod\n",
            {"cpu/pod/cpu.cfs_quota_us": "400000", "cpu/pod/cpu.cfs_period_us": "100000"},
            4,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
        ("0::/\n", {}, 64),
        ("0::/\n", {"cpu.max": "nonsense"}, 64),
    ],
)
def test_cores_within_a_cpu_quota(
    groups: str, files: dict[str, str], cores: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_container(monkeypatch, tmp_path, groups, files)
    assert machine.cores() == cores


def test_cores_within_an_affinity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_container(monkeypatch, tmp_path, "0::/\n", {"cpu.max": "800000 100000"})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 6}, raising=False)
    assert machine.cores() == 3


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/job\n", {"memory.max": "max", "job/memory.max": "1000000"}),
        ("4:memory:/pod\n", {"memory/pod/memory.limit_in_bytes": "1000000"}),
    ],
)
def test_memory_within_a_limit(
    groups: str, files: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_container(monkeypatch, tmp_path, groups, files)
    assert machine.memory() == 1_000_000
