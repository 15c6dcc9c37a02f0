"""ser-adapt: recordings and a bundle in, an adapted bundle out, and the same as both commands one after the other."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ser_memory.common.reporting import Silent
from ser_memory.extract.api import extract
from ser_memory.train.adapt import main
from ser_memory.train.api import train
from ser_memory.train.bundle import bundles_in, read_bundle
from ser_memory.train.report.cli import main as ser_report
from tests.train.predict.world import World, make_world
from tests.train.test_cli import refused


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = make_world(tmp_path_factory.mktemp("world"), strategy="gem", memory_size=5, estimate_size=4)
    shutil.copytree(made.folder / "corpus", made.folder / "clinic")
    manifest = (made.folder / "clinic" / "noises.toml").read_text()
    (made.folder / "clinic" / "noises.toml").unlink()
    (made.folder / "clinic" / "clinic.toml").write_text(manifest.replace('"noises"', '"clinic"'))
    return made


def edit(clinic: Path, change: Callable[[dict[str, str]], object]) -> None:
    """Change every row of the table of a release."""
    with (clinic / "labels.csv").open() as file:
        table = list(csv.DictReader(file))
    for row in table:
        change(row)
    with (clinic / "labels.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows(table)


def adapt_to(clinic: Path, bundles: Path, output: Path, *options: object) -> Any:
    arguments = [bundles, "--corpus", clinic / "clinic.toml", "--root", clinic, "--output", output]
    return CliRunner().invoke(main, [str(each) for each in (*arguments, "--device", "cpu", *options)])


def adapt(world: World, output: Path, *options: object) -> Any:
    texts = world.folder / "texts.jsonl"
    return adapt_to(
        world.folder / "clinic", world.bundles, output, "--transcripts", texts, "--jobs", 1, *options
    )


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open() as file:
        return list(csv.DictReader(file))


def test_it_is_both_commands_one_after_the_other(world: World, tmp_path: Path) -> None:
    result = adapt(world, tmp_path / "adapted")
    assert result.exit_code == 0, result.output
    clinic, models = world.folder / "clinic", world.folder
    extract(
        clinic / "clinic.toml", root=clinic, cache=tmp_path / "cache", device="cpu", reporter=Silent(),
        acoustic_encoder=str(models / "acoustic"), text_encoder=str(models / "text"),
        transcripts=world.folder / "texts.jsonl",
    )  # fmt: skip
    run = train(
        from_=world.bundles, stages="clinic", cache=tmp_path / "cache", output=tmp_path / "run",
        bundles=True, device="cpu", reporter=Silent(),
    )  # fmt: skip
    assert rows(tmp_path / "adapted") == rows(run.folder)
    assert {row["stage"] for row in rows(run.folder)} == {"1", "2"}  # before and after
    for one, other in zip(
        bundles_in(tmp_path / "adapted" / "bundles"), bundles_in(run.folder / "bundles"), strict=True
    ):
        assert read_bundle(one).info == read_bundle(other).info
    assert "Estimated CCC of activation" in result.stdout
    # Again: everything is there already.
    again = adapt(world, tmp_path / "adapted")
    assert again.exit_code == 0, again.output
    assert "nothing to do" in again.stderr


def test_a_report_has_what_was_forgotten(world: World, tmp_path: Path) -> None:
    assert adapt(world, tmp_path / "adapted").exit_code == 0
    result = CliRunner().invoke(ser_report, [str(tmp_path / "adapted")])
    assert result.exit_code == 0, result.output
    assert "n = 4 (noises): estimated" in result.stdout
    assert "Corpora that are not here" in (tmp_path / "adapted" / "report" / "index.html").read_text()


def test_a_contradiction_is_found_before_a_recording_is_encoded(world: World, tmp_path: Path) -> None:
    assert "joint trains on all earlier corpora" in refused(
        adapt(world, tmp_path / "a", "--strategy", "joint"), 2
    )
    other = shutil.copytree(world.folder / "acoustic", tmp_path / "other")
    (other / "model.safetensors").write_bytes((other / "model.safetensors").read_bytes()[:-1] + b"\1")
    message = refused(adapt(world, tmp_path / "a", "--acoustic-encoder", other), 1)
    assert "has the revision" in message
    assert not (tmp_path / "a").exists()


def test_encoders_may_be_elsewhere(world: World, tmp_path: Path) -> None:
    moved = world.folder / "acoustic-moved"
    (world.folder / "acoustic").rename(moved)
    try:
        message = refused(adapt(world, tmp_path / "a"), 2)
        assert "acoustic" in message
        result = adapt(world, tmp_path / "a", "--acoustic-encoder", moved, "--seed", 1)
        assert result.exit_code == 0, result.output
    finally:
        moved.rename(world.folder / "acoustic")


def test_each_notice_is_printed_once(world: World, tmp_path: Path) -> None:
    """What the extraction and the training both notice, and what the training notices twice."""
    clinic = shutil.copytree(world.folder / "clinic", tmp_path / "clinic")
    edit(clinic, lambda row: row.update(activation="3") if row["split"] == "validation" else None)
    texts = ("--transcripts", world.folder / "texts.jsonl", "--seed", 0)
    result = adapt_to(clinic, world.bundles, tmp_path / "a", "--jobs", 64, *texts)
    assert result.exit_code == 0, result.output
    said = [line.strip() for line in (result.stdout + result.stderr).splitlines() if line.endswith(".")]
    for beginning in ("The validation split of clinic has the same activation", "--jobs 64 is more than the"):
        assert sum(line.startswith(beginning) for line in said) == 1, said
    assert len(said) == len(set(said))
