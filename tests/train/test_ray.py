"""ser-train --engine ray where Ray cannot be used; tests/integration trains with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ser_memory.common import cluster
from tests.train.test_cli import caches, refused, run

assert caches  # the fixture


def test_without_the_package(caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "find_spec", lambda _: None)
    message = refused(run("--cache", caches, "--engine", "ray", "--output", tmp_path / "r"), 1)
    assert message == "--engine ray needs the package ray: pip install 'ser-memory[ray]'"
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--address", "auto"], "--address has no effect: only --engine ray has it"),
        (["--engine", "ray", "--address", "auto", "--jobs", "2"], "--jobs has no effect: a cluster knows"),
        (["--engine", "ray", "--worker", "--output", "r"], "--engine has no effect: a worker trains by"),
    ],
)
def test_options_that_do_not_fit(options: list[str], says: str, caches: Path) -> None:
    assert says in refused(run("--cache", caches, *options), 2)
