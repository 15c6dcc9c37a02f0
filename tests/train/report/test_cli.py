"""ser-report on whole run folders: what it writes and prints, and one sentence for what cannot be reported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import html5lib
import numpy as np
import pytest
from click.testing import CliRunner, Result

from ser_memory.common.metrics import ccc
from ser_memory.train.report.cli import main
from ser_memory.train.report.contents import NO_TESTS, Chapter, by_variant, chapters
from ser_memory.train.report.data import load_run
from ser_memory.train.report.figures.gallery import figures_of
from ser_memory.train.report.formats import Table
from ser_memory.train.report.together import labelled
from ser_memory.train.results import overall, read_results
from ser_memory.train.runs import Variant
from tests.train.report.runs import ANALYTIC, build_run

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


def test_titles_name_what_is_compared(tmp_path: Path) -> None:
    runs = {
        name: chapters({"": load_run(build_run(tmp_path / name, variants=variants, seeds=3, splits=SMALL))})
        for name, variants in (
            ("usual", VARIANTS[:2]), ("alone", VARIANTS[1:2]), ("apart", (VARIANTS[1], ANALYTIC)),
        )
    }  # fmt: skip
    found = {name: tables_of(each) for name, each in runs.items()}
    title = found["usual"]["strategies-valence-ccc"].title
    assert title.endswith(": against finetune, mean ± standard deviation over 3 seeds")
    assert ": forgetting, against finetune, mean" in found["usual"]["forgetting-valence-ccc"].title
    assert "difference from finetune" in found["usual"]["intervals-iemocap-valence-ccc"].headings

    title = found["alone"]["strategies-valence-ccc"].title
    assert title.endswith("110 (iemocap): mean ± standard deviation over 3 seeds")
    everything = " ".join(
        [*map(words, runs["alone"])]
        + [text for each in found["alone"].values() for text in (each.title, *each.headings)]
    )
    for what in ("against", "difference from", "finetune", "fine-tuning", "baseline"):
        assert what not in everything, what
    assert found["alone"]["intervals-iemocap-valence-ccc"].headings == (
        "strategy", "CCC", "95% over utterances", "95% over speakers", "models",
    )  # fmt: skip

    # Without fine-tuning there is one comparison: of a first stage apart with that of all others.
    for name in ("strategies-valence-ccc", "strategies-valence-ccc-tests"):
        assert "at the first stage against all, " in found["apart"][name].title
    assert {row[0].text for row in found["apart"]["strategies-valence-ccc-tests"].rows} == {"P"}
    assert "At that stage it is compared with all." in " ".join(map(words, runs["apart"]))


def test_an_interval_over_too_few_utterances_is_not_said_to_be_over_too_few_speakers(tmp_path: Path) -> None:
    few = {"train": 60, "validation": 30, "test": 9}
    run = build_run(tmp_path / "run", variants=VARIANTS[:2], seeds=3, splits=few)
    table = tables_of(chapters({"": load_run(run)}))["intervals-iemocap-valence-ccc"]
    for row in table.rows:
        assert [row[2].text, row[3].text] == ["too few utterances", "too few speakers"]


@pytest.mark.parametrize("tested", [9, 10])
def test_tables_over_few_utterances_say_so(tmp_path: Path, tested: int) -> None:
    few = {"train": 60, "validation": 30, "test": tested}
    run = build_run(tmp_path / "run", variants=VARIANTS, seeds=3, splits=few, folds=2)
    with (run / "conditions.csv").open("w") as file:
        first, *lines = (run / "results.csv").read_text().splitlines()
        file.write("\n".join([f"{first},condition", *(f"{line},telephone" for line in lines)]) + "\n")
    found = tables_of(chapters({"": load_run(run)}))
    start = "Fewer than 10 utterances, over which a CCC means very little: "
    for name in ("strategies", "samplers", "forgetting", "conditions", "folds"):
        table = next(table for each, table in found.items() if each.startswith(name))
        told = [note.removeprefix(start).partition(". ")[0] for note in table.notes if note.startswith(start)]
        if name == "folds":
            assert told == [f"test split of the smallest fold of iemocap (n = {tested // 2})"]
        elif tested == 10:
            assert told == []
        else:
            assert f"test split of msp-podcast (n = {tested})" in told[0]


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

    @pytest.mark.parametrize(
        ("one", "other", "labels"),
        [
            ({}, {"stop_on": "memory"}, ["stop-on current", "stop-on memory"]),
            ({}, {"average": "ema", "average_decay": 0.9},
             ["average none, average-decay 0.99", "average ema, average-decay 0.9"]),
            ({}, {"average": "interpolate", "average_share": 0.3},
             ["average none, average-share 0.5", "average interpolate, average-share 0.3"]),
            ({"heads": "joint"}, {"dimensions": ["activation", "valence", "dominance"]},
             ["dimensions activation,valence", "dimensions activation,valence,dominance"]),
            ({"heads": "joint"}, {"heads": "valence"}, ["dimensions activation,valence", "dimensions valence"]),
            ({"heads": "valence"}, {"dimensions": ["valence"], "epochs": 7}, ["epochs 50", "epochs 7"]),
            ({"heads": "joint"}, {"dimensions": ["activation", "valence"], "stop_on": "current"},
             ["one", "other"]),
        ],
    )  # fmt: skip
    def test_options_that_older_runs_did_not_have(
        self, run: Path, tmp_path: Path, one: dict[str, Any], other: dict[str, Any], labels: list[str]
    ) -> None:
        experiment = json.loads((run / "config.json").read_text())["experiment"]
        folders = [
            changed(
                run, tmp_path / name, experiment={**experiment, "training": {**experiment["training"], **own}}
            )
            for name, own in (("one", one), ("other", other))
        ]
        assert list(labelled([load_run(folder) for folder in folders])) == labels

    def test_an_option_of_several_strategies_is_named_once(self, run: Path, tmp_path: Path) -> None:
        experiment = json.loads((run / "config.json").read_text())["experiment"]
        older = {"experience-replay": {"replay_share": None}, "joint": {}}
        newer = {name: {**options, "replay_loss": "per-corpus"} for name, options in older.items()}
        folders = [
            changed(run, tmp_path / name, experiment={**experiment, "options": options})
            for name, options in (("one", older), ("other", newer))
        ]
        found = labelled([load_run(folder) for folder in folders])
        assert list(found) == ["replay-loss pooled", "replay-loss per-corpus"]

    def test_digests_of_ratings_that_one_run_does_not_read(self, run: Path, tmp_path: Path) -> None:
        """The digest of a corpus has its ratings of dominance only if they are trained."""
        experiment = json.loads((run / "config.json").read_text())["experiment"]
        training = {**experiment["training"], "dimensions": ["activation", "valence", "dominance"]}
        digests = dict.fromkeys(("msp-podcast", "msp-improv", "iemocap"), "f" * 64)
        other = changed(
            run, tmp_path / "other", experiment={**experiment, "training": training}, digests=digests
        )
        assert len(labelled([load_run(run), load_run(other)])) == 2
        lines = (other / "results.csv").read_text().splitlines()
        lines[1:] = [line.replace(",110,", ",109,") if ",iemocap," in line else line for line in lines[1:]]
        (other / "results.csv").write_text("\n".join(lines) + "\n")
        assert "different caches (iemocap): report them apart" in refusal(run, other)

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


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with dominance, which one corpus does not rate and another in part, and with a first stage apart."""
    return build_run(
        tmp_path_factory.mktemp("runs") / "three",
        variants=(*VARIANTS[:2], ANALYTIC),
        seeds=3,
        splits=SMALL,
        dominance={"msp-improv": 1.0, "iemocap": 0.2},
    )


