"""The figures: what they show is compared with a plain computation on the rows, how they look with what was promised."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.axes import Axes

from ser_memory.common.metrics import ccc
from ser_memory.train.report.conditions import InCondition
from ser_memory.train.report.data import EpochRow, RunData, load_run
from ser_memory.train.report.figures import FIGURES
from ser_memory.train.report.figures.agreement import Panel, predicted_against_true
from ser_memory.train.report.figures.base import Drawn, looks, names_of, save, to_pdf, to_svg
from ser_memory.train.report.figures.conditions import across_conditions
from ser_memory.train.report.figures.cost import Kept, against_bytes, size
from ser_memory.train.report.figures.forest import Difference, forest, p_value
from ser_memory.train.report.figures.gallery import figures_of
from ser_memory.train.report.figures.heat import stage_by_corpus
from ser_memory.train.report.figures.learning import bent_steps, learning_curves
from ser_memory.train.report.figures.memory import memory_cells
from ser_memory.train.report.figures.stages import along_stages
from ser_memory.train.report.figures.transcripts import against_word_errors
from ser_memory.train.report.transcripts import Course
from ser_memory.train.results import Result
from ser_memory.train.runs import Variant
from tests.train.report.runs import ANALYTIC, STAGES, build_run

_VARIANTS = (Variant("finetune"), Variant("gem", "random", 20), Variant("gem", "speaker", 20))
_NAMES = ("finetune", "gem (random)", "gem (speaker)")
_SPLITS = {"train": 60, "validation": 20, "test": 30}
_ROWS = (
    Difference("gem, P+M", 0.2, 0.1, 0.3, 0.001, 0.004),
    Difference("gem, P+M+I", 0.1, -0.1, 0.3, 0.04, 0.08),
    Difference("ewc, P+M", -0.05, -0.1, 0.0, None, None),
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunData:
    return load_run(build_run(tmp_path_factory.mktemp("run"), variants=_VARIANTS, seeds=3, splits=_SPLITS))


@pytest.fixture(scope="module")
def drawn(run: RunData) -> dict[str, Drawn]:
    names = names_of(run.results)
    courses = [
        Course(
            "iemocap",
            variant,
            "valence",
            120,
            ("own", "whisper"),
            (0.0, 0.2),
            {0: (0.6, 0.5), 1: (0.62, 0.55)},
        )
        for variant in names
    ]
    found = [
        InCondition("", "iemocap", variant, "valence", condition, 120, (0.6, 0.62), (0.5, 0.55))
        for variant in names
        for condition in ("noise:10", "telephone")
    ]
    return {
        **dict(figures_of(run, run.results)),
        "forest": forest(_ROWS, "CCC of activation", "finetune"),
        "transcripts": against_word_errors(courses, names, "CCC of valence (test)"),
        "conditions": across_conditions(found, names, "CCC of valence (test)"),
    }


def panels_of(figure: Drawn) -> list[Axes]:
    """The panels with a title."""
    return [axes for axes in figure.figure.axes if axes.get_title()]


def mean_of(results: Sequence[Result], name: str, stage: int, corpus: str, dimension: str) -> float:
    names = names_of(results)
    values = [
        row.value
        for row in results
        if (row.stage, row.corpus, row.dimension, row.metric, row.split)
        == (stage, corpus, dimension, "ccc", "test")
        and names[Variant(row.strategy, row.sampler, row.memory_size)] == name
    ]
    assert len(values) == 3
    return sum(values) / 3


def test_a_run_has_all_figures(drawn: dict[str, Drawn]) -> None:
    assert list(drawn) == [
        "stages-activation", "stages-valence", "heat-activation", "heat-valence", "cost-activation", "cost-valence",
        *(f"agreement-{corpus}-{dimension}" for corpus in STAGES for dimension in ("activation", "valence")),
        "memory-20", "learning", "bent", "forest", "transcripts", "conditions",
    ]  # fmt: skip
    assert {name.partition("-")[0] for name in drawn} == set(FIGURES)


def test_files_can_be_read_searched_and_printed(drawn: dict[str, Drawn]) -> None:
    for name, figure in drawn.items():
        svg = to_svg(figure)
        root = ElementTree.fromstring(svg)
        words = [root[0].text, root[1].text]
        assert words == [figure.title, figure.alt], name
        assert root.get("role") == "img"
        texts = " ".join(element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text"))
        assert len(texts) > 20, name  # text is text, not curves
        assert min(map(float, re.findall(r"font-size: ([\d.]+)px", svg))) >= 8 * 0.7 - 1e-9  # exponents
        assert float(root.attrib["width"].removesuffix("pt")) <= 170 / 25.4 * 72 + 0.01
        assert "<dc:date>" not in svg
        assert figure.caption.endswith(".")
        assert len(re.findall(r"\.(?: |$)", figure.alt)) <= 3, figure.alt


def test_the_same_data_gives_the_same_bytes(run: RunData, drawn: dict[str, Drawn]) -> None:
    for name, again in figures_of(run, run.results, wanted=("stages", "agreement", "learning")):
        if name in (
            "stages-activation",
            "agreement-iemocap-valence",
            "learning",
        ):  # lines, pictures, many marks
            assert to_svg(again) == to_svg(drawn[name])
            pdf = to_pdf(again)
            assert pdf == to_pdf(drawn[name])
            assert b"CreationDate" not in pdf


def test_saving_writes_both_files_and_leaves_matplotlib_alone(
    drawn: dict[str, Drawn], tmp_path: Path
) -> None:
    before = dict(mpl.rcParams)
    saved = save(drawn["forest"], tmp_path / "figures", "forest")
    assert dict(mpl.rcParams) == before
    assert [path.name for path in saved.files] == ["forest.svg", "forest.pdf"]
    assert saved.files[0].read_text(encoding="utf-8") == saved.svg
    assert saved.files[1].read_bytes().startswith(b"%PDF")
    assert (saved.alt, saved.caption) == (drawn["forest"].alt, drawn["forest"].caption)


def test_looks_differ_without_colour() -> None:
    made = looks(str(number) for number in range(21))
    for first in (0, 7, 14):
        some = list(made.values())[first : first + 7]
        assert len({look.colour for look in some}) == len({str(look.line) for look in some}) == 7
    assert len({(look.marker, look.filled) for look in made.values()}) == 21
    assert looks(["a", "b"])["a"] == looks(["a"])["a"]


def test_names_say_what_differs(run: RunData) -> None:
    assert tuple(names_of(run.results).values()) == _NAMES
    first = [row for row in run.results if row.sampler != "speaker"]
    assert list(names_of(first).values()) == ["finetune", "gem"]


def test_the_lines_along_the_stages_are_the_means(run: RunData, drawn: dict[str, Drawn]) -> None:
    figure = drawn["stages-activation"]
    shown = panels_of(figure)
    assert [axes.get_title() for axes in shown] == [f"{corpus} (test, n = 30)" for corpus in STAGES]
    assert shown[0].get_ylabel() == "CCC of activation"
    for axes, corpus in zip(shown, STAGES, strict=True):
        assert [label.get_text() for label in axes.get_xticklabels()] == ["P", "P+M", "P+M+I"]
        for line, name in zip(axes.lines, _NAMES, strict=True):
            expected = [mean_of(run.results, name, stage, corpus, "activation") for stage in (1, 2, 3)]
            assert np.asarray(line.get_ydata(), dtype=float) == pytest.approx(expected)
    means = {name: mean_of(run.results, name, 3, STAGES[0], "activation") for name in _NAMES}
    best = max(means, key=lambda name: means[name])
    assert f"{best} is highest with {means[best]:.2f}" in figure.alt


def test_many_variants_get_bars_in_place_of_bands(run: RunData) -> None:
    few = along_stages(run.results, names_of(run.results), "valence")
    assert "bands show" in few.caption
    more = [
        Result(**{**vars(row), "memory_size": row.memory_size + extra})
        for row in run.results
        for extra in (0, 1, 2)
    ]
    many = along_stages(more, names_of(more), "valence")
    assert "bars show" in many.caption
    assert len(panels_of(many)[0].lines) == 7  # finetune has no memory, so no size


def test_the_numbers_of_the_heat_map_are_the_means(run: RunData, drawn: dict[str, Drawn]) -> None:
    shown = panels_of(drawn["heat-valence"])
    assert [axes.get_title().replace("\n", " ") for axes in shown] == list(_NAMES)
    for axes, name in zip(shown, _NAMES, strict=True):
        for text in axes.texts:
            column, row = map(int, text.get_position())
            mean = mean_of(run.results, name, row + 1, STAGES[column], "valence")
            assert text.get_text() == (
                f"({mean:.2f})" if column > row else f"{mean:.2f}"
            )  # not yet trained on


def test_a_corpus_without_a_test_split_keeps_its_place(run: RunData) -> None:
    rows = [row for row in run.results if (row.corpus, row.split) != (STAGES[1], "test")]
    rows = [row for row in rows if row.strategy != "gem" or row.stage < 3]  # diverged
    names = names_of(rows)
    first, third = panels_of(along_stages(rows, names, "activation"))
    assert first.get_title().startswith(STAGES[0])
    assert third.get_title().startswith(STAGES[2])
    for axes, stage in ((first, 1), (third, 3)):
        (shaded,) = axes.patches
        assert shaded.get_window_extent().intervalx == pytest.approx(
            [axes.transData.transform((stage + side, 0))[0] for side in (-0.5, 0.5)]
        )
    heat = stage_by_corpus(rows, names, "activation")
    texts = {text.get_position(): text.get_text() for text in panels_of(heat)[1].texts}
    assert texts[1, 1].startswith("(")  # the third corpus after the second stage
    assert texts[0, 2] == texts[1, 2] == "–"
    assert "finetune has" in heat.alt


def test_a_figure_of_nothing_is_refused(run: RunData) -> None:
    for draw in (along_stages, stage_by_corpus):
        with pytest.raises(ValueError, match="no result has ccc of dominance"):
            draw(run.results, names_of(run.results), "dominance")
    calls: tuple[Callable[[], Drawn], ...] = (
        lambda: predicted_against_true([], "valence", "x"),
        lambda: predicted_against_true([Panel("a", np.zeros(2), np.full((1, 2), np.nan))], "valence", "x"),
        lambda: memory_cells({}),
        lambda: learning_curves([], {}),
        lambda: bent_steps([], {}),
        lambda: forest([], "CCC", "finetune"),
        lambda: against_bytes([], "CCC"),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"there is no|has no"):
            call()


def test_agreement_counts_every_pair_once() -> None:
    random = np.random.default_rng(0)
    truth = random.uniform(-1, 1, 50)
    made = np.stack([truth * 0.5, random.uniform(-1.2, 1.2, 50)])
    truth[3], made[1, 4] = np.nan, np.nan
    figure = predicted_against_true([Panel("gem", truth, made)], "valence", "iemocap, test split")
    (axes,) = panels_of(figure)
    there = [np.isfinite(truth + row) for row in made]
    scores = [ccc(truth[mask], row[mask]) for mask, row in zip(there, made, strict=True)]
    spread = np.std(scores, ddof=1)
    assert axes.get_title() == f"gem\nCCC {np.mean(scores):.2f} ± {spread:.2f}, n = 48 to 49"
    image = axes.images[0]
    shown = image.get_array()
    assert shown is not None
    counts = np.ma.filled(shown, 0)
    assert float(counts.sum()) == pytest.approx((48 + 49) / 2)  # per run
    limit = float(np.nanmax(np.abs(made)))
    assert image.get_extent() == pytest.approx(
        [-limit, limit, -limit, limit]
    )  # beyond 1, since predictions are
    row, column = np.unravel_index(int(np.argmax(counts)), counts.shape)
    edges = np.linspace(-limit, limit, len(counts) + 1)
    inside = [
        (
            (edges[column] <= truth)
            & (truth < edges[column + 1])
            & (edges[row] <= one)
            & (one < edges[row + 1])
        ).sum()
        for one in made
    ]
    assert counts[row, column] == pytest.approx(sum(inside) / 2)  # true values across, predicted ones up


def test_folds_of_a_seed_are_one_run(tmp_path: Path) -> None:
    folded = load_run(build_run(tmp_path, variants=_VARIANTS[:2], seeds=2, splits=_SPLITS, folds=3))
    figures = dict(
        figures_of(RunData(folded.folder, folded.results, predictions=folded.predictions), folded.results)
    )
    titles = {
        name: panels_of(figure)[0].get_title() for name, figure in figures.items() if "agreement" in name
    }
    assert folded.predictions is not None
    after, truth = folded.predictions.after("iemocap", "test", 3), folded.predictions.truth("iemocap", "test")
    pooled = [ccc(truth[:, 0], np.nanmax(after[rows, :, 0], axis=0)) for rows in ([0, 1, 2], [3, 4, 5])]
    expected = f"finetune\nCCC {np.mean(pooled):.2f} ± {np.std(pooled, ddof=1):.2f}, n = 30"
    assert titles["agreement-iemocap-activation"] == expected
    assert (
        "over 6 runs" in figures["agreement-msp-podcast-valence"].caption
    )  # each fold trained a model for it


def test_shares_of_a_memory() -> None:
    cells = np.array([[4.0, 0, 0], [0, 12, 0], [0, 0, 4]])
    figure = memory_cells({"random": {"iemocap": cells}, "emotion": {"iemocap": np.ones((3, 3))}})
    random, emotion = panels_of(figure)
    assert random.get_title() == "random\nn = 20"
    at = {text.get_position(): text.get_text() for text in random.texts}
    assert (at[0, 0], at[1, 1], at[2, 2], at[0, 1]) == ("20", "60", "20", "0")
    assert {text.get_text() for text in emotion.texts} == {"11"}
    assert "the memory emotion is spread most evenly: its cells differ by up to 0 points" in figure.alt


def test_a_memory_figure_adds_up_the_speakers(run: RunData, drawn: dict[str, Drawn]) -> None:
    titles = [axes.get_title() for axes in panels_of(drawn["memory-20"])]
    assert titles[:3] == ["validation split\nn = 20", "random\nn = 20", "speaker\nn = 20"]
    axes = panels_of(drawn["memory-20"])[1]
    (cell,) = [
        text.get_text() for text in axes.texts if text.get_position() == (2, 0)
    ]  # valence high, activation low
    held = [
        row.n for row in run.memory if (row.sampler, row.corpus, row.bins) == ("random", STAGES[0], (0, 2))
    ]
    assert cell == f"{100 * sum(held) / 3 / 20:.0f}"


def test_curves_are_means_until_the_first_run_stops(run: RunData, drawn: dict[str, Drawn]) -> None:
    first, second, third = panels_of(drawn["learning"])
    assert (first.get_title(), second.get_title(), third.get_title()) == (
        "stage P (shared by all)", "stage P+M", "stage P+M+I",
    )  # fmt: skip
    for axes, stage in ((first, 1), (second, 2)):
        rows = [row for row in run.epochs if row.stage == stage and row.strategy == "finetune"]
        of_seed = [{row.epoch: row.validation_ccc for row in rows if row.seed == seed} for seed in range(3)]
        last = min(map(len, of_seed))
        thick = next(line for line in axes.lines if line.get_linewidth() > 1)
        assert list(np.asarray(thick.get_xdata())) == list(range(1, last + 1))
        means = [np.mean([curve[epoch] for curve in of_seed]) for epoch in range(1, last + 1)]
        assert np.asarray(thick.get_ydata(), dtype=float) == pytest.approx(means)
    assert len([line for line in first.lines if line.get_linewidth() < 1]) == 3  # once, not per variant


def test_a_first_stage_apart_has_its_own_points(tmp_path: Path) -> None:
    variants = (*_VARIANTS[:2], ANALYTIC)
    run = load_run(build_run(tmp_path / "run", variants=variants, seeds=2, splits=_SPLITS))
    names = names_of(run.results)
    figure = along_stages(run.results, names, "valence")
    assert figure.caption.endswith("All variants but analytic share the first stage.")
    (first, *_) = panels_of(figure)
    expected = [
        next(
            row.value for row in run.results
            if (row.strategy, row.stage, row.corpus, row.dimension) == ("analytic", stage, STAGES[0], "valence")
            and (row.metric, row.split) == ("ccc", "test")
        )
        for stage in (1, 2, 3)
    ]  # fmt: skip
    assert np.asarray(first.lines[2].get_ydata(), dtype=float) == pytest.approx(expected)

    curves = learning_curves(run.epochs, names)
    assert [axes.get_title() for axes in panels_of(curves)] == [
        "stage P (grey: shared)", "stage P+M", "stage P+M+I",
    ]  # fmt: skip
    for axes, stage in zip(panels_of(curves), (1, 2, 3), strict=True):
        (value,) = {
            row.validation_ccc for row in run.epochs if (row.strategy, row.stage) == ("analytic", stage)
        }
        (level,) = [line for line in axes.lines if list(np.asarray(line.get_xdata())) == [0, 1]]
        assert np.asarray(level.get_ydata(), dtype=float) == pytest.approx([value] * 2)
    assert "analytic takes no steps: a horizontal line." in curves.caption


def test_a_run_without_steps_has_no_learning_curves(tmp_path: Path) -> None:
    run = load_run(build_run(tmp_path / "run", variants=[ANALYTIC], seeds=2, splits=_SPLITS))
    drawn = dict(figures_of(run, run.results, wanted=["stages", "learning"]))
    assert list(drawn) == ["stages-activation", "stages-valence"]
    assert "share" not in drawn["stages-valence"].caption


def test_long_names_of_stages_do_not_touch(run: RunData) -> None:
    long = [
        Result(**{**vars(row), "stage_name": row.stage_name.replace("P", "clinic")}) for row in run.results
    ]
    (axes, *_) = panels_of(along_stages(long, names_of(long), "valence"))
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {20.0}


def test_bent_steps_are_those_of_gem(drawn: dict[str, Drawn]) -> None:
    figure = drawn["bent"]
    assert [axes.get_title() for axes in panels_of(figure)] == ["stage P+M", "stage P+M+I"]
    (legend,) = figure.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["gem (random)", "gem (speaker)"]
    rows = [EpochRow("gem", "random", 9, 0, 2, "P+M", epoch, 0.5, 0.25) for epoch in (1, 2)]
    line = panels_of(bent_steps(rows, names_of(rows)))[0].lines[-1]
    assert list(np.asarray(line.get_ydata())) == [25.0, 25.0]


def test_a_forest_fills_what_survives_the_correction() -> None:
    figure = forest(_ROWS, "CCC of activation, iemocap, test split, n = 30", "finetune")
    (axes,) = figure.figure.axes
    points = [line for line in axes.lines if line.get_marker() in ("s", "o")]
    assert [point.get_marker() for point in points] == ["s", "o", "o"]
    assert [float(np.asarray(point.get_xdata())[0]) for point in points] == [0.2, 0.1, -0.05]
    texts = [text.get_text() for text in axes.texts]
    assert texts[:6] == ["0.001", "0.004", "0.040", "0.080", "–", "–"]
    assert [label.get_text() for label in axes.get_yticklabels()] == [row.label for row in _ROWS]
    assert "1 of them with Holm's p < 0.05" in figure.alt
    assert p_value(0.0001) == "< 0.001"


def test_points_stand_at_their_bytes() -> None:
    figure = against_bytes(
        [Kept("finetune", 0, (0.1, 0.3)), Kept("gem", 2e6, (0.5, 0.5)), Kept("er", 2e6, (0.6,))],
        "CCC of valence",
    )
    (axes,) = figure.figure.axes
    places = [container.lines[0].get_xydata()[0] for container in axes.containers]  # type: ignore[attr-defined]  # error bars
    assert places[0][0] < 1e6
    assert [place[1] for place in places] == pytest.approx([0.2, 0.5, 0.6])
    assert np.sqrt(places[1][0] * places[2][0]) == pytest.approx(2e6)  # side by side around it
    assert axes.get_xticklabels()[0].get_text() == "nothing"
    assert axes.get_xscale() == "log"
    assert "gem keeps most, 2 MB" in figure.alt
    assert [size(999), size(1536), size(2.5e9)] == ["999 bytes", "1.54 kB", "2.5 GB"]


def test_a_run_without_predictions_costs_and_epochs_has_the_other_figures(run: RunData) -> None:
    small = RunData(run.folder, run.results, run.memory)
    assert [name for name, _ in figures_of(small, run.results)] == [
        "stages-activation", "stages-valence", "heat-activation", "heat-valence", "memory-20",
    ]  # fmt: skip
