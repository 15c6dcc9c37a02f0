"""Whether a run continues another one: from the bundles that the other has in its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ser_memory.common.errors import SerError
from ser_memory.train.report.data import RunData
from ser_memory.train.report.variants import variant_of
from ser_memory.train.results import BUNDLES, Result
from ser_memory.train.runs import Variant

_ROUNDING = 1e-4  # of a CCC of one model that two machines measured


@dataclass(frozen=True)
class _Bundle:
    """Which model of a run a bundle has."""

    checksum: str
    variant: Variant
    seed: int
    fold: str
    stage: int

    def is_of(self, row: Result) -> bool:
        """Whether a figure of the run is of this model."""
        return (variant_of(row), row.seed, row.fold, row.stage) == (
            self.variant, self.seed, self.fold, self.stage,
        )  # fmt: skip


def continues(later: RunData, earlier: RunData) -> bool:
    """Whether a run continues from bundles that another one has in its folder, of all of its seeds.

    Raises SerError if the two have measured the model of a bundle on the same split and differ.
    """
    if not later.origin:
        return False
    there = {each.checksum: each for each in _bundles(earlier.folder, later.begun)}
    if not there.keys() >= set(later.origin.values()):
        return False
    for checksum in later.origin.values():
        _refuse_contradiction(later, earlier, there[checksum])
    return True


def _bundles(folder: Path, stage: int) -> Iterator[_Bundle]:
    for path in folder.glob(f"{BUNDLES}/**/stage-{stage}/config.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # one that is damaged is none
            content = json.loads(path.read_text(encoding="utf-8"))
            info = content["bundle"]
            variant = Variant(info["strategy"], info["sampler"], info["memory_size"])
            yield _Bundle(content["checksum"], variant, info["seed"], info["fold"], info["stage"])


def _refuse_contradiction(later: RunData, earlier: RunData, bundle: _Bundle) -> None:
    """Raise SerError if the figures of the bundle as it came are others in the run that it is of."""
    known = {
        (row.corpus, row.split, row.dimension): row
        for row in earlier.results
        if row.metric == "ccc" and bundle.is_of(row)
    }
    for row in later.results:
        if (row.metric, row.seed, row.fold, row.stage) != ("ccc", bundle.seed, bundle.fold, bundle.stage):
            continue
        other = known.get((row.corpus, row.split, row.dimension), row)
        if other.n != row.n or abs(other.value - row.value) > _ROUNDING:
            raise SerError(
                f"{earlier.folder} and {later.folder} measured the same model, {bundle.variant.strategy} of seed "
                f"{bundle.seed} after {row.stage_name}, on the {row.split} split of {row.corpus} and differ (CCC of "
                f"{row.dimension} {other.value:.3f}, n = {other.n}, and {row.value:.3f}, n = {row.n}): their caches or "
                f"protocols of {row.corpus} are not the same, so report them apart."
            )
