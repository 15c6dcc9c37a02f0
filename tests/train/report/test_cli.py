"""ser-report on whole run folders: what it writes and prints, and one sentence for what cannot be reported."""

from __future__ import annotations

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


def words(chapter: Chapter) -> str:
    parts = [words(part) for part in chapter.parts]
    notes = [note for named in chapter.tables for note in named.table.notes]
    return " ".join([chapter.heading, *chapter.paragraphs, *notes, *parts])


def text_without_figures(*runs: Path) -> str:
    return " ".join(words(chapter) for chapter in chapters(labelled([load_run(folder) for folder in runs])))


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


def test_folds_are_pooled(tmp_path: Path) -> None:
    run = build_run(tmp_path / "run", variants=VARIANTS[:2], seeds=2, splits=SMALL, folds=3)
    assert "2 seeds, 3 folds" in text_without_figures(run)
    (table,) = [
        named.table
        for chapter in chapters({"": load_run(run)})
        for named in chapter.all_tables
        if named.name == "folds-valence-uar"
    ]
    last = next(row for row in table.rows if (row[0].text, row[1].text) == ("P+M+I", "finetune"))
    means = [
        np.mean([
            row.value for row in read_results(run)
            if (row.strategy, row.stage, row.corpus, row.fold) == ("finetune", 3, "iemocap", fold)
            and (row.split, row.dimension, row.metric) == ("test", "valence", "uar")
        ])
        for fold in "123"
    ]  # fmt: skip
    assert last[3].text == f"{np.mean(means):.3f} ± {np.std(means, ddof=1):.3f}"
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


def test_predictions_of_another_run_are_refused(run: Path, tmp_path: Path) -> None:
    other = build_run(tmp_path / "other", variants=VARIANTS[:1], seeds=1, splits=SMALL)
    shutil.copyfile(other / "predictions.h5", changed(run, tmp_path / "mixed") / "predictions.h5")
    assert "predictions.h5 is of another run than" in refusal(tmp_path / "mixed")


def test_a_run_without_a_finished_stage_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert f"continue it with the same ser-train command and --output {tmp_path}" in refusal(tmp_path)


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
