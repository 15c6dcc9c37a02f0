"""What a tracker gets, read back with its own reader."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.train.test_cli import refused, rows, run
from tests.train.test_folds import caches, of
from tests.train.test_predictions import table

assert caches  # the fixture


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag -> (step, value) of the one event file in a folder."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert len(list(folder.glob("events.*"))) == 1
    events: Any = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


@pytest.mark.parametrize("protocol", [[], ["--protocol", "iemocap=sessions"]])
def test_tensorboard_has_the_figures_and_the_epochs(
    protocol: list[str], caches: Path, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    command = ["--cache", caches, "--seed", 3, "--strategy", "gem", *protocol, "--output", tmp_path / "r"]
    for _ in range(2):  # the second finds everything, and replaces what is there
        assert run(*command, "--tracker", "tensorboard", trained=tmp_path / "t").exit_code == 0
    fold = "2" if protocol else ""
    place = f"gem-random-20/seed-3{'/fold-2' if protocol else ''}"
    found = scalars(tmp_path / "r/tensorboard" / place)
    made = of(rows(tmp_path / "r"), fold=fold)
    expected: dict[str, list[tuple[int, float]]] = {}
    for row in made:
        tag = f"{row['metric'].upper()} of {row['dimension']}/{row['corpus']} {row['split']}"
        expected.setdefault(tag, []).append((int(row["stage"]), float(row["value"])))
    for row in of(table(tmp_path / "r/epochs.csv"), fold=fold):
        step = (int(row["epoch"]), float(row["validation_ccc"]))
        expected.setdefault(f"validation CCC/{row['stage_name']}", []).append(step)
    assert found.keys() == expected.keys()
    for tag, points in expected.items():
        assert [step for step, _ in found[tag]] == [step for step, _ in points]
        assert [value for _, value in found[tag]] == pytest.approx([value for _, value in points], abs=1e-6)


def test_it_is_off_unless_asked_for_and_refused_without_its_package(
    caches: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["--cache", caches, "--seed", 0, "--strategy", "finetune", "--output", tmp_path / "r"]
    assert run(*command).exit_code == 0
    assert not (tmp_path / "r/tensorboard").exists()
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    message = refused(run(*command, "--tracker", "tensorboard"), 1)
    assert (
        message
        == "--tracker tensorboard needs the package tensorboard: pip install 'ser-memory[tensorboard]'"
    )
