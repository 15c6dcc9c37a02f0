"""What bundles reveal, per strategy and remedy, and what each remedy costs.

    .venv/bin/ser-demo --output demo
    .venv/bin/python -m tests.benchmarks.audit --cache demo/cache --output OUTPUT
    .venv/bin/python -m tests.benchmarks.audit --cache OUTPUT/cache --stages clean,hall,phone --memory-size 40 \\
        --batch-size 16 --variant mp3=OUTPUT/reencoded/mp3 --variant telephone=OUTPUT/reencoded/telephone --output AUDIT

Every row is a command that `ser-train --bundles` takes. Each attack of `ser-bundle audit` is measured on the last bundle of
every seed, with each corpus. Values are means over seeds and corpora, and so are the ends of the 95% intervals; the CCC is
the mean over corpora and dimensions on the test splits after the last stage, and its change is against the first row of the
same strategy and sampler, with the standard deviation over the seeds.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ser_memory.common.console import say, table
from ser_memory.common.reporting import Silent
from ser_memory.train.api import train
from ser_memory.train.audit.audit import Finding, audit
from ser_memory.train.bundle_files import bundles_in, read_bundle
from ser_memory.train.results import Result
from ser_memory.train.strategies import STRATEGIES

_OF_STEPS = ("batch_size", "learning_rate", "epochs", "patience")  # a closed form takes none
ROWS: dict[str, tuple[dict[str, Any], str]] = {  # name: options, and the row that its CCC is compared with
    "experience-replay": ({"strategy": "experience-replay"}, "experience-replay"),
    "+ noise 0.3": ({"strategy": "experience-replay", "memory_noise": 0.3}, "experience-replay"),
    "+ noise 1": ({"strategy": "experience-replay", "memory_noise": 1.0}, "experience-replay"),
    "+ noise 3": ({"strategy": "experience-replay", "memory_noise": 3.0}, "experience-replay"),
    "+ 8 bits": ({"strategy": "experience-replay", "memory_bits": "8"}, "experience-replay"),
    "+ noise 1, 8 bits": (
        {"strategy": "experience-replay", "memory_noise": 1.0, "memory_bits": "8"},
        "experience-replay",
    ),
    "replay:speaker": ({"strategy": "experience-replay:speaker"}, "replay:speaker"),
    "+ no speaker codes": (
        {"strategy": "experience-replay:speaker", "no_speaker_codes": True},
        "replay:speaker",
    ),
    "gem": ({"strategy": "gem"}, "gem"),
    "der++": ({"strategy": "der++"}, "der++"),
    "prototype-replay": ({"strategy": "prototype-replay"}, "prototype-replay"),
    "+ rank 4": ({"strategy": "prototype-replay", "prototype_rank": 4}, "prototype-replay"),
    "+ rank 1": ({"strategy": "prototype-replay", "prototype_rank": 1}, "prototype-replay"),
    "analytic": ({"strategy": "analytic"}, "analytic"),
    "+ ridge x 100": ({"strategy": "analytic", "analytic_ridge": 100.0}, "analytic"),
    "ewc": ({"strategy": "ewc"}, "ewc"),
    "lwf": ({"strategy": "lwf"}, "lwf"),
    "finetune": ({"strategy": "finetune"}, "finetune"),
}


@dataclass(frozen=True)
class Row:
    """One line of training, and what was measured of it."""

    ccc: dict[int, float]  # by seed
    size: float  # bytes of a bundle
    findings: dict[tuple[str, str, str], list[Finding]]  # by what, attack and recordings


@dataclass(frozen=True)
class Bench:
    """Trains and audits on the same corpora, with the same options."""

    output: Path
    cache: Path
    stages: list[str]
    variants: Mapping[str, Path]
    common: Mapping[str, Any]
    memory_size: int

    def row(self, options: Mapping[str, Any]) -> Row:
        """One line, in a folder of its own."""
        strategy = STRATEGIES[options["strategy"].partition(":")[0]]
        used = {
            name: value
            for name, value in self.common.items()
            if strategy.by_gradient or name not in _OF_STEPS
        }
        size = {"memory_size": self.memory_size} if strategy.earlier == "memory" else {}
        folder = self.output / "-".join(str(value) for value in options.values()).replace(":", "-")
        run = train(
            output=folder, cache=self.cache, stages=self.stages, bundles=True, predictions="none", reporter=Silent(),
            **used, **size, **options,
        )  # fmt: skip
        findings: dict[tuple[str, str, str], list[Finding]] = defaultdict(list)
        sizes = []
        for path in bundles_in(folder / "bundles"):
            bundle = read_bundle(path)
            for corpus in self.stages:
                caches = {name: each / f"{corpus}.h5" for name, each in self.variants.items()}
                variants = {name: each for name, each in caches.items() if each.exists()}
                found = audit(bundle, self.cache / f"{corpus}.h5", folder / "members.csv", variants=variants)
                for each in found.findings:
                    findings[each.what, each.attack, each.recordings].append(each)
            sizes.append(sum(found.tensors.values()))
        return Row(_mean_ccc(run.results), float(np.mean(sizes)), dict(findings))


def _mean_ccc(results: list[Result]) -> dict[int, float]:
    """Of each seed the mean test CCC over corpora and dimensions after the last stage."""
    last = max(result.stage for result in results)
    values: dict[int, list[float]] = defaultdict(list)
    for result in results:
        if (result.stage, result.split, result.metric) == (last, "test", "ccc"):
            values[result.seed].append(result.value)
    return {seed: float(np.mean(each)) for seed, each in values.items()}


def lines(rows: Mapping[str, Row]) -> list[list[str]]:
    """Cells of the table: a line per attack; what belongs to a row of training is on its first line."""
    made = []
    for name, row in rows.items():
        base = rows[ROWS[name][1]]
        change = [row.ccc[seed] - base.ccc[seed] for seed in row.ccc]
        facts = [
            f"{row.size / 1000:,.0f}", f"{np.mean(list(row.ccc.values())):.3f}",
            "" if row is base else f"{np.mean(change):+.3f} ± {np.std(change, ddof=1):.3f}",
        ]  # fmt: skip
        for (what, attack, recordings), found in row.findings.items():
            named = [each.named for each in found if each.named is not None]
            shift = [each.between_others for each in found if each.between_others is not None]
            made.append(
                [
                    name, f"{what}: {attack}", recordings, _mean([each.auc for each in found]),
                    f"{np.mean(shift):.3f}" if shift else "", _mean([each.found for each in found]),
                    f"{np.mean([each.by_chance for each in found]):.3f}", _mean(named) if named else "", *facts,
                ]
            )  # fmt: skip
            name, facts = "", [""] * 3  # noqa: PLW2901
    return made


def _mean(estimates: list[Any]) -> str:
    value, low, high = (
        np.mean([getattr(each, end) for each in estimates]) for end in ("value", "low", "high")
    )
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--stages", default="msp-podcast,msp-improv,iemocap")
    parser.add_argument(
        "--variant", action="append", default=[], help="NAME=FOLDER of further caches, of some corpora"
    )
    parser.add_argument("--only", action="append", help="a row; repeatable. All if not given")
    parser.add_argument("--memory-size", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, required=True, help="each row's run is a folder below it")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--patience", type=int, default=15)
    given = parser.parse_args()
    common = {
        "seeds": given.seeds, "trained": given.output / "trained", "batch_size": given.batch_size,
        "learning_rate": given.learning_rate, "epochs": given.epochs, "patience": given.patience,
        "device": "cpu", "jobs": 1,
    }  # fmt: skip
    variants = {name: Path(path) for name, _, path in (item.partition("=") for item in given.variant)}
    bench = Bench(given.output, given.cache, given.stages.split(","), variants, common, given.memory_size)
    rows = {name: bench.row(ROWS[name][0]) for name in given.only or ROWS}
    table(
        f"Attacks on the bundles of {given.seeds} seeds; memories of {given.memory_size}",
        [
            "", "attack", "recordings", "AUC [95 %]", "between others", "found at 1 % [95 %]", "by chance",
            "own is nearest", "kB", "CCC", "change",
        ],
        lines(rows),
        left=3,
    )  # fmt: skip
    say(
        "Intervals are means of those of each bundle and corpus. See ser-bundle audit --help for the attacks."
    )


if __name__ == "__main__":
    main()
