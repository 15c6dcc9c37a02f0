"""The closing tables of ser-train."""

from __future__ import annotations

import pytest

from ser_memory.train.report.statistics import differs
from ser_memory.train.report.summary import FINETUNE
from ser_memory.train.report.terminal import print_tables
from ser_memory.train.results import Result
from ser_memory.train.runs import Variant
from tests.train.report.test_summary import OWN, SEEDS, own_world, seeds_of, world


def lines_of(results: list[Result], capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    print_tables(results)
    return [line.split() for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize("first", [True, False])
def test_an_own_first_stage_has_its_line(first: bool, capsys: pytest.CaptureFixture[str]) -> None:
    usual = world(variants=[FINETUNE, Variant("gem", "random", 100)])
    lines = lines_of([*own_world(), *usual] if first else [*usual, *own_world()], capsys)
    at_first = [line for line in lines if line[:1] == ["P"]]
    assert [line[1] for line in at_first] == ["all", "analytic"]
    signs = {1: "*+", -1: "*-", 0: ""}
    marks = [
        signs[differs(dict.fromkeys(range(SEEDS), OWN[corpus][0]), seeds_of(usual, FINETUNE, 1, corpus))]
        for corpus in OWN
    ]
    assert any(marks)
    shown = [f"{OWN[corpus][0]:.3f} ± 0.000{mark}" for corpus, mark in zip(OWN, marks, strict=True)]
    assert " ".join(at_first[1][2:]) == " ".join(shown)
    text = "\n".join(map(" ".join, lines))
    assert "lower than finetune at the same stage (at the first stage, than all), p < 0.05" in text
    assert "The same for every seed, so with a deviation of 0: analytic." in text


def test_without_one_nothing_is_said_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(world(), capsys)
    assert [line[1] for line in lines if line[:1] == ["P"]] == ["all"]
    text = "\n".join(map(" ".join, lines))
    assert "lower than finetune at the same stage, p < 0.05" in text
    assert "same for every seed" not in text


def test_the_legend_names_what_there_is_to_compare_with(capsys: pytest.CaptureFixture[str]) -> None:
    gem = world(variants=[Variant("gem", "random", 100)])
    text = "\n".join(map(" ".join, lines_of([*gem, *own_world()], capsys)))
    assert "*+ higher, *- lower than all at the first stage, p < 0.05" in text
    assert "finetune" not in text
    assert "higher" not in "\n".join(map(" ".join, lines_of(gem, capsys)))


def test_alone_it_has_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    lines = lines_of(own_world(), capsys)
    assert [line[1] for line in lines if line[:1] in (["P"], ["P+M"], ["P+M+I"])] == ["analytic"] * 3
    assert "higher" not in " ".join(map(" ".join, lines))


def test_a_table_has_the_corpora_that_rate_its_dimension(capsys: pytest.CaptureFixture[str]) -> None:
    usual = world(variants=[FINETUNE])
    rated = [
        Result(**{**vars(row), "dimension": "dominance", "n": row.n - 7})
        for row in usual
        if row.corpus != "msp-improv"
    ]
    print_tables([*usual, *rated])
    headings = [line for line in capsys.readouterr().out.splitlines() if "strategy" in line and "(n=" in line]
    assert [line.split()[2:] for line in headings] == [
        ["msp-podcast", "(n=100)", "msp-improv", "(n=200)", "iemocap", "(n=300)"],
        ["msp-podcast", "(n=93)", "iemocap", "(n=293)"],
    ]
