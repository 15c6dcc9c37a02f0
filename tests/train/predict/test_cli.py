"""The command: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from ser_memory.train.predict.cli import main
from tests.train.predict.world import World, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    world = make_world(
        tmp_path_factory.mktemp("world"), 12, jobs=1, epochs=1, dimensions="activation,valence,dominance"
    )
    soundfile.write(world.folder / "long.wav", np.random.default_rng(5).normal(0, 0.1, 40 * 16_000), 16_000)
    (world.folder / "broken.wav").write_bytes(b"broken")
    return world


def run(world: World, *arguments: object, given: str | None = None) -> Result:
    words = ["--device", "cpu", str(world.bundles), *map(str, arguments)]
    return CliRunner().invoke(main, words, input=given)


def test_a_table_on_the_terminal(world: World) -> None:
    result = run(world, world.folder / "corpus" / "clips", "--transcripts", world.folder / "texts.jsonl")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0] == "Ratings from -1 to 1"
    assert lines[1].split() == ["file", "seconds", "activation", "valence", "dominance", "flags"]
    assert len([line for line in lines if ".flac" in line]) == 12
    assert "±" in lines[2]
    assert "no text" not in result.stderr


def test_the_rest_is_written_where_some_cannot_be_rated(world: World, tmp_path: Path) -> None:
    output = tmp_path / "deep" / "ratings.jsonl"
    result = run(
        world, world.folder / "broken.wav", "-", "absent.wav", "--output", output,
        given=f"{world.recordings['n00']}\n{world.recordings['n01']}\n",
    )  # fmt: skip
    assert result.exit_code == 1
    *_, first, second, last = result.stderr.splitlines()
    assert "broken.wav has no audio track" in first
    assert second == "absent.wav does not exist: check its path."
    assert last == "Error: 2 of 4 recordings could not be rated."
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["file"] for row in rows] == [str(world.recordings[name]) for name in ("n00", "n01")]


def test_nothing_rated_leaves_the_output_as_it_was(world: World, tmp_path: Path) -> None:
    output = tmp_path / "ratings.csv"
    output.write_text("old")
    result = run(world, world.folder / "broken.wav", "--output", output)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert output.read_text() == "old"


def test_the_challenge_table_and_a_table_of_files(world: World, tmp_path: Path) -> None:
    (world.folder / "list.csv").write_text("file,text\ncorpus/clips/n02.flac,so good\nlong.wav,awful day\n")
    output = tmp_path / "submission.csv"
    result = run(world, world.folder / "list.csv", "--format", "msp", "--output", output)
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader(output.read_text().splitlines()))
    assert [row["FileName"] for row in rows] == ["n02.flac", "long.wav"]
    unit = json.loads(run(world, world.folder / "list.csv", "--format", "jsonl").stdout.splitlines()[1])
    for column, name in (("EmoAct", "activation"), ("EmoVal", "valence"), ("EmoDom", "dominance")):
        assert float(rows[1][column]) == pytest.approx(4 + 3 * unit[name], abs=1e-5)


def test_the_ids_of_a_table_come_back(world: World) -> None:
    """Also of a file that occurs twice; its ratings are the same."""
    (world.folder / "ids.csv").write_text(
        "file,id\ncorpus/clips/n02.flac,007\nbroken.wav,b\nlong.wav,\ncorpus/clips/n02.flac,8\n"
    )
    result = run(world, world.folder / "ids.csv", "--format", "csv")
    assert (result.exit_code, result.stderr.count("broken.wav")) == (1, 1)
    first, without, second = csv.DictReader(result.stdout.splitlines())
    assert [each["id"] for each in (first, without, second)] == ["007", "", "8"]
    assert without["file"].endswith("long.wav")
    assert {**first, "id": "8"} == second
    shown = run(world, world.folder / "ids.csv").stdout.splitlines()
    assert shown[1].split()[:3] == ["file", "id", "seconds"]
    assert shown[2].split()[1] == "007"


def test_windows_and_a_drawing(world: World, tmp_path: Path) -> None:
    plot = tmp_path / "track.svg"
    result = run(
        world, world.folder / "long.wav", "--track", "--format", "csv", "--scale", "0:1", "--plot", plot
    )
    assert result.exit_code == 0, result.output
    *lines, last = result.stdout.splitlines()
    assert last == str(plot)
    rows = list(csv.DictReader(lines))
    assert len(rows) == 2
    assert float(rows[0]["end"]) == float(rows[1]["start"])
    assert plot.read_text().startswith("<?xml")


def test_what_is_refused_before_the_work(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AZURE_SPEECH_ENDPOINT", raising=False)
    clips = list(world.recordings.values())
    for arguments, message in (
        (
            [*clips, world.folder / "long.wav", "--plot", tmp_path / "x.svg"],
            "--plot draws 12 recordings at most",
        ),
        ([clips[0], "--output", tmp_path, "--format", "csv"], "cannot be written: give the name of a file"),
        ([tmp_path / "none.csv"], "There is no table"),
        ([clips[0], "--transcriber", "azure"], "Azure needs the environment variables"),
    ):
        result = run(world, *arguments)
        assert result.exit_code != 0
        assert message in result.stderr, result.output
        assert result.stderr.count("\n") == 1
    assert "There is no bundle in" in CliRunner().invoke(main, [str(tmp_path), str(clips[0])]).stderr


def test_nothing_that_is_read_is_replaced(world: World, tmp_path: Path) -> None:
    recording, texts, table = (tmp_path / name for name in ("a.flac", "texts.jsonl", "table.csv"))
    shutil.copy(world.recordings["n00"], recording)
    shutil.copy(world.folder / "texts.jsonl", texts)
    table.write_text("file\na.flac\n")
    before = {path: path.read_bytes() for path in (recording, texts, table)}
    for path, options in (
        (recording, [tmp_path, "--output", tmp_path / "x" / ".." / "a.flac", "--format", "csv"]),
        (table, [table, "--output", table]),
        (recording, [table, "--output", recording, "--format", "msp"]),
        (texts, [recording, "--transcripts", texts, "--output", texts]),
        (
            world.bundles / "encoders.json",
            [recording, "--format", "csv", "--output", world.bundles / "encoders.json"],
        ),
        (
            tmp_path / "x.svg",
            [recording, "--format", "csv", "--output", tmp_path / "x.svg", "--plot", tmp_path / "x.svg"],
        ),
    ):
        (tmp_path / "x").mkdir(exist_ok=True)
        result = run(world, *options)
        assert result.exit_code == 2, result.output
        assert result.stderr.endswith(
            f"{path.name} is read here and would be lost: give the ratings another name.\n"
        )
    assert {path: path.read_bytes() for path in before} == before