@pytest.fixture(scope="module")
def of_three(three: Path) -> list[Chapter]:
    return chapters({"": load_run(three)})


def tables_of(found: list[Chapter]) -> dict[str, Table]:
    return {named.name: named.table for chapter in found for named in chapter.all_tables}


def test_a_dimension_that_a_corpus_lacks(of_three: list[Chapter]) -> None:
    found = tables_of(of_three)
    assert found["strategies-dominance-ccc"].headings == ("stage", "strategy", "msp-podcast", "iemocap")
    assert "n = 110 (msp-podcast), 88 (iemocap)" in found["strategies-dominance-ccc"].title
    assert "n = 88 (iemocap)" in found["intervals-iemocap-dominance-uar"].title
    assert "intervals-msp-improv-dominance-ccc" not in found
    assert "n" in found["speaker-msp-podcast"].headings
    assert not any("dominance" in heading for heading in found["speaker-msp-improv"].headings)
    partly = found["gender-iemocap"]
    sizes = [partly.headings.index(f"n of {each}") for each in ("activation", "valence", "dominance")]
    for row in partly.rows:
        assert [row[place].value for place in sizes] == [55, 55, 44]
    for table in found.values():
        assert not any("nan" in cell.text for row in table.rows for cell in row)
    assert "No ratings of dominance, so no figures of it: msp-improv." in words(of_three[0])


def test_a_first_stage_apart_is_named_and_explained(of_three: list[Chapter]) -> None:
    table = tables_of(of_three)["strategies-valence-ccc"]
    lines = [(row[0].text, row[1].text) for row in table.rows]
    assert lines[:3] == [("P", "all"), ("P", "analytic"), ("P+M", "finetune")]
    assert "The same for every seed, so with a deviation of 0: analytic." in table.notes
    text = " ".join(map(words, of_three))
    first = "analytic has a first stage of its own. At that stage it is compared with all, which is fine-tuning's model too."
    assert first in text
    assert "one figure for all of them, and another for analytic." in text


def test_without_a_first_stage_apart_nothing_is_said_of_it(tmp_path: Path) -> None:
    plain = build_run(tmp_path / "run", variants=VARIANTS[:2], seeds=3, splits=SMALL, predictions=False)
    text = text_without_figures(plain)
    assert "At the first stage all strategies are the same model" in text
    assert "same for every seed" not in text


def test_runs_that_no_seed_changes_have_differences_without_p(tmp_path: Path) -> None:
    alone = build_run(tmp_path / "alone", variants=[ANALYTIC], seeds=3, splits=SMALL, predictions=False)
    assert "same model" not in text_without_figures(alone)
    text = text_without_figures(alone, changed(alone, tmp_path / "other", layer="7"))
    assert "without p, interval and effect size is the same for every seed" in text


def test_three_dimensions_in_figures(three: Path) -> None:
    loaded = load_run(three)
    drawn = {name for name, _ in figures_of(loaded, loaded.overall)}
    assert {f"{kind}-dominance" for kind in ("stages", "heat", "cost")} <= drawn
    assert "agreement-iemocap-dominance" in drawn
    assert "agreement-msp-improv-dominance" not in drawn
    assert "memory-30" in drawn


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
