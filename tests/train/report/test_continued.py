"""A run and those that continue it from its bundles, in one report."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from ser_memory.train.cli import main
from ser_memory.train.report.contents import chapters
from ser_memory.train.report.data import load_run
from ser_memory.train.report.formats import Table
from ser_memory.train.report.page import reproduction
from ser_memory.train.report.together import labelled
from tests.train.report.test_cli import refusal, tables_of, text_without_figures
from tests.train.test_cli import run
from tests.train.worlds import write_caches


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run `first` of three stages, with bundles of gem, and `adapted`, which goes another way after two of them."""
    folder = tmp_path_factory.mktemp("world")
    write_caches(folder / "cache")
    shutil.copy(folder / "cache" / "iemocap.h5", folder / "cache" / "clinic.h5")
    result = run(
        "--cache", folder / "cache", "--strategy", "finetune", "--strategy", "gem", "--seeds", 2, "--epochs", 1,
        "--bundles", "--estimate-size", 12, "--output", folder / "first",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    for name, stages in (("adapted", "clinic"), ("again", "iemocap")):
        arguments = [
            "--from", copied(folder / "first"), "--cache", folder / "cache", "--stages", stages, "--jobs", 1,
            "--trained", folder / "trained", "--output", folder / name, "--predictions", "none",
        ]  # fmt: skip
        result = CliRunner().invoke(main, list(map(str, arguments)))
        assert result.exit_code == 0, result.output
    return folder


def copied(run: Path) -> Path:
    """A copy of its bundles of gem after the second stage, of all seeds."""
    for seed in range(2):
        name = f"seed-{seed}/stage-2"
        shutil.copytree(
            run / "bundles" / "gem-random-20" / name, run.parent / "copied" / name, dirs_exist_ok=True
        )
    return run.parent / "copied"


def matrix(world: Path, name: str, *runs: str) -> Table:
    found = labelled([load_run(world / each) for each in runs])
    return tables_of(chapters(found))[name]


@pytest.mark.parametrize("order", [("first", "adapted"), ("adapted", "first")])
def test_one_table_has_the_stages_of_both(world: Path, order: tuple[str, str]) -> None:
    table = matrix(world, "strategies-valence-ccc", *order)
    assert [(row[0].text, row[1].text, row[2].text) for row in table.rows] == [
        ("first", "P", "all"),
        *[("first", stage, each) for stage in ("P+M", "P+M+I") for each in ("finetune", "gem (random, 20)")],
        ("adapted", "P+M", "gem (random, 20)"),
        ("adapted", "P+M+clinic", "gem (random, 20)"),
    ]
    assert table.headings[3:] == ("msp-podcast", "msp-improv", "iemocap", "clinic")
    assert [cell.text == "-" for cell in table.rows[-1][3:]] == [True, True, True, False]
    estimated = matrix(world, "estimates-valence-ccc", *order)
    assert {row[0].text for row in estimated.rows} == {"adapted"}
    costs = [(row[0].text, row[1].text) for row in matrix(world, "costs", *order).rows]
    assert ("first", "P+M+I") in costs
    assert ("adapted", "P+M+clinic") in costs


def test_it_says_which_figures_are_of_the_bundles(world: Path) -> None:
    runs = labelled([load_run(world / "first"), load_run(world / "adapted")])
    text = text_without_figures(world / "first", world / "adapted")
    assert (
        "adapted: This run continues from bundles: the figures of P+M are those of the models as they came"
        in text
    )
    assert "first: This run continues" not in text
    assert "Runs compared" not in text
    assert [section.heading for section in reproduction(list(runs.values())).sections] == ["first", "adapted"]


def test_the_model_of_a_bundle_has_the_same_figures_in_both(world: Path, tmp_path: Path) -> None:
    """`again` learns the corpus that `first` learns at that stage: both measured the bundles on it."""
    rows = matrix(world, "strategies-activation-ccc", "first", "again").rows
    of_the_bundle = [row for row in rows if (row[1].text, row[2].text) == ("P+M", "gem (random, 20)")]
    assert [row[0].text for row in of_the_bundle] == ["first", "again"]
    assert of_the_bundle[0][-1].text == of_the_bundle[1][-1].text

    shutil.copytree(world / "again", tmp_path / "other")
    lines = (tmp_path / "other" / "results.csv").read_text().splitlines()
    place = next(i for i, line in enumerate(lines) if ",2,P+M,iemocap,test,activation,ccc," in line)
    parts = lines[place].split(",")
    lines[place] = ",".join([*parts[:10], str(float(parts[10]) + 0.01), *parts[11:]])
    (tmp_path / "other" / "results.csv").write_text("\n".join(lines) + "\n")
    told = refusal(world / "first", tmp_path / "other")
    assert (
        "measured the same model, gem of seed 0 after P+M, on the test split of iemocap and differ (CCC of"
        in told
    )
    assert told.endswith("their caches or protocols of iemocap are not the same, so report them apart.")


def test_a_run_of_other_bundles_is_refused_with_a_remedy(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "first", tmp_path / "first")
    bundle = tmp_path / "first" / "bundles" / "gem-random-20" / "seed-1" / "stage-2" / "config.json"
    bundle.write_text("{")  # damaged, so it is nobody's
    told = refusal(tmp_path / "first", world / "adapted")
    assert told == (
        f"{world / 'adapted'} continues from bundles that are not in {tmp_path / 'first' / 'bundles'}: report it apart, "
        "or copy these bundles there."
    )
    shutil.copytree(world / "copied", tmp_path / "first" / "bundles" / "copied")
    assert list(labelled([load_run(tmp_path / "first"), load_run(world / "adapted")])) == ["first", "adapted"]


def test_two_adaptations_of_one_run(world: Path) -> None:
    runs = labelled([load_run(world / name) for name in ("again", "first", "adapted")])
    assert list(runs) == ["first", "again", "adapted"]
