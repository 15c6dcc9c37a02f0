"""ser-cache describes, verifies and compares."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
from click.testing import CliRunner, Result

from ser_memory.common.cache import write_cache
from ser_memory.common.cache_cli import main
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
    assert "dominance: no value" in shown.output
    counts = [
        int(line.split()[3]) for line in shown.output.splitlines() if " to " in line and line.startswith("  ")
    ]
    assert sum(counts) == 10  # five utterances, twice
    assert "  too short           2     x, ü" in shown.output
    assert run("--dropped", tmp_path / "c.h5").output == "too short\tx\ntoo short\tü\n"


def test_a_damaged_cache_does_not_verify(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    write_cache(path, info(), columns())
    assert "whole. 5 utterances, every value as it was written." in run("--verify", path).output
    for column, value, says in (
        ("text", np.nan, "the text of utterance-2 is not finite"),
        ("text", 0.5, "its values are not those that were written"),
        ("speaker", "somebody", "its values are not those that were written"),
        ("split", "trian", "the split of utterance-2 is not train, validation, test, test2 and so on"),
        ("duration", -1.0, "the duration of utterance-2 is not between min_duration and max_duration"),
        ("duration", 30.1, "the duration of utterance-2 is not between min_duration and max_duration"),
        ("transcript", b"caf\xe9", "its data set transcript is not UTF-8"),
        ("valence", 50.0, "the valence of utterance-2 is not finite or outside the scale"),
        ("id", "utterance-1", "the id 'utterance-1' more than once"),
    ):
        write_cache(path, info(), columns())
        with h5py.File(path, "r+") as file:
            file[column][2] = value
        result = run("--verify", path)
        assert result.exit_code == 1
        assert says in result.stderr
    write_cache(path, info(acoustic_layers="7,9"), columns())
    assert (
        "it says that its layers are 7,9, and its data set acoustic has the shape (5, 8)"
        in run("--verify", path).stderr
    )


def test_other_files_are_not_to_be_removed(tmp_path: Path) -> None:
    for name, content in (
        ("c.whisper.transcripts.jsonl", '{"id": "a"}\n'),
        ("notes.txt", ""),
        ("c.h5", "hello"),
    ):
        (tmp_path / name).write_text(content)
        shown = run(tmp_path / name)
        assert shown.exit_code == 1
        assert (
            f"{tmp_path / name} is not a feature cache, its format is not HDF5: give a file that"
            in shown.stderr
        )
        assert "remove" not in shown.stderr


def test_a_cache_from_before_the_digest_verifies_as_far_as_possible(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    write_cache(path, info(), columns())
    with h5py.File(path, "r+") as file:
        del file.attrs["digest"]
    result = run("--verify", path)
    assert result.exit_code == 0
    assert "whole. 5 utterances, every value plausible (" in result.output


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


def test_differences_that_are_no_numbers(tmp_path: Path) -> None:
    one, other = tmp_path / "one.h5", tmp_path / "other.h5"
    write_cache(one, info(), columns())
    write_cache(other, info(), columns())
    with h5py.File(other, "r+") as file:
        file["text"][2, :2] = np.nan
        file["acoustic"][3, 0] += 0.5
        file["acoustic"][3, 1] = np.inf
        file["transcript"][1] = b"caf\xe9"
    result = run("--diff", one, other)
    assert result.exit_code == 1
    assert "is not UTF-8" in result.stderr
    with h5py.File(other, "r+") as file:
        file["transcript"][1] = "ça va?"
    shown = run("--diff", one, other).output
    assert "text: 1 of 5 rows differ, 2 values not finite in one of the two, utterance-2 for one" in shown
    assert "acoustic: 1 of 5 rows differ, by at most 0.5, 1 values not finite in one of the two" in shown
