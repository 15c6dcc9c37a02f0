"""ser-report on whole run folders: what it writes and prints, and one sentence for what cannot be reported."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import html5lib
import numpy as np
import pytest
from click.testing import CliRunner, Result

from ser_memory.common.metrics import ccc
from ser_memory.train.report.cli import main
from ser_memory.train.report.contents import NO_TESTS, Chapter, by_variant, chapters
from ser_memory.train.report.data import load_run
from ser_memory.train.report.together import labelled
from ser_memory.train.results import overall, read_results
from ser_memory.train.settings import Variant
from tests.train.report.runs import build_run

VARIANTS = (Variant("finetune"), Variant("gem", "random", 30), Variant("gem", "speaker", 30))
PUBLISHED = "strategy,stage_name,corpus,dimension,metric,value\n"
SMALL = {"train": 60, "validation": 30, "test": 110}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_run(tmp_path_factory.mktemp("runs") / "night", variants=VARIANTS, seeds=3, splits=SMALL)


def report(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def refusal(*arguments: object) -> str:
    result = report(*arguments)
    assert result.exit_code != 0
    assert result.output.count("Error: ") == 1
    assert "Traceback" not in result.output
    return result.output.partition("Error: ")[2].strip()


def changed(run: Path, folder: Path, **facts: object) -> Path:
    """A copy of a run whose config.json says something else."""
    shutil.copytree(run, folder, ignore=shutil.ignore_patterns("report"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **facts}))
    return folder


def text_of(page: Path) -> str:
    tree = html5lib.parse(page.read_text(encoding="utf-8"), namespaceHTMLElements=False)
    return " ".join(" ".join(tree.itertext()).split())


@pytest.fixture(scope="module")
def made(run: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a whole report, and what was printed: made once, because figures take their time."""
    folder = tmp_path_factory.mktemp("report")
    published = folder / "published.csv"
    published.write_text(f"{PUBLISHED}finetune,P+M+I,msp-podcast,activation,ccc,0.292\n")
    result = report(run, "--output", folder, "--against", published)
    assert result.exit_code == 0, result.output
    return folder, result.output


def words(chapter: Chapter) -> str:
    parts = [words(part) for part in chapter.parts]
    notes = [note for named in chapter.tables for note in named.table.notes]
    return " ".join([chapter.heading, *chapter.paragraphs, *notes, *parts])


def text_without_figures(*runs: Path) -> str:
    return " ".join(words(chapter) for chapter in chapters(labelled([load_run(folder) for folder in runs])))


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


def test_one_kind_of_figure(run: Path, tmp_path: Path) -> None:
    result = report(run, "--figure", "stages", "--output", tmp_path)
    assert result.exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        f"stages-{dimension}.{suffix}" for dimension in ("activation", "valence") for suffix in ("svg", "pdf")
    }
    assert f"{tmp_path / 'stages-activation'}.svg and .pdf" in result.output


def test_one_seed_has_no_tests(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", variants=VARIANTS[:2], seeds=1, splits=SMALL)
    text = text_without_figures(run)
    assert NO_TESTS in text
    assert "The tests in full" not in text


def test_an_interrupted_run_says_what_is_missing(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", variants=VARIANTS[:2], seeds=2, splits=SMALL, unfinished=1)
    text = text_without_figures(run)
    assert "This run is not complete. 10 of its 12 stages are there" in text
    assert "missing: gem (random, 30) seed 1 stage 2, gem (random, 30) seed 1 stage 3." in text


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


def test_folds_are_pooled(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", variants=VARIANTS[:2], seeds=2, splits=SMALL, folds=3)
    assert "2 seeds, 3 folds" in text_without_figures(run)
    data = load_run(run)
    assert data.predictions is not None
    found = by_variant(data.predictions, "iemocap", "test", 3)[Variant("gem", "random", 30)]
    assert found.shape == (2, 110, 2)  # the folds of each seed together
    pooled = {
        row.seed: row.value for row in overall(data.results)
        if (row.strategy, row.stage, row.corpus, row.split) == ("gem", 3, "iemocap", "test")
        and (row.dimension, row.metric) == ("activation", "ccc")
    }  # fmt: skip
    truth = data.predictions.truth("iemocap", "test")
    for seed, prediction in enumerate(found):
        assert pooled[seed] == pytest.approx(ccc(truth[:, 0], prediction[:, 0]), abs=1e-6)
    # The other corpora have the same utterances in every fold: each model counts.
    assert by_variant(data.predictions, "msp-podcast", "test", 3)[Variant("finetune")].shape == (6, 110, 2)


class TestSeveralRuns:
    def test_they_are_labelled_by_what_differs(self, run: Path, tmp_path: Path) -> None:
        config = json.loads((run / "config.json").read_text())
        training = {**config["experiment"]["training"], "batch_size": 7}
        other = changed(run, tmp_path / "other", experiment={**config["experiment"], "training": training})
        usual = config["experiment"]["training"]["batch_size"]
        found = labelled([load_run(run), load_run(other)])
        assert list(found) == [f"batch-size {usual}", "batch-size 7"]
        (table,) = [
            named.table
            for chapter in chapters(found)
            for named in chapter.all_tables
            if named.name == "strategies-activation-ccc"
        ]
        assert table.headings[0] == "run"
        assert {row[0].text for row in table.rows} == set(found)

    def test_equal_options_are_labelled_by_folder(self, run: Path, tmp_path: Path) -> None:
        other = changed(run, tmp_path / "again")
        assert list(labelled([load_run(run), load_run(other)])) == ["night", "again"]

    def test_other_caches_are_refused(self, run: Path, tmp_path: Path) -> None:
        other = changed(run, tmp_path / "other", digests={"iemocap": "f" * 64})
        assert (
            "were trained on different caches (iemocap, msp-improv, msp-podcast): report them apart"
            in refusal(run, other)
        )
        scale = changed(run, tmp_path / "scale", label_scale="observed")
        assert "their label_scale is declared and observed" in refusal(run, scale)
        assert "is given twice" in refusal(run, run)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "There is no folder nowhere: give the folder of a run"),
        (["RUN", "--split", "test9"], "There are no figures of the split 'test9': there are those of"),
        (["RUN", "--figure", "transcripts"], "These runs have no data for the figure transcripts."),
        (["RUN", "--against", "nowhere.csv"], "There is no nowhere.csv: give a CSV file with the columns"),
    ],
)
def test_what_cannot_be_reported(run: Path, arguments: list[str], says: str) -> None:
    assert says in refusal(*(run if argument == "RUN" else argument for argument in arguments))
