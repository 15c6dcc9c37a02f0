"""Results -> the closing tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ser_memory.common.console import say, table
from ser_memory.common.errors import listing
from ser_memory.train.report.statistics import SIGNIFICANT, differs
from ser_memory.train.report.variants import SHARED, owner_at, owner_of, variant_of
from ser_memory.train.results import Result, overall, read_estimates
from ser_memory.train.runs import NO_SAMPLER, POOLED, Variant

BASELINE = "finetune"
RANDOM = "random"
_SPLIT = "test"


Values = dict[tuple[int, Variant, str], dict[int, float]]  # stage, variant, corpus -> seed -> value


def print_tables(results: Sequence[Result]) -> None:
    """Test figures of every stage, strategy and corpus: mean and standard deviation over seeds.

    One table per measure and dimension, of the corpora that rate the dimension. A star marks p < 0.05 in a two-sided
    paired t-test over the seeds against fine-tuning at the same stage, a dagger against the same strategy with a random
    memory of the same size. A plus or minus behind it tells whether the figure is higher or lower. The first stage that
    all strategies share is there once, as `all`; it is fine-tuning's too.

    With folds, the figure of a seed is over the test predictions of all folds together, for corpora that have folds,
    and the mean over the folds for the others. A second table then has the mean and standard deviation over the folds.
    """
    tested = [result for result in results if result.split == _SPLIT]
    shown = overall(tested)
    if not shown:
        say("No corpus has a test split; results.csv has the validation figures.")
        return
    seeds = len({result.seed for result in shown})
    for metric in ("ccc", "uar"):
        for dimension in dict.fromkeys(result.dimension for result in shown):
            part, each = (
                [result for result in some if (result.metric, result.dimension) == (metric, dimension)]
                for some in (shown, tested)
            )
            if not part:
                continue
            corpora = {result.corpus: result.n for result in part}
            folded = dict.fromkeys(result.corpus for result in each if result.fold == POOLED)
            table(
                f"{metric.upper()} of {dimension}, test split{_over_folds(each, folded)}: "
                f"mean{' ± standard deviation' if seeds > 1 else ''} over {seeds} seed{'s' if seeds > 1 else ''}",
                ["stage", "strategy", *(f"{corpus} (n={n})" for corpus, n in corpora.items())],
                list(_lines(part, list(corpora))),
                left=2,
            )
            if folded:
                _print_folds(f"{metric.upper()} of {dimension}", each, list(folded), seeds)
    _explain(shown, seeds)
    others = {
        f"{result.corpus} {result.split}" for result in results if result.split not in (_SPLIT, "validation")
    }
    if others:
        say(f"In results.csv, not shown here: validation, {listing(sorted(others))}.")


def print_estimates(folder: Path) -> None:
    """The estimates of a run for corpora that are no longer there, if it has any: mean and standard deviation over seeds."""
    estimated = [result for result in read_estimates(folder) if result.metric == "ccc"]
    for dimension in dict.fromkeys(result.dimension for result in estimated):
        part = [result for result in estimated if result.dimension == dimension]
        corpora = {result.corpus: result.n for result in part}
        table(
            f"Estimated CCC of {dimension}, of corpora that are not here: from test utterances in the bundle",
            ["stage", "strategy", *(f"{corpus} (n={n})" for corpus, n in corpora.items())],
            list(_lines(part, list(corpora))),
            left=2,
        )


def _over_folds(tested: Sequence[Result], folded: Mapping[str, None]) -> str:
    """How the figures of several folds become one, for the title."""
    folds = len({result.fold for result in tested} - {"", POOLED})
    others = dict.fromkeys(result.corpus for result in tested if result.fold and result.corpus not in folded)
    told = [f"{listing(folded)} over the predictions of all {folds} folds"] if folded else []
    told += [f"{listing(others)} the mean over {folds} folds"] if others else []
    return f" ({'; '.join(told)})" if told else ""


def _print_folds(what: str, tested: Sequence[Result], corpora: Sequence[str], seeds: int) -> None:
    """How much a figure differs between the folds of these corpora."""
    values: dict[tuple[int, Variant, str], dict[str, dict[int, float]]] = {}
    for result in tested:
        if result.fold not in ("", POOLED):
            folds = values.setdefault((result.stage, owner_of(result), result.corpus), {})
            folds.setdefault(result.fold, {})[result.seed] = result.value
    means = {
        place: [float(np.mean(list(of_seeds.values()))) for of_seeds in folds.values()]
        for place, folds in values.items()
    }

    def cell(stage: int, variant: Variant, corpus: str) -> str:
        found = means.get((stage, variant, corpus), [])
        return f"{np.mean(found):.3f} ± {np.std(found, ddof=1):.3f}" if len(found) > 1 else "-"

    table(
        f"The same by fold: mean ± standard deviation over the folds{' of the mean over the seeds' if seeds > 1 else ''} "
        f"({what})",
        ["stage", "strategy", *corpora],
        [[*names, *(cell(stage, variant, corpus) for corpus in corpora)]
         for stage, variant, names in _places(tested)],
        left=2,
    )  # fmt: skip


def _explain(shown: Sequence[Result], seeds: int) -> None:
    later = [result for result in shown if result.stage > 1]
    test = "(two-sided paired t-test over the seeds)"
    first = {owner_of(result) for result in shown if result.stage == 1}
    # A strategy with a first stage of its own is compared there with what the others share.
    apart = {SHARED} < first
    than = f"{SHARED.strategy} at the first stage" if apart else ""
    if {BASELINE} < {result.strategy for result in later}:
        shared = f" (at the first stage, than {SHARED.strategy})" if apart else ""
        than = f"{BASELINE} at the same stage{shared}"
    if seeds > 1 and than:
        say(f"*+ higher, *- lower than {than}, p < {SIGNIFICANT:g} {test}.")
    if seeds > 1 and {RANDOM} < {result.sampler for result in later} - {NO_SAMPLER}:
        of_the_size = " of the same size" if len(_sizes(later)) > 1 else ""
        say(
            f"†+ higher, †- lower than the same strategy with a {RANDOM} memory{of_the_size}, p < {SIGNIFICANT:g} {test}."
        )
    same = _constant(shown) if seeds > 1 else []
    if same:
        say(f"The same for every seed, so with a deviation of 0: {listing(same)}.")
    say("CCC: concordance, 1 at best. UAR: mean recall of low, middle and high, each a third of the scale.")


def _constant(shown: Iterable[Result]) -> list[str]:
    """The strategies whose figures do not depend on the seed."""
    found: dict[Variant, dict[Result, set[float]]] = {}
    for result in (each for each in shown if each.n > 1):  # the CCC of one utterance is 0 in any case
        place = replace(result, seed=0, value=0.0, strategy="", sampler="", memory_size=0)
        found.setdefault(owner_of(result), {}).setdefault(place, set()).add(result.value)
    return list(
        dict.fromkeys(
            owner.strategy
            for owner, figures in found.items()
            if all(len(values) == 1 for values in figures.values())
        )
    )


def _lines(part: Sequence[Result], corpora: Sequence[str]) -> Iterable[list[str]]:
    """A line per stage and variant; a first stage that variants share once."""
    values: Values = {}
    for result in part:
        place = (result.stage, owner_of(result), result.corpus)
        values.setdefault(place, {})[result.seed] = result.value
    several = len(_samplers(part)) > 1
    for stage, variant, names in _places(part):
        yield [*names, *(_cell(values, stage, variant, corpus, several) for corpus in corpora)]


def _places(part: Sequence[Result]) -> Iterable[tuple[int, Variant, list[str]]]:
    """Every stage and variant, with their names for a line; a first stage that variants share once, before others."""
    stages = {result.stage: result.stage_name for result in part}
    variants = list(dict.fromkeys(map(variant_of, part)))
    samplers, sizes = len(_samplers(part)) > 1, len(_sizes(part)) > 1
    for stage, stage_name in stages.items():
        owners = dict.fromkeys(owner_at(stage, variant) for variant in variants)
        for variant in sorted(owners, key=lambda owner: owner != SHARED):
            yield stage, variant, [stage_name, _label(variant, samplers, sizes)]


def _label(variant: Variant, samplers: bool, sizes: bool) -> str:
    """The strategy, and what of its memory tells it from others."""
    if variant.sampler == NO_SAMPLER or not (samplers or sizes):
        return variant.strategy
    told = [variant.sampler] * samplers + [str(variant.memory_size)] * sizes
    return f"{variant.strategy} ({', '.join(told)})"


def _samplers(part: Sequence[Result]) -> set[str]:
    return {result.sampler for result in part} - {NO_SAMPLER}


def _sizes(part: Sequence[Result]) -> set[int]:
    return {result.memory_size for result in part if result.sampler != NO_SAMPLER}


def _cell(values: Values, stage: int, variant: Variant, corpus: str, samplers: bool) -> str:
    marks = 4 if samplers else 2  # room for them, so that the figures stand below each other
    ours = values.get((stage, variant, corpus), {})
    if not ours:
        return "-" + " " * marks  # every run diverged
    mean = float(np.mean(list(ours.values())))
    if len(ours) < 2:  # noqa: PLR2004
        return f"{mean:.3f}" + " " * marks
    baseline = owner_at(stage, Variant(BASELINE))
    random = Variant(variant.strategy, RANDOM, variant.memory_size)
    marked = {
        "*": differs(ours, values.get((stage, baseline, corpus), {})),
        "†": differs(ours, values.get((stage, random, corpus), {})) if variant.sampler != NO_SAMPLER else 0,
    }
    shown = "".join(f"{mark}{'+' if sign > 0 else '-'}" for mark, sign in marked.items() if sign)
    return f"{mean:.3f} ± {np.std(list(ours.values()), ddof=1):.3f}{shown:{marks}}"
