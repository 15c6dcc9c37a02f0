"""Summaries and published figures of small tables of results that can be worked by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_memory.common.conventions import DIMENSIONS, UNKNOWN
from ser_memory.common.errors import SerError
from ser_memory.common.manifests import stage_name
from ser_memory.common.metrics import ccc, uar
from ser_memory.train.report import summary
from ser_memory.train.report.data import CostRow
from ser_memory.train.report.published import beside, read_published
from ser_memory.train.report.statistics import holm, paired
from ser_memory.train.report.summary import (
    CURRENT,
    FINETUNE,
    SEEN,
    UNSEEN,
    Row,
    across,
    backward_transfer,
    comparisons,
    costs,
    forgetting,
    forward_transfer,
    groups,
    intervals,
    role,
    samplers,
)
from ser_memory.train.report.variants import SHARED
from ser_memory.train.results import Result
from ser_memory.train.runs import Variant

CORPORA = ["msp-podcast", "msp-improv", "iemocap"]
GEM, SPEAKER = Variant("gem", "random", 100), Variant("gem", "speaker", 100)
SEEDS = 3

# CCC of activation of seed 0 after P, P+M and P+M+I; further seeds are below.
FIRST = {"msp-podcast": 0.5, "msp-improv": 0.2, "iemocap": 0.1}
LATER = {
    FINETUNE: {"msp-podcast": (0.4, 0.3), "msp-improv": (0.6, 0.5), "iemocap": (0.15, 0.7)},
    GEM: {"msp-podcast": (0.55, 0.45), "msp-improv": (0.58, 0.56), "iemocap": (0.2, 0.65)},
    SPEAKER: {"msp-podcast": (0.52, 0.47), "msp-improv": (0.57, 0.59), "iemocap": (0.25, 0.66)},
}


def result(variant: Variant, seed: int, stage: int, corpus: str, value: float, **other: Any) -> Result:
    values: dict[str, Any] = {
        **{item.name: "" for item in fields(Result)},
        **vars(variant),
        "seed": seed,
        "stage": stage,
        "stage_name": stage_name(CORPORA[:stage]),
        "corpus": corpus,
        "split": "test",
        "dimension": "activation",
        "metric": "ccc",
        "value": value,
        "n": 100 * (1 + CORPORA.index(corpus)),
        **other,
    }
    return Result(**values)


def jitter(variant: Variant, seed: int, stage: int, corpus: str) -> float:
    """0 for the first seed; differs by variant, except in the first stage."""
    key = sum(map(ord, repr((variant if stage > 1 else None, stage, corpus))))
    return 0.0 if seed == 0 else ((key * (seed + 3)) % 97) / 5000


def world(seeds: Iterable[int] = range(SEEDS), variants: Sequence[Variant] = tuple(LATER)) -> list[Result]:
    return [
        result(variant, seed, stage, corpus, value + jitter(variant, seed, stage, corpus))
        for variant in variants
        for seed in seeds
        for corpus in CORPORA
        for stage, value in enumerate((FIRST[corpus], *LATER[variant][corpus]), 1)
    ]


def only(rows: Sequence[Row], **wanted: Any) -> Row:
    found = [row for row in rows if all(getattr(row, name) == value for name, value in wanted.items())]
    assert len(found) == 1
    return found[0]


def seeds_of(rows: Sequence[Result], variant: Variant, stage: int, corpus: str) -> dict[int, float]:
    return {
        row.seed: row.value
        for row in rows
        if (row.strategy, row.sampler, row.stage, row.corpus)
        == (variant.strategy, variant.sampler, stage, corpus)
    }


def test_what_a_corpus_is_at_a_stage() -> None:
    assert [role(corpus, "P+M") for corpus in CORPORA] == [SEEN, CURRENT, UNSEEN]
    assert [role(corpus, "P") for corpus in CORPORA] == [CURRENT, UNSEEN, UNSEEN]
    assert role("clinic", "P+clinic") == CURRENT
    assert role("clinic", "P+clinic+I") == SEEN
    assert role("lab", "P+clinic") == UNSEEN


def test_every_cell_of_table_2() -> None:
    results = world()
    rows = comparisons({"": results})
    assert len(rows) == 3 + 2 * 3 * 3  # the first stage once
    assert [row.variant for row in rows if row.stage == 1] == [SHARED] * 3
    row = only(rows, variant=GEM, stage=2, corpus="msp-podcast")
    ours, baseline = (seeds_of(results, variant, 2, "msp-podcast") for variant in (GEM, FINETUNE))
    assert (row.stage_name, row.role, row.n, row.seeds, row.split) == ("P+M", SEEN, 100, 3, "test")
    assert row.mean == pytest.approx(sum(ours.values()) / 3)
    assert row.deviation == pytest.approx(np.std(list(ours.values()), ddof=1))
    assert row.test == paired(ours, baseline)
    assert row.test is not None
    untested = [row for row in rows if row.variant in (SHARED, FINETUNE)]
    assert all(row.test is None and row.holm is None for row in untested)


def test_holm_is_over_the_table_of_one_run() -> None:
    rows = comparisons({"a": world(), "b": world(variants=[FINETUNE, GEM])})
    for label, tests in (("a", 12), ("b", 6)):
        part = [row for row in rows if row.label == label]
        raw = [row.test.p if row.test else None for row in part]
        assert sum(p is not None for p in raw) == tests
        assert [row.holm for row in part] == holm(raw)


@settings(max_examples=4)
@given(st.permutations(world()))
def test_the_order_of_the_rows_does_not_matter(results: list[Result]) -> None:
    expected = {(row.variant, row.stage, row.corpus): row for row in comparisons({"": world()})}
    for row in comparisons({"": results}):
        same = expected[row.variant, row.stage, row.corpus]
        assert (row.mean, row.deviation, row.holm) == pytest.approx((same.mean, same.deviation, same.holm))


def test_measures_and_splits_are_apart() -> None:
    results = world()
    more = [
        *results,
        *(replace(row, metric="uar", dimension="valence", value=row.value / 2) for row in results),
        *(replace(row, split="test2", value=0.9, n=7) for row in results),
    ]
    rows = comparisons({"": more})
    assert len(rows) == 2 * len(comparisons({"": results}))
    cell = {"variant": GEM, "stage": 3, "corpus": "iemocap"}
    assert only(rows, **cell, metric="uar", dimension="valence").mean == pytest.approx(
        only(rows, **cell, metric="ccc", dimension="activation").mean / 2
    )
    other = comparisons({"": more}, split="test2")
    assert {(row.mean, row.n, row.split, row.deviation) for row in other} == {(0.9, 7, "test2", 0.0)}
    assert all(row.test is None or (row.test.difference, row.test.p) == (0.0, None) for row in other)
    assert comparisons({"": more}, split="test3") == []


def test_few_seeds_have_no_test() -> None:
    rows = comparisons({"": world(seeds=[0, 4])})
    assert all(row.test is None and row.seeds == 2 for row in rows)
    assert all(row.deviation is None for row in comparisons({"": world(seeds=[4])}))
    without = [row for row in world() if (row.strategy, row.seed) != ("finetune", 1) or row.stage < 3]
    last = [row for row in comparisons({"": without}) if row.stage == 3 and row.variant != FINETUNE]
    assert all(row.test is None and row.seeds == 3 for row in last)  # the baseline diverged once


def test_two_figures_of_one_seed_are_refused() -> None:
    with pytest.raises(ValueError, match="two figures of seed 0"):
        comparisons({"": [*world(), result(GEM, 0, 2, "iemocap", 0.9)]})


def test_samplers_are_compared_with_random() -> None:
    results = world()
    rows = samplers({"": results})
    assert {row.variant for row in rows} == {GEM, SPEAKER}
    assert {row.stage for row in rows} == {2, 3}
    row = only(rows, variant=SPEAKER, stage=3, corpus="msp-improv")
    assert row.test == paired(
        seeds_of(results, SPEAKER, 3, "msp-improv"), seeds_of(results, GEM, 3, "msp-improv")
    )
    assert [row.holm for row in rows] == holm([row.test.p if row.test else None for row in rows])
    assert all(row.test is None for row in rows if row.variant == GEM)
    assert samplers({"": world(variants=[FINETUNE, GEM])}) == []
    larger = [replace(row, memory_size=500) if row.sampler == "speaker" else row for row in results]
    assert samplers({"": larger}) == []  # random has another memory size


def test_forgetting_and_transfer_worked_by_hand() -> None:
    runs = {"": world(seeds=[0])}
    # MSP-Podcast under GEM: 0.5, 0.55, 0.45. It was best after P+M, and learned at P.
    forgotten, backward = forgetting(runs), backward_transfer(runs)
    assert {(row.corpus, row.stage) for row in forgotten} == {("msp-podcast", 3), ("msp-improv", 3)}
    gem = only(forgotten, variant=GEM, corpus="msp-podcast")
    assert gem.mean == pytest.approx(0.1)
    assert (gem.deviation, gem.seeds, gem.role) == (None, 1, SEEN)
    assert only(backward, variant=GEM, corpus="msp-podcast").mean == pytest.approx(-0.05)
    # MSP-Improv: 0.6 -> 0.5 under fine-tuning; 0.57 -> 0.59 with the speaker sampler.
    assert only(forgotten, variant=FINETUNE, corpus="msp-improv").mean == pytest.approx(0.1)
    assert only(forgotten, variant=SPEAKER, corpus="msp-improv").mean == pytest.approx(-0.02)
    assert only(backward, variant=SPEAKER, corpus="msp-improv").mean == pytest.approx(0.02)
    # Before MSP-Improv is learned there is one model, with 0.2 on it; before IEMOCAP one per variant.
    forward = forward_transfer(runs)
    assert only(forward, corpus="msp-improv").mean == pytest.approx(0.2)
    assert only(forward, corpus="msp-improv").variant == SHARED
    assert only(forward, variant=GEM, corpus="iemocap").mean == pytest.approx(0.2)
    assert only(forward, variant=GEM, corpus="iemocap").stage == 2
    assert {row.corpus for row in forward} == {"msp-improv", "iemocap"}
    chance = [replace(row, metric="uar", value=1 / 3) for row in runs[""]]
    assert [row.mean for row in forward_transfer({"": chance})] == [pytest.approx(0)] * 4


def test_forgetting_is_tested_over_the_seeds() -> None:
    results = world(seeds=range(5))
    row = only(forgetting({"": results}), variant=GEM, corpus="msp-podcast")
    courses = {
        variant: [seeds_of(results, variant, stage, "msp-podcast") for stage in (1, 2, 3)]
        for variant in (GEM, FINETUNE)
    }
    ours, baseline = (
        {seed: max(first[seed], second[seed]) - last[seed] for seed in range(5)}
        for first, second, last in courses.values()
    )
    assert row.mean == pytest.approx(np.mean(list(ours.values())))
    assert row.test == paired(ours, baseline)


def test_a_seed_that_diverged_has_no_forgetting() -> None:
    results = [row for row in world() if (row.strategy, row.seed, row.stage) != ("finetune", 2, 3)]
    assert only(forgetting({"": results}), variant=FINETUNE, corpus="msp-podcast").seeds == 2
    single = [row for row in world() if row.stage == 1]
    assert forgetting({"": single}) == backward_transfer({"": single}) == forward_transfer({"": single}) == []


# -- a strategy with a first stage of its own, the same for every seed

ANALYTIC = Variant("analytic")
OWN = {"msp-podcast": (0.45, 0.47, 0.4), "msp-improv": (0.25, 0.5, 0.55), "iemocap": (0.05, 0.1, 0.6)}


def own_world(shift: float = 0.0) -> list[Result]:
    return [
        result(ANALYTIC, seed, stage, corpus, value + shift)
        for seed in range(SEEDS)
        for corpus, values in OWN.items()
        for stage, value in enumerate(values, 1)
    ]


@pytest.mark.parametrize("first", [True, False])
def test_an_own_first_stage_is_apart_and_compared_with_the_shared_one(first: bool) -> None:
    usual, own = world(), own_world()
    runs = {"": [*own, *usual] if first else [*usual, *own]}
    rows = comparisons(runs)
    assert [row.variant for row in rows if row.stage == 1] == [SHARED] * 3 + [ANALYTIC] * 3
    assert [row for row in rows if row.variant == SHARED] == [
        row for row in comparisons({"": usual}) if row.variant == SHARED
    ]
    for stage in (1, 2, 3):
        row = only(rows, variant=ANALYTIC, stage=stage, corpus="msp-improv")
        constant = dict.fromkeys(range(SEEDS), OWN["msp-improv"][stage - 1])
        assert row.test == paired(constant, seeds_of(usual, FINETUNE, stage, "msp-improv"))
        assert row.test is not None
        assert row.test.p is not None
        assert row.mean == pytest.approx(OWN["msp-improv"][stage - 1])
    assert summary.first_stages(runs) == (True, ["analytic"])
    assert summary.constant(rows) == [("", ANALYTIC)]


def test_forgetting_and_transfer_from_an_own_first_stage_by_hand() -> None:
    usual = world()
    runs = {"": [*own_world(), *usual]}
    # MSP-Podcast: 0.45, 0.47, 0.4. It was best after P+M, and learned at its own P.
    own = {"variant": ANALYTIC, "corpus": "msp-podcast"}
    assert only(forgetting(runs), **own).mean == pytest.approx(0.07)
    assert only(backward_transfer(runs), **own).mean == pytest.approx(-0.05)
    forward = forward_transfer(runs)
    assert [row.variant for row in forward if row.corpus == "msp-improv"] == [SHARED, ANALYTIC]
    row = only(forward, variant=ANALYTIC, corpus="msp-improv")
    assert row.mean == pytest.approx(0.25)
    assert row.test is not None
    assert row.test.difference == pytest.approx(
        0.25 - np.mean(list(seeds_of(usual, FINETUNE, 1, "msp-improv").values()))
    )
    assert only(forward, variant=ANALYTIC, corpus="iemocap").mean == pytest.approx(0.1)


def test_an_own_first_stage_alone_has_its_name() -> None:
    rows = comparisons({"": own_world()})
    assert {row.variant for row in rows} == {ANALYTIC}
    assert all(row.test is None for row in rows)
    assert summary.first_stages({"": own_world()}) == (False, ["analytic"])
    assert {row.variant for row in forward_transfer({"": own_world()})} == {ANALYTIC}


def test_two_figures_that_no_seed_changes_have_no_p() -> None:
    rows = across({"a": own_world(), "b": own_world(0.1)})
    assert len(rows) == 9
    for row in rows:
        assert row.test is not None
        assert row.test.difference == pytest.approx(0.1)
        assert (row.test.p, row.test.low, row.test.effect, row.holm) == (None, None, None, None)
    assert summary.constant(rows) == [("b", ANALYTIC)]
    assert summary.constant(comparisons({"": world()})) == []
    assert summary.constant(comparisons({"": world(seeds=[0])})) == []  # one seed says nothing


def test_each_dimension_has_its_own_utterances() -> None:
    rated = [
        replace(row, dimension="dominance", n=row.n - 7) for row in world() if row.corpus != "msp-improv"
    ]
    rows = comparisons({"": [*world(), *rated]})
    sizes = {(row.dimension, row.corpus): row.n for row in rows}
    assert sizes == {
        ("activation", "msp-podcast"): 100, ("activation", "msp-improv"): 200, ("activation", "iemocap"): 300,
        ("dominance", "msp-podcast"): 93, ("dominance", "iemocap"): 293,
    }  # fmt: skip


# -- arrays


def arrays(n: int = 120) -> tuple[Any, Any]:
    noise = np.random.default_rng(0)
    truth = noise.uniform(-1, 1, (n, 2))
    return truth, truth + 0.1 + 0.5 * noise.standard_normal((3, n, 2))


def test_groups_beside_a_loop() -> None:
    truth, predictions = arrays()
    names = np.array([UNKNOWN if i < 30 else f"s{i % 3}" for i in range(120)])
    found = groups(truth, predictions, names, DIMENSIONS)
    assert [(group.name, group.dimension) for group in found] == [
        (name, dimension) for name in ("s0", "s1", "s2", UNKNOWN) for dimension in ("activation", "valence")
    ]
    for group in found:
        column = ["activation", "valence"].index(group.dimension)
        rows = [i for i in range(120) if names[i] == group.name]
        each = [[float(prediction[i, column]) for i in rows] for prediction in predictions]
        own = truth[rows, column]
        assert group.n == 30
        assert group.ccc == pytest.approx(sum(ccc(own, values) for values in each) / 3)
        assert group.uar == pytest.approx(sum(uar(own, values) for values in each) / 3)
        assert group.error == pytest.approx(np.mean([np.mean(values) - own.mean() for values in each]))


def test_groups_that_are_too_small_say_so() -> None:
    truth, predictions = arrays(30)
    truth[9:20, 0] = 0.5
    small, flat, rest = groups(
        truth[:, :1], predictions[..., :1], ["a"] * 9 + ["b"] * 11 + ["c"] * 10, ["activation"]
    )
    assert (small.ccc, small.uar, small.note) == (None, None, "fewer than 10 utterances")
    assert (flat.ccc, flat.note) == (None, "equal labels")
    assert flat.uar is not None
    assert rest.ccc is not None
    assert rest.note == ""
    with pytest.raises(ValueError, match=r"names \(N,\)"):
        groups(truth, predictions, ["a"] * 29, DIMENSIONS)


def test_utterances_without_a_rating_count_in_other_dimensions_only() -> None:
    truth, predictions = arrays()
    rated = np.arange(120) % 5 != 0
    some, third = np.where(rated, truth[:, 0] * 0.8, np.nan), predictions[..., :1] * 0.7
    nothing = np.full(120, np.nan)
    wide = np.column_stack([truth, some, nothing])
    made = np.concatenate([predictions, third, third], axis=2)
    names = [f"s{i % 12}" for i in range(120)]
    dimensions = ("activation", "valence", "dominance", "other")
    found = intervals(wide, {FINETUNE: made, GEM: made * 0.5}, names, dimensions, resamples=50)
    assert [row.n for row in found if row.dimension == "dominance"] == [96] * 4
    assert {row.dimension for row in found} == set(DIMENSIONS) | {"dominance"}
    two = intervals(truth, {FINETUNE: predictions, GEM: predictions * 0.5}, names, DIMENSIONS, resamples=50)
    assert [row for row in found if row.dimension in DIMENSIONS] == two
    one = intervals(
        some[rated, None], {FINETUNE: third[:, rated], GEM: third[:, rated] * 0.5},
        [name for name, there in zip(names, rated, strict=True) if there], ["dominance"], resamples=50,
    )  # fmt: skip
    assert [row for row in found if row.dimension == "dominance"] == one
    by_name = groups(wide, made, names, dimensions)
    assert [row for row in by_name if row.dimension in DIMENSIONS] == groups(
        truth, predictions, names, DIMENSIONS
    )
    for row in (row for row in by_name if row.dimension == "dominance"):
        rows = [i for i in range(120) if names[i] == row.name and rated[i]]
        assert row.n == len(rows)
        assert row.error == pytest.approx(np.mean(third[:, rows, 0] - some[rows]))
    assert all(row.dimension != "other" for row in by_name)


def test_intervals_of_every_variant() -> None:
    truth, predictions = arrays()
    speakers = [f"s{i % 12}" for i in range(120)]
    found = intervals(
        truth, {FINETUNE: predictions, GEM: predictions[:2] * 0.5}, speakers, DIMENSIONS, resamples=200
    )
    assert len(found) == 2 * 2 * 2
    for row in found:
        column = ["activation", "valence"].index(row.dimension)
        own = predictions if row.variant == FINETUNE else predictions[:2] * 0.5
        plain = {"ccc": ccc, "uar": uar}[row.metric]
        value = np.mean([plain(truth[:, column], each[:, column]) for each in own])
        for ends in (row.utterances, row.speakers):
            assert ends.value == pytest.approx(value)
            assert ends.low is not None
            assert ends.high is not None
            assert ends.low < value < ends.high
        assert (row.utterances.groups, row.speakers.groups, row.seeds) == (120, 12, len(own))
        assert (row.utterances_difference is None) == (row.variant == FINETUNE)
    gem, finetune = (next(row for row in found if row.variant == variant) for variant in (GEM, FINETUNE))
    assert gem.speakers_difference is not None
    assert gem.speakers_difference.value == pytest.approx(gem.speakers.value - finetune.speakers.value)
    few = intervals(truth, {GEM: predictions}, ["one"] * 120, DIMENSIONS, resamples=50)
    assert {row.speakers.note for row in few} == {"too few speakers"}
    assert all(row.utterances_difference is None for row in few)


def spent(
    strategy: str,
    sampler: str,
    size: int,
    seed: int,
    seconds: float | None,
    memory: int | None,
    others: int = 0,
) -> CostRow:
    return CostRow(strategy, sampler, size, seed, 2, "P+M", seconds, memory, others, 0)


def test_costs() -> None:
    rows = [
        spent("gem", "random", 100, 0, 3.0, 1000),
        spent("gem", "random", 100, 1, 5.0, 1200),
        spent("gem", "speaker", 100, 0, 4.0, 900),
        spent("gem", "speaker", 100, 1, None, None),  # of an older store
        spent("ewc", "none", 0, 0, 2.0, 0, 520),
    ]
    gem, _, ewc = costs({"night": rows})
    assert (gem.label, gem.variant, gem.stage, gem.seeds) == ("night", GEM, 2, 2)
    assert gem.seconds == 4
    assert gem.deviation == pytest.approx(2**0.5)
    assert (gem.memory_bytes, gem.kept_bytes) == (1200, 1200)
    assert (ewc.seeds, ewc.deviation, ewc.kept_bytes) == (1, None, 520)


def test_statements_are_sentences() -> None:
    texts = [
        value
        for name, value in vars(summary).items()
        if name.isupper() and isinstance(value, str) and " " in value
    ]
    assert len(texts) >= 9
    assert all(text.endswith(".") for text in texts)


# -- published figures

PUBLISHED = """\
strategy,stage_name,corpus,dimension,metric,value,note
finetune,P,msp-podcast,,CCC,0.578,dimension not given
finetune,P+M,msp-podcast,,CCC,0.453,
finetune,P+M+I,msp-podcast,,CCC,0.292,
"""


def published(folder: Path, text: str) -> Path:
    path = folder / "published.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_published_figures_beside_ours(tmp_path: Path) -> None:
    results = world()
    both = [*results, *(replace(row, dimension="valence", value=row.value / 2) for row in results)]
    table = read_published(published(tmp_path, PUBLISHED))
    rows = beside(table, {"mine": both})
    assert [(row.published.value, row.published.stage_name, row.dimension) for row in rows] == [
        (value, stage, dimension)
        for value, stage in ((0.578, "P"), (0.453, "P+M"), (0.292, "P+M+I"))
        for dimension in ("activation", "valence")
    ]
    ours = np.mean(list(seeds_of(results, FINETUNE, 3, "msp-podcast").values()))
    last = rows[-2]
    assert last.ours == pytest.approx(ours)
    assert last.difference == pytest.approx(ours - 0.292)
    assert (last.label, last.variant, last.split, last.seeds, last.n) == ("mine", FINETUNE, "test", 3, 100)
    assert rows[0].published.note == "dimension not given"


def test_a_strategy_without_a_sampler_means_all_of_its_samplers(tmp_path: Path) -> None:
    head = "strategy,sampler,stage_name,corpus,dimension,metric,value,split\n"
    text = head + "gem,,P+M,iemocap,activation,ccc,0.3,\ngem,speaker,P+M,iemocap,activation,ccc,0.3,test\n"
    rows = beside(read_published(published(tmp_path, text)), {"": world()})
    assert [row.variant for row in rows] == [GEM, SPEAKER, SPEAKER]


def test_what_we_have_not_got_has_no_figure(tmp_path: Path) -> None:
    text = PUBLISHED.splitlines()[0] + "\ngem,P+M,iemocap,activation,ccc,0.3,\n"
    without = [row for row in world() if (row.strategy, row.stage, row.corpus) != ("gem", 2, "iemocap")]
    (row,) = beside(read_published(published(tmp_path, text)), {"": without})
    assert (row.ours, row.difference, row.seeds, row.variant) == (None, None, 0, None)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("ewc,P,iemocap,,ccc,0.1,", "the strategy 'ewc', which is not in these results: they have finetune, gem."),
        ("gem,P+X,iemocap,,ccc,0.1,", "the stage_name 'P+X', which is not in these results: they have P, P+M, P+M+I."),
        ("gem,P,emodb,,ccc,0.1,", "the corpus 'emodb', which is not in these results: they have msp-podcast, msp-improv"),
        ("gem,P,iemocap,dominance,ccc,0.1,", "the dimension 'dominance', which is not in these results: they have act"),
        ("gem,P,iemocap,,f1,0.1,", "the metric 'f1', which is not in these results: they have ccc."),
        ("gem,P,iemocap,,ccc,good,", "the value 'good': give a number"),
        ("gem,P,iemocap,,ccc,nan,", "the value 'nan': give a number"),
        (",P,iemocap,,ccc,0.1,", "no strategy"),
        ("gem,P,iemocap,,ccc", "line 2"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_published_table_is_one_sentence(tmp_path: Path, line: str, says: str) -> None:
    path = published(tmp_path, PUBLISHED.splitlines()[0] + f"\n{line}\n")
    with pytest.raises(SerError) as refused:
        beside(read_published(path), {"": world()})
    assert says in str(refused.value)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_published_table_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SerError, match=r"There is no .*published\.csv"):
        read_published(tmp_path / "published.csv")
    with pytest.raises(SerError, match="has no column corpus, dimension, metric, value"):
        read_published(published(tmp_path, "strategy,stage_name\n"))
    with pytest.raises(SerError, match="has no rows"):
        read_published(published(tmp_path, PUBLISHED.splitlines()[0] + "\n"))
    (tmp_path / "published.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SerError, match="cannot be read"):
        read_published(tmp_path / "published.csv")
    with pytest.raises(SerError, match="cannot be opened"):
        read_published(tmp_path)


def test_each_measure_and_dimension_is_a_family_of_tests() -> None:
    results = world()
    other = [replace(row, metric="uar", value=row.value**2) for row in results]
    rows = comparisons({"": [*results, *other]})
    for metric in ("ccc", "uar"):
        part = [row for row in rows if row.metric == metric]
        assert [row.holm for row in part] == holm([row.test.p if row.test else None for row in part])
