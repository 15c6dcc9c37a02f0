"""Results -> the closing tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.stats import ttest_rel

from common.console import say, table
from common.errors import listing
from train.experiment import NO_SAMPLER, Result

BASELINE = "finetune"
SIGNIFICANT = 0.05
_SPLIT = "test"
_ROUNDING = 1e-12  # of differences that are equal


def print_tables(results: Sequence[Result]) -> None:
    """Test figures of every stage, strategy and corpus: mean and standard deviation over seeds.

    One table per measure and dimension. A star marks p < 0.05 in a two-sided paired t-test over the seeds
    against fine-tuning at the same stage.
    """
    shown = [result for result in results if result.split == _SPLIT]
    if not shown:
        say("No corpus has a test split; results.csv has the validation figures.")
        return
    corpora = {result.corpus: result.n for result in shown}
    seeds = len({result.seed for result in shown})
    for metric in ("ccc", "uar"):
        for dimension in ("activation", "valence"):
            part = [result for result in shown if (result.metric, result.dimension) == (metric, dimension)]
            table(
                f"{metric.upper()} of {dimension}, test split: mean{' ± standard deviation' if seeds > 1 else ''} "
                f"over {seeds} seed{'s' if seeds > 1 else ''}",
                ["stage", "strategy", *(f"{corpus} (n={n})" for corpus, n in corpora.items())],
                list(_lines(part, list(corpora))),
                left=2,
            )
    if seeds > 1 and {BASELINE} < {result.strategy for result in shown if result.stage > 1}:
        say(
            f"* p < {SIGNIFICANT:g} against {BASELINE} at the same stage (two-sided paired t-test over the seeds)."
        )
    say("CCC: concordance, 1 at best. UAR: mean recall of low, middle and high, each a third of the scale.")
    others = {
        f"{result.corpus} {result.split}" for result in results if result.split not in (_SPLIT, "validation")
    }
    if others:
        say(f"In results.csv, not shown here: validation, {listing(sorted(others))}.")


def _lines(part: Sequence[Result], corpora: Sequence[str]) -> Iterable[list[str]]:
    """A line per stage and variant; the first stage, which all variants share, once."""
    values: dict[tuple[int, str, str], dict[int, float]] = {}
    stages: dict[int, str] = {}
    variants: dict[str, None] = {}
    samplers = {result.sampler for result in part} - {NO_SAMPLER}
    for result in part:
        name = _variant(result, several=len(samplers) > 1)
        values.setdefault((result.stage, name, result.corpus), {})[result.seed] = result.value
        stages[result.stage], variants[name] = result.stage_name, None
    for stage, stage_name in stages.items():
        shown = {"all": next(iter(variants))} if stage == 1 else dict(zip(variants, variants, strict=True))
        for label, variant in shown.items():
            yield [stage_name, label, *(_cell(values, stage, variant, corpus) for corpus in corpora)]


def _variant(result: Result, several: bool) -> str:
    return (
        f"{result.strategy} ({result.sampler})"
        if several and result.sampler != NO_SAMPLER
        else result.strategy
    )


def _cell(values: dict[tuple[int, str, str], dict[int, float]], stage: int, variant: str, corpus: str) -> str:
    ours = values.get((stage, variant, corpus), {})
    if not ours:
        return "- "  # every run diverged
    mean = float(np.mean(list(ours.values())))
    if len(ours) < 2:  # noqa: PLR2004
        return f"{mean:.3f} "
    mark = "*" if _differs(ours, values.get((stage, BASELINE, corpus), {})) else " "
    return f"{mean:.3f} ± {np.std(list(ours.values()), ddof=1):.3f}{mark}"


def _differs(ours: dict[int, float], baseline: dict[int, float]) -> bool:
    """Whether a two-sided paired t-test over the seeds that both have gives p < SIGNIFICANT."""
    seeds = sorted(set(ours) & set(baseline))
    a, b = [ours[seed] for seed in seeds], [baseline[seed] for seed in seeds]
    if len(seeds) < 2 or np.ptp(np.subtract(a, b)) < _ROUNDING:  # noqa: PLR2004
        return False  # without spread in the differences the test is undefined
    return bool(ttest_rel(a, b).pvalue < SIGNIFICANT)
