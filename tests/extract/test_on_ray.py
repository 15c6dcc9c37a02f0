"""ser-extract --engine ray where it cannot begin: one sentence. tests/integration has the rest."""

from __future__ import annotations

import sys
from importlib import machinery
from pathlib import Path
from typing import Any

import pytest

from ser_memory.common.errors import SerError, UsageError
from ser_memory.extract import api
from ser_memory.extract.settings import ExtractionSettings


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"collect": True}, "--collect has no effect without --engine ray"),
        ({"address": "auto"}, "--address auto has no effect without --engine ray"),
        ({"engine": "ray", "worker": True}, "Ray shares the work by itself: leave out --worker or --engine ray"),
        ({"engine": "ray", "device": "cuda:1"}, "--engine ray chooses the cards itself, not cuda:1: give --device auto"),
    ],
)  # fmt: skip
def test_options_that_have_no_effect(options: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        ExtractionSettings(**options)


def test_ray_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = machinery.PathFinder.find_spec
    monkeypatch.setattr(
        machinery.PathFinder, "find_spec", lambda name, *rest: None if name == "ray" else find(name, *rest)
    )
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with pytest.raises(
        SerError, match=r"--engine ray needs the package ray: pip install 'ser-memory\[ray\]'"
    ):
        api.extract("iemocap", root=tmp_path, cache=tmp_path, engine="ray")
