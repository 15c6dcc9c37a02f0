"""ser-cache describes, verifies and compares."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from click.testing import CliRunner, Result

from common.cache import write_cache
from common.inspection import main
from tests.common.test_cache import columns, info


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_cache_is_described(tmp_path: Path) -> None:
    write_cache(tmp_path / "c.h5", info(), columns())
    shown = run(tmp_path / "c.h5")
    assert shown.exit_code == 0, shown.output
    (line,) = [line for line in shown.output.splitlines() if line.split()[:2] == ["train", "2"]]
    seconds = np.asarray(columns()["duration"], np.float32)[[0, 4]]
    assert line.split()[2:] == [
        f"{seconds.sum() / 3600:.2f}", f"{seconds.min():.1f}", "/", f"{np.median(seconds):.1f}", "/",
        f"{seconds.max():.1f}", "1",
    ]  # fmt: skip
    assert "dominance: not told" in shown.output
    counts = [
        int(line.split()[3]) for line in shown.output.splitlines() if " to " in line and line.startswith("  ")
    ]
    assert sum(counts) == 10  # five utterances, twice
    assert "  too short           2     x, ü" in shown.output
    assert run("--dropped", tmp_path / "c.h5").output == "too short\tx\ntoo short\tü\n"


def test_a_damaged_cache_does_not_verify(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    write_cache(path, info(), columns())
    assert "whole. 5 utterances" in run("--verify", path).output
    for column, value, says in (
        ("text", np.nan, "the text of utterance-2 is not finite or outside"),
        ("valence", 50.0, "the valence of utterance-2 is not finite or outside the scale"),
        ("id", "utterance-1", "the id 'utterance-1' more than once"),
    ):
        write_cache(path, info(), columns())
        with h5py.File(path, "r+") as file:
            file[column][2] = value
        result = run("--verify", path)
        assert result.exit_code == 1
        assert says in result.stderr


def test_two_caches_are_compared(tmp_path: Path) -> None:
    one, other = tmp_path / "one.h5", tmp_path / "other.h5"
    write_cache(one, info(), columns())
    write_cache(other, info(created_by="somebody"), columns())
    same = run("--diff", one, other)
    assert same.exit_code == 0
    assert "created_by: tests and somebody" in same.output
    assert "are the same" in same.output
    changed = columns(6)
    changed["acoustic"] = np.array(changed["acoustic"])
    changed["valence"][1] = 1.0
    write_cache(other, info(), changed)
    result = run("--diff", one, other)
    assert result.exit_code == 1
    assert f"only in {other}: 1 utterances, utterance-5" in result.output
    assert "valence: " in result.output
    assert run("--diff", one).exit_code == 2
