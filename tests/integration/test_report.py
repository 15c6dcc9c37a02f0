"""Whole reports of ser-report: every table, figure and file, and the same page for the same run."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from ser_memory.common.cache import FeatureCache, write_cache
from ser_memory.train.cli import main as ser_train
from ser_memory.train.results import read_results
from tests.train.report.runs import build_run
from tests.train.report.test_cli import PUBLISHED, SMALL, VARIANTS, refusal, report, run, text_of
from tests.train.worlds import write_caches

assert run  # the fixture


@pytest.fixture(scope="module")
def made(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a whole report, and what was printed: made once, because figures take their time."""
    folder = tmp_path_factory.mktemp("report")
    published = folder / "published.csv"
    published.write_text(f"{PUBLISHED}finetune,P+M+I,msp-podcast,activation,ccc,0.292\n")
    result = report(run, "--output", folder, "--against", published)
    assert result.exit_code == 0, result.output
    return folder, result.output


def rows_of(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_everything_is_written(made: tuple[Path, str]) -> None:
    folder, printed = made
    page = text_of(folder / "index.html")
    for heading in (
        "Every strategy at every stage", "Who is remembered", "Forgetting", "Backward transfer", "Forward transfer",
        "Other utterances, other speakers", "By speaker", "By gender", "What the memories hold", "Cost",
        "Published figures", "Reproduce this report",
    ):  # fmt: skip
        assert heading in page, heading
    assert f"Page: {folder / 'index.html'}" in printed
    for kind in ("stages", "heat", "forest", "agreement", "memory", "learning", "bent", "cost"):
        assert list((folder / "figures").glob(f"{kind}*.svg")), kind
        assert list((folder / "figures").glob(f"{kind}*.pdf")), kind
    for suffix in ("md", "tex", "csv"):
        assert (folder / "tables" / f"strategies-activation-ccc.{suffix}").exists()


def test_the_figures_of_a_table_are_means_over_the_seeds(run: Path, made: tuple[Path, str]) -> None:
    rows = {(row["stage"], row["strategy"]): row for row in rows_of(made[0], "strategies-valence-uar")}
    values = [
        row.value for row in read_results(run)
        if (row.strategy, row.sampler, row.stage, row.corpus) == ("gem", "speaker", 3, "msp-improv")
        and (row.split, row.dimension, row.metric) == ("test", "valence", "uar")
    ]  # fmt: skip
    assert len(values) == 3
    assert float(rows["P+M+I", "gem (speaker, 30)"]["msp-improv"]) == pytest.approx(np.mean(values))


def test_published_figures_stand_beside_ours(run: Path, made: tuple[Path, str], tmp_path: Path) -> None:
    (row,) = rows_of(made[0], "published")
    assert float(row["difference"]) == pytest.approx(float(row["ours"]) - 0.292)
    table = tmp_path / "published.csv"
    table.write_text(f"{PUBLISHED}packnet,P+M+I,msp-podcast,activation,ccc,0.292\n")
    assert "has the strategy 'packnet', which is not in these results: they have finetune, gem" in refusal(
        run, "--against", table
    )


def test_dominance_and_a_first_stage_apart(tmp_path: Path) -> None:
    """Trained for real: one corpus has no ratings of dominance, another lacks some, and analytic takes no steps."""
    write_caches(tmp_path / "cache")
    for name, every in (("msp-podcast", 0), ("iemocap", 7)):
        cache = FeatureCache(tmp_path / "cache" / f"{name}.h5")
        columns = {column: cache.read(column) for column in cache.shapes}
        dominance = (columns["activation"] + columns["valence"]) / 2
        if every:
            dominance[::every] = np.nan
        write_cache(cache.path, cache.info, {**columns, "dominance": dominance})
    words = (
        f"--cache {tmp_path / 'cache'} --dimensions activation,valence,dominance --strategy finetune --strategy gem "
        f"--strategy analytic --memory-size 20 --batch-size 16 --epochs 3 --seeds 3 --output {tmp_path / 'run'}"
    )
    trained = CliRunner().invoke(ser_train, words.split())
    assert trained.exit_code == 0, trained.output
    firsts = [line.split()[1] for line in trained.output.splitlines() if line.split()[:1] == ["P"]]
    assert firsts == ["all", "analytic"] * 6
    result = report(tmp_path / "run")
    assert result.exit_code == 0, result.output
    folder = tmp_path / "run/report"
    page = text_of(folder / "index.html")
    assert "No ratings of dominance, so no figures of it: msp-improv." in page
    assert "The same for every seed, so with a deviation of 0: analytic." in page
    figures = {
        (row.stage_name, row.corpus): row.value for row in read_results(tmp_path / "run")
        if (row.strategy, row.dimension, row.metric, row.split) == ("analytic", "dominance", "ccc", "test")
    }  # fmt: skip
    first, second = figures["P", "msp-podcast"], figures["P+M+I", "msp-podcast"]
    rows = rows_of(folder, "strategies-dominance-ccc")
    (row,) = [row for row in rows if (row["stage"], row["strategy"]) == ("P", "analytic")]
    assert list(row) == ["stage", "strategy", "msp-podcast", "iemocap"]
    assert float(row["msp-podcast"]) == pytest.approx(first)
    (row,) = [row for row in rows_of(folder, "backward-dominance-ccc") if row["strategy"] == "analytic"]
    assert float(row["msp-podcast"]) == pytest.approx(second - first)
    costs = [row for row in rows_of(folder, "costs") if row["strategy"] == "analytic"]
    assert all(float(row["kept in all"]) > 0 and float(row["seconds"]) >= 0 for row in costs)


def test_one_kind_of_figure(run: Path, tmp_path: Path) -> None:
    result = report(run, "--figure", "stages", "--output", tmp_path)
    assert result.exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        f"stages-{dimension}.{suffix}" for dimension in ("activation", "valence") for suffix in ("svg", "pdf")
    }
    assert f"{tmp_path / 'stages-activation'}.svg and .pdf" in result.output


def test_a_folder_of_an_older_version_has_what_its_files_allow(tmp_path: Path) -> None:
    """And the same run gives the same page."""
    run = build_run(tmp_path / "run", variants=VARIANTS[:2], seeds=2, splits=SMALL, predictions=False)
    for name in ("costs.csv", "epochs.csv", "memory.csv"):
        (run / name).unlink()
    pages = []
    for _ in range(2):
        result = report(run)
        assert result.exit_code == 0, result.output
        pages.append((run / "report/index.html").read_bytes())
    assert pages[0] == pages[1]
    page = text_of(run / "report/index.html")
    assert "The folder has no memory.csv, costs.csv, epochs.csv, predictions.h5" in page
    assert "Every strategy at every stage" in page
