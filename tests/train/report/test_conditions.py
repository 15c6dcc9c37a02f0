"""What a report says of other acoustic conditions."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import astuple, fields
from pathlib import Path

import numpy as np
import pytest

from ser_memory.common.errors import SerError
from ser_memory.train.report.conditions import in_conditions
from ser_memory.train.report.contents import chapters
from ser_memory.train.report.data import RunData, load_run
from ser_memory.train.report.figures.gallery import figures_of
from ser_memory.train.report.formats import Table, comma_separated, latex, markdown
from ser_memory.train.report.together import labelled
from ser_memory.train.results import ConditionResult, read_results
from ser_memory.train.runs import Variant
from tests.train.report.runs import build_run

COSTS = {"telephone": 0.1, "noise:10": 0.25, "noise:5": 0.3}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Of two corpora with conditions, whose figures are lower by COSTS and, by seed, by a tenth of the seed."""
    splits = {"train": 60, "validation": 20, "test": 30}
    variants = [Variant("finetune"), Variant("gem", "random", 20)]
    folder = build_run(tmp_path / "run", variants=variants, seeds=3, splits=splits, predictions=False)
    write_conditions(folder, {"msp-improv": ["noise:10"], "iemocap": list(COSTS)})
    return folder


def write_conditions(folder: Path, known: Mapping[str, list[str]]) -> None:
    with (folder / "conditions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([each.name for each in fields(ConditionResult)])
        for row in read_results(folder):
            for condition in known.get(row.corpus, []) if row.split == "test" else []:
                values = vars(row) | {"value": row.value - COSTS[condition] - row.seed / 10}
                writer.writerow(astuple(ConditionResult(**values, condition=condition)))


def tables_of(*runs: Path) -> dict[str, Table]:
    found = chapters(labelled([load_run(run) for run in runs]))
    (chapter,) = [each for each in found if each.heading == "In other acoustic conditions"]
    return {named.name: named.table for named in chapter.tables}


def test_figures_beside_the_clean_ones(run: Path) -> None:
    tables = tables_of(run)
    assert list(tables) == ["conditions-activation", "conditions-valence"]
    table = tables["conditions-valence"]
    assert table.headings == (
        "corpus",
        "strategy",
        "condition",
        "n",
        "clean",
        "in the condition",
        "drop",
        "seeds",
    )
    assert [(row[0].text, row[1].text, row[2].text) for row in table.rows] == [
        (corpus, strategy, condition)
        for corpus, conditions in (
            ("msp-improv", ["noise:10"]),
            ("iemocap", ["noise:5", "noise:10", "telephone"]),
        )
        for strategy in ("finetune", "gem (random, 20)")
        for condition in conditions
    ]
    clean = [
        row.value for row in read_results(run)
        if (row.strategy, row.stage, row.corpus, row.split) == ("gem", 3, "iemocap", "test")
        and (row.dimension, row.metric) == ("valence", "ccc")
    ]  # fmt: skip
    (line,) = [
        row
        for row in table.rows
        if [cell.text for cell in row[:3]] == ["iemocap", "gem (random, 20)", "noise:5"]
    ]
    here = np.array(clean) - 0.3 - np.array([0.0, 0.1, 0.2])
    expected = [
        "30", f"{np.mean(clean):.3f} ± {np.std(clean, ddof=1):.3f}", f"{here.mean():.3f} ± {here.std(ddof=1):.3f}",
        "0.400 ± 0.100", "3",
    ]  # fmt: skip
    assert [cell.text for cell in line[3:]] == expected
    for write in (markdown, latex, comma_separated):
        assert "telephone" in write(table)


def test_several_runs_and_a_seed_that_lacks_a_figure(run: Path, tmp_path: Path) -> None:
    lines = (run / "conditions.csv").read_text().splitlines()
    kept = [
        line for line in lines if not (line.startswith("gem,random,20,2,") and line.endswith("telephone"))
    ]
    (run / "conditions.csv").write_text("\n".join(kept) + "\n")
    other = tmp_path / "other"
    other.mkdir()
    for path in run.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    table = tables_of(run, other)["conditions-activation"]
    assert table.headings[0] == "run"
    seeds = {row[-1].text for row in table.rows if (row[2].text[:3], row[3].text) == ("gem", "telephone")}
    assert seeds == {"2"}
    assert {row[0].text for row in table.rows} == {"run", "other"}


def test_the_figure(run: Path) -> None:
    data: RunData = load_run(run)
    drawn = dict(figures_of(data, data.overall, wanted=("conditions",)))
    assert list(drawn) == ["conditions-activation", "conditions-valence"]
    panels = [axes for axes in drawn["conditions-valence"].figure.axes if axes.get_title()]
    assert [axes.get_title() for axes in panels] == ["msp-improv (n = 30)", "iemocap (n = 30)"]
    assert [text.get_text() for text in panels[1].get_xticklabels()] == [
        "clean",
        "noise:5",
        "noise:10",
        "telephone",
    ]
    (finetune, *_) = panels[1].lines  # the first of the lines are the points, then come the bars
    found = [each for each in in_conditions({"": data}, "test") if each.corpus == "iemocap"]
    means = [
        each.here for each in found if (each.variant, each.dimension) == (Variant("finetune"), "valence")
    ]
    assert np.asarray(finetune.get_ydata())[1:] == pytest.approx([np.mean(values) for values in means])


def test_without_conditions_there_is_nothing_and_a_damaged_file_is_named(run: Path) -> None:
    content = (run / "conditions.csv").read_text()
    (run / "conditions.csv").write_text(content[: len(content) // 2].rpartition(",")[0])
    with pytest.raises(
        SerError, match=r"conditions.csv was cut off at line \d+: run the same ser-train command"
    ):
        load_run(run)
    (run / "conditions.csv").write_text("a,b\n")
    with pytest.raises(
        SerError, match=r"conditions.csv has no column .*: give a conditions.csv of ser-train"
    ):
        load_run(run)
    (run / "conditions.csv").unlink()
    assert "In other acoustic conditions" not in [each.heading for each in chapters({"": load_run(run)})]
