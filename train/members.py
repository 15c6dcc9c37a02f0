"""members.csv: which utterances each bundle of a run holds. It is for audits, and never part of a bundle."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ser_memory.common.errors import SerError, listing
from ser_memory.common.files import replacing
from ser_memory.train.runs import Run, Variant

MEMBERS = "members.csv"
TRAINED_ON, HELD_OUT, MEASURED = "trained on", "held out", "measured"
_COLUMNS = ("strategy", "sampler", "memory_size", "seed", "stage", "corpus", "id", "fold", "use")


@dataclass(frozen=True)
class Chosen:
    """Utterances of one corpus in the bundle of a run after a stage, in the order in which it keeps them."""

    run: Run
    stage: int  # from 1
    corpus: str
    use: str  # TRAINED_ON, HELD_OUT, or MEASURED: test utterances that estimate figures
    rows: npt.NDArray[np.int64]  # of the cache


def write_members(path: Path, chosen: Iterable[Chosen], ids_of: Callable[[str], Sequence[str]]) -> None:
    """Write members.csv; `ids_of` gives the ids of a corpus's cache. Only rows are in memory, and the ids of one corpus."""
    with replacing(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(_COLUMNS)
        corpus: str = ""
        ids: Sequence[str] = ()
        for each in sorted(chosen, key=lambda each: each.corpus):
            if each.corpus != corpus:
                corpus, ids = each.corpus, ids_of(each.corpus)
            assert each.run.variant is not None
            facts = (*astuple(each.run.variant), each.run.seed, each.stage, corpus)
            writer.writerows((*facts, ids[row], each.run.fold, each.use) for row in each.rows)


def read_members(
    path: Path, corpus: str, variant: Variant, seed: int, stage: int, fold: str = ""
) -> dict[str, list[str]]:
    """By use, the ids of one corpus in a bundle after a stage, in the order in which it keeps them.

    A run that continued from a bundle does not know what that one holds: then it is the file of the earlier run, and what
    it lists for its own last stage counts.

    Raises SerError if the file cannot be read or lists nothing of this bundle.
    """
    wanted = (*map(str, astuple(variant)), str(seed), corpus, fold)
    by_stage: dict[int, dict[str, list[str]]] = {}
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            absent = [name for name in _COLUMNS if name not in (reader.fieldnames or [])]
            if absent:
                raise SerError(
                    f"{path} has no column {listing(absent)}: give the {MEMBERS} that ser-train --bundles writes."
                )
            keys = ("strategy", "sampler", "memory_size", "seed", "corpus", "fold")
            for row in reader:
                if tuple(row[key] for key in keys) == wanted and int(row["stage"]) <= stage:
                    uses = by_stage.setdefault(int(row["stage"]), {})
                    uses.setdefault(row["use"], []).append(row["id"])
    except OSError as error:
        raise SerError(f"{path} cannot be opened: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error, ValueError) as error:
        raise SerError(f"{path} cannot be read as a {MEMBERS} of ser-train: {error}.") from None
    if not by_stage:
        of_fold = f" in fold {fold}" if fold else ""
        raise SerError(
            f"{path} lists no utterance of {corpus} for {variant.strategy}, sampler {variant.sampler}, size "
            f"{variant.memory_size} and seed {seed}{of_fold} up to stage {stage}: give the {MEMBERS} of the run that wrote "
            "the bundle."
        )
    return by_stage[max(by_stage)]
