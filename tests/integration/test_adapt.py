"""ser-adapt: recordings and a bundle in, an adapted bundle out, and the same as both commands one after the other."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from ser_memory.common.cache import FeatureCache
from ser_memory.common.reporting import Silent
from ser_memory.extract.api import extract
from ser_memory.extract.parts import Parts
from ser_memory.train import experiment
from ser_memory.train.adapt import main
from ser_memory.train.api import load, train
from ser_memory.train.bundle_files import bundles_in, read_bundle, write_bundle
from ser_memory.train.bundles.cli import main as ser_bundle
from ser_memory.train.predict.cli import main as ser_predict
from ser_memory.train.predictions import Predictions
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
    shutil.copytree(made.folder / "clinic", made.folder / "silent")
    edit(made.folder / "silent", lambda row: row.pop("transcript"))
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


def adapt_without_texts(world: World, output: Path, *options: object) -> Any:
    return adapt_to(world.folder / "silent", world.bundles, output, "--jobs", 1, *options)


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


def test_without_texts_it_learns_from_voices(world: World, tmp_path: Path) -> None:
    """What the run predicted is what the adapted bundle predicts without a text; no text encoder is needed."""
    away = (world.folder / "text").rename(tmp_path / "text")
    try:
        result = adapt_without_texts(world, tmp_path / "adapted", "--transcriber", "none")
        assert result.exit_code == 0, result.output
        cache = FeatureCache(tmp_path / "adapted" / "cache" / "clinic.h5")
        assert len(cache) == len(world.recordings)
        assert set(cache.read("transcript")) == {""}
        stored = Predictions(tmp_path / "adapted")
        ids = stored.texts("clinic", "test", "id")
        paths = [next((world.folder / "silent" / "clips").glob(f"{name}.*")) for name in ids]
        before, after = bundles_in(world.bundles), bundles_in(tmp_path / "adapted" / "bundles")
        assert len(after) == 2
        for seed, (old, new) in enumerate(
            zip(map(read_bundle, before), map(read_bundle, after), strict=True)
        ):
            assert (cache.read("text") == old.neutral_text).all()
            assert new.neutral_text == pytest.approx(old.neutral_text, rel=1e-6, abs=1e-7)
            ratings = load(new.folder, device="cpu").predict(paths, reporter=Silent())
            predicted = [[*each.values.values()] for each in ratings if each.values is not None]
            np.testing.assert_allclose(predicted, stored.predicted("clinic", "test", 2, seed), atol=1e-5)
    finally:
        away.rename(world.folder / "text")
    assert result.stderr.count("clinic.h5 has no texts: one neutral text stands for all of them") == 1
    command = json.loads((tmp_path / "adapted" / "config.json").read_text())["command"]
    assert command.startswith(f"ser-adapt {world.bundles} --corpus ")
    assert command.endswith(" --transcriber none")
    # Nobody is left to think that there were texts: neither who trains on the cache, nor who reads the card or a report.
    described = CliRunner().invoke(ser_bundle, ["describe", str(new.folder)]).stdout.splitlines()
    assert next(line for line in described if line.strip().startswith("clinic")).split()[5] == "none"
    report = CliRunner().invoke(ser_report, [str(tmp_path / "adapted"), "--output", str(tmp_path / "report")])
    assert report.exit_code == 0, report.output
    page = (tmp_path / "report" / "index.html").read_text()
    assert "No texts, so that models learn and are tested by voice alone: clinic." in page
    rated = [str(new.folder), str(paths[0]), "--device", "cpu"]
    without = CliRunner().invoke(ser_predict, rated).stderr
    assert "neutral text" in without
    assert "Give texts" not in without
    texts = tmp_path / "texts.csv"
    texts.write_text(f"id,text\n{paths[0].stem},a good day\n")
    with_texts = CliRunner().invoke(ser_predict, [*rated, "--transcripts", str(texts)]).stderr
    assert "The model learned from clinic without texts" in with_texts
    assert cache.info.transcriber.startswith("none: neutral text ")
    assert f"| {cache.info.transcriber} |" in (new.folder / "README.md").read_text()


def test_stopped_and_continued_it_gives_the_same_bytes(world: World, tmp_path: Path) -> None:
    """Killed after the first part of the extraction, and again before the bundles are written."""

    def life(patched: object, name: str, times: int) -> int | None:
        process = multiprocessing.get_context("fork").Process(
            target=_die_at, args=(patched, name, times, begin)
        )
        process.start()
        process.join()
        return process.exitcode

    def begin() -> None:
        adapt_without_texts(world, tmp_path / "killed", "--transcriber", "none", "--seed", 0)

    assert life(Parts, "write", 2) == -signal.SIGKILL
    assert len(list((tmp_path / "killed" / "cache" / "clinic.parts").rglob("part-*"))) == 1
    assert life(experiment, "write_bundles", 1) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "bundles").exists()
    for output in ("killed", "whole"):
        result = adapt_without_texts(world, tmp_path / output, "--transcriber", "none", "--seed", 0)
        assert result.exit_code == 0, result.output
    killed, whole = (_files(tmp_path / output) for output in ("killed", "whole"))
    assert {"cache/clinic.h5", "results.csv"} < set(whole)
    assert sum(name.startswith("bundles/") for name in whole) > 3
    assert killed == whole


def _die_at(patched: object, name: str, times: int, begin: Callable[[], None]) -> None:
    """Begin, and be killed when a function is called so many times."""
    calls, work = [], getattr(patched, name)

    def called(*arguments: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) == times:
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*arguments, **options)

    setattr(patched, name, called)
    begin()


def _files(output: Path) -> dict[str, bytes]:
    """The cache, the figures and the bundles of an adaptation."""
    paths = [output / "cache" / "clinic.h5", *output.glob("*.csv"), *output.glob("bundles/*/**/*")]
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in paths
        if path.is_file() and path.name != "costs.csv"
    }


def test_a_corpus_without_texts_names_what_helps(world: World, tmp_path: Path) -> None:
    message = refused(adapt_without_texts(world, tmp_path / "a"), 1)
    assert "24 of 24 otherwise usable utterances have no transcript: give a file" in message
    assert message.endswith("To adapt the model by voice alone, add --transcriber none.")
    without = ("--transcriber", "none")
    message = refused(
        adapt_without_texts(world, tmp_path / "a", *without, "--text-encoder", world.folder / "text"), 2
    )
    assert f"--transcriber none encodes no text, so that --text-encoder {world.folder / 'text'}" in message
    message = refused(adapt(world, tmp_path / "a", *without), 2)
    assert f"--transcripts {world.folder / 'texts.jsonl'} would have no effect: leave it out" in message
    message = refused(adapt_without_texts(world, tmp_path / "a", "--transcriber", "none,whisper"), 2)
    assert message == "--transcriber none,whisper: none stands alone, without other transcribers."
    assert not list((tmp_path / "a").rglob("*.h5"))


def test_seeds_that_learned_from_other_texts_have_no_common_neutral_text(
    world: World, tmp_path: Path
) -> None:
    for place, folder in enumerate(bundles_in(world.bundles)):
        bundle = read_bundle(folder)
        write_bundle(
            tmp_path / "seeds" / f"seed-{place}", replace(bundle, text_means=bundle.text_means + place), ""
        )
    (tmp_path / "seeds" / "encoders.json").write_bytes((world.bundles / "encoders.json").read_bytes())
    clinic, without = world.folder / "silent", ("--transcriber", "none", "--jobs", 1)
    message = refused(adapt_to(clinic, tmp_path / "seeds", tmp_path / "a", *without), 1)
    assert "bundles of seeds 0, 1 learned from different texts" in message
    assert "adapt each with --seed" in message
    assert not (tmp_path / "a").exists()
    result = adapt_to(clinic, tmp_path / "seeds", tmp_path / "b", *without, "--seed", 1)
    assert result.exit_code == 0, result.output
    expected = read_bundle(tmp_path / "seeds" / "seed-1").neutral_text
    assert (FeatureCache(tmp_path / "b" / "cache" / "clinic.h5").read("text") == expected).all()


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
    message = refused(adapt_to(clinic, world.bundles, tmp_path / "a", "--transcriber", "none"), 1)
    assert message.endswith("): give another --output.")
