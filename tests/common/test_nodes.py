"""What is wrong with a node of a cluster is one sentence after its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ser_memory.common import nodes

HERE = nodes.Common(nodes.versions(), nodes.source(), [])


def test_a_node_like_this_one_has_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(300_000))
    seen = nodes.look(str(file))
    assert nodes.fault(replace(HERE, files=[(str(file), seen, "differs.")])) == ""
    for change in (b"begin", bytes(299_990) + b"at the end", bytes(299_999), None):
        file.unlink()
        if change is not None:
            file.write_bytes(change)
        assert nodes.fault(replace(HERE, files=[(str(file), seen, "differs.")])) == "differs."


@pytest.mark.parametrize("name", ["Python", "ser-memory", "torch"])
def test_a_node_with_another_version(name: str) -> None:
    others = replace(HERE, versions={**HERE.versions, name: "0.0.1"})
    told = f"has {name} {HERE.versions[name]}, and this one has 0.0.1: install the same on all nodes."
    assert nodes.fault(others) == told


def test_a_node_with_other_source_files() -> None:
    assert nodes.fault(replace(HERE, source="")).startswith("has other source files of ser-memory 0")
