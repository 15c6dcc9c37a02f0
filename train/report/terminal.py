"""Results -> the closing tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from ser_memory.common.console import say, table
from ser_memory.common.errors import listing
from ser_memory.train.report.statistics import SIGNIFICANT, differs
from ser_memory.train.results import Result
from ser_memory.train.settings import NO_SAMPLER

BASELINE = "finetune"
RANDOM = "random"
_SPLIT = "test"


Values = dict[tuple[int, tuple[str, str], str], dict[int, float]]  # stage, variant, corpus -> seed -> value


def print_tables(results: Sequence[Result]) -> None:
    """Test figures of every stage, strategy and corpus: mean and standard deviation over seeds.

    One table per measure and dimension. A star marks p < 0.05 in a two-sided paired t-test over the seeds
    against fine-tuning at the same stage, a dagger against the same strategy with a random memory. A plus or minus
    behind it tells whether the figure is higher or lower.
    """
    shown = [result for result in results if result.split == _SPLIT]
    if not shown:
        say("No corpus has a test split; results.csv has the validation figures.")
        return
    corpora = {result.corpus: result.n for result in shown}
    seeds = len({result.seed for result in shown})
    for metric in ("ccc", "uar"):
        for dimension in dict.fromkeys(result.dimension for result in shown):
            part = [result for result in shown if (result.metric, result.dimension) == (metric, dimension)]
            table(
                f"{metric.upper()} of {dimension}, test split: mean{' ± standard deviation' if seeds > 1 else ''} "
                f"over {seeds} seed{'s' if seeds > 1 else ''}",
                ["stage", "strategy", *(f"{corpus} (n={n})" for corpus, n in corpora.items())],
                list(_lines(part, list(corpora))),
                left=2,
            )
    _explain(shown, seeds)
    others = {
        f"{result.corpus} {result.split}" for result in results if result.split not in (_SPLIT, "validation")
    }
    if others:
        say(f"In results.csv, not shown here: validation, {listing(sorted(others))}.")


def _explain(shown: Sequence[Result], seeds: int) -> None:
    later = [result for result in shown if result.stage > 1]
    test = "(two-sided paired t-test over the seeds)"
    if seeds > 1 and {BASELINE} < {result.strategy for result in later}:
        say(f"*+ higher, *- lower than {BASELINE} at the same stage, p < {SIGNIFICANT:g} {test}.")
    if seeds > 1 and {RANDOM} < {result.sampler for result in later} - {NO_SAMPLER}:
        say(f"†+ higher, †- lower than the same strategy with a {RANDOM} memory, p < {SIGNIFICANT:g} {test}.")
    say("CCC: concordance, 1 at best. UAR: mean recall of low, middle and high, each a third of the scale.")


def _lines(part: Sequence[Result], corpora: Sequence[str]) -> Iterable[list[str]]:
    """A line per stage and variant; the first stage, which all variants share, once."""
    values: Values = {}
    stages: dict[int, str] = {}
    variants: dict[tuple[str, str], None] = {}
    for result in part:
        variant = (result.strategy, result.sampler)
        values.setdefault((result.stage, variant, result.corpus), {})[result.seed] = result.value
        stages[result.stage], variants[variant] = result.stage_name, None
    several = len({sampler for _, sampler in variants} - {NO_SAMPLER}) > 1
    for stage, stage_name in stages.items():
        for variant in list(variants)[:1] if stage == 1 else variants:
            strategy, sampler = variant
            label = f"{strategy} ({sampler})" if several and sampler != NO_SAMPLER else strategy
            cells = [_cell(values, stage, variant, corpus, several) for corpus in corpora]
            yield [stage_name, "all" if stage == 1 else label, *cells]


def _cell(values: Values, stage: int, variant: tuple[str, str], corpus: str, samplers: bool) -> str:
    marks = 4 if samplers else 2  # room for them, so that the figures stand below each other
    ours = values.get((stage, variant, corpus), {})
    if not ours:
        return "-" + " " * marks  # every run diverged
    mean = float(np.mean(list(ours.values())))
    if len(ours) < 2:  # noqa: PLR2004
        return f"{mean:.3f}" + " " * marks
    strategy, sampler = variant
    marked = {
        "*": differs(ours, values.get((stage, (BASELINE, NO_SAMPLER), corpus), {})),
        "†": differs(ours, values.get((stage, (strategy, RANDOM), corpus), {}))
        if sampler != NO_SAMPLER
        else 0,
    }
    shown = "".join(f"{mark}{'+' if sign > 0 else '-'}" for mark, sign in marked.items() if sign)
    return f"{mean:.3f} ± {np.std(list(ours.values()), ddof=1):.3f}{shown:{marks}}"
