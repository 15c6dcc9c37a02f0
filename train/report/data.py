"""Reads the folder of a run for a report. Arrays of predictions stay in their file until somebody asks for them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from ser_memory.common.conventions import DIMENSIONS
from ser_memory.common.errors import SerError, listing
from ser_memory.train.predictions import PREDICTIONS, Predictions
from ser_memory.train.results import (
    COSTS,
    EPOCHS,
    MEMORY,
    RESULTS,
    STUDY,
    ConditionResult,
    Result,
    overall,
    read_conditions,
    read_estimates,
    read_results,
)

CONFIG = "config.json"

_RUN = ("strategy", "sampler", "memory_size", "seed")
_STAGE = (*_RUN, "stage", "stage_name")
_BINS = tuple(f"{dimension}_bin" for dimension in DIMENSIONS)

Row = TypeVar("Row")


@dataclass(frozen=True)
class MemoryRow:
    """How many utterances of one kind a memory holds: a row of memory.csv."""

    sampler: str
    memory_size: int
    seed: int
    corpus: str
    bins: tuple[int, ...]  # of activation and valence: 0 low, 1 middle, 2 high
    speaker: str
    n: int
    fold: str = ""


@dataclass(frozen=True)
class CostRow:
    """What one stage of a run took, and what it kept for later stages: a row of costs.csv."""

    strategy: str
    sampler: str
    memory_size: int
    seed: int
    stage: int  # from 1
    stage_name: str
    seconds: float | None  # of training; None where it was not measured
    memory_bytes: int | None
    parameter_bytes: int | None
    other_bytes: int | None
    fold: str = ""

    @property
    def kept_bytes(self) -> int | None:
        """All bytes kept for later stages; None where a part was not measured."""
        parts = (self.memory_bytes, self.parameter_bytes, self.other_bytes)
        return None if None in parts else sum(part for part in parts if part is not None)


@dataclass(frozen=True)
class EpochRow:
    """One epoch of one stage of a run: a row of epochs.csv."""

    strategy: str
    sampler: str
    memory_size: int
    seed: int
    stage: int  # from 1
    stage_name: str
    epoch: int  # from 1
    validation_ccc: float  # mean over the dimensions, on the validation split of the stage's corpus
    bent_share: float | None  # of the epoch's steps, in [0, 1]; None for strategies that bend no gradient
    fold: str = ""


@dataclass(frozen=True)
class RunData:
    """What a report needs of one run."""

    folder: Path
    results: list[Result]
    memory: list[MemoryRow] = field(default_factory=list)
    costs: list[CostRow] = field(default_factory=list)
    epochs: list[EpochRow] = field(default_factory=list)
    config: Mapping[str, Any] = field(default_factory=dict)
    predictions: Predictions | None = None
    conditions: list[ConditionResult] = field(default_factory=list)  # in other acoustic conditions
    missing: tuple[str, ...] = ()  # names of files that this folder does not have
    estimates: list[Result] = field(default_factory=list)  # for corpora that are no longer there

    @property
    def begun(self) -> int:
        """The number of stages that were over in the bundles that it continued from."""
        stages = self.config.get("experiment", {}).get("stages", ())
        return len(stages) - len(self.config.get("digests", stages))

    @property
    def origin(self) -> Mapping[str, str]:
        """The checksums of the bundles that it continued from, by seed; empty if it continued from none."""
        return self.config.get("experiment", {}).get("origin") or {}

    @cached_property
    def overall(self) -> list[Result]:
        """The results with one figure for all folds, computed once."""
        return overall(self.results)

    @property
    def complete(self) -> bool:
        """Whether all runs of the experiment are finished."""
        return self.config.get("complete") is True


def folders_of(folder: Path) -> list[Path]:
    """The run folders of a study; of a run, itself. Raises SerError if the list of the runs is damaged."""
    try:
        names = json.loads((folder / STUDY).read_text(encoding="utf-8"))["runs"]
        return [folder / str(name) for name in names if (folder / str(name)).exists()]
    except (FileNotFoundError, NotADirectoryError):
        return [folder]
    except (OSError, ValueError, KeyError, TypeError):
        raise SerError(f"{folder / STUDY} is damaged: run the study again with --output {folder}.") from None


def load_run(folder: Path) -> RunData:
    """Read the folder of a run of ser-train.

    Only results.csv must be there. A folder of an older version lacks other files: their fields are then empty, and
    `missing` names the files. Raises SerError in one sentence if the folder is not one of a run, if a file is
    damaged, or if predictions.h5 has another format version.
    """
    if not folder.is_dir():
        raise SerError(f"There is no folder {folder}: give the folder of a run of ser-train.")
    if not (folder / RESULTS).exists() and (folder / "best" / RESULTS).exists():
        raise SerError(f"{folder} is a search: its best run is {folder / 'best'}.")
    if not (folder / RESULTS).exists() and (folder / CONFIG).exists():
        raise SerError(
            f"No stage of the run in {folder} is finished yet: continue it with the same ser-train command and "
            f"--output {folder}."
        )
    if not (folder / RESULTS).exists():
        raise SerError(
            f"{folder} has no {RESULTS}, so it is not the folder of a run: give one that ser-train wrote."
        )
    results, config = read_results(folder), _config(folder / CONFIG)
    return RunData(
        folder,
        results,
        _table(
            folder / MEMORY, _memory_row, ("sampler", "memory_size", "seed", "corpus", "speaker", "n", *_BINS)
        ),
        _table(
            folder / COSTS,
            _cost_row,
            (*_STAGE, "seconds", "memory_bytes", "parameter_bytes", "other_bytes"),
        ),
        _table(folder / EPOCHS, _epoch_row, (*_STAGE, "epoch", "validation_ccc", "bent_share")),
        config,
        _predictions(folder, results),
        read_conditions(folder),
        tuple(name for name in (MEMORY, COSTS, EPOCHS, CONFIG, PREDICTIONS) if not (folder / name).exists()),
        read_estimates(folder),
    )


def _predictions(folder: Path, results: Sequence[Result]) -> Predictions | None:
    """Raises SerError if the predictions are of another run than the results."""
    if not (folder / PREDICTIONS).exists():
        return None
    found = Predictions(folder)
    there = {(run.strategy, run.sampler, run.memory_size, run.seed) for run in found.runs}
    ours = {(row.strategy, row.sampler, row.memory_size, row.seed) for row in results}
    if set(found.splits) != {row.corpus for row in results} or not ours <= there:
        raise SerError(
            f"{folder / PREDICTIONS} is of another run than {folder / RESULTS}: {_again(folder / PREDICTIONS)}."
        )
    return found


def _memory_row(row: Mapping[str, str]) -> MemoryRow:
    return MemoryRow(
        row["sampler"],
        int(row["memory_size"]),
        int(row["seed"]),
        row["corpus"],
        tuple(int(row[name]) for name in _BINS),
        row["speaker"],
        int(row["n"]),
        row.get("fold", ""),
    )


def _cost_row(row: Mapping[str, str]) -> CostRow:
    kept: dict[str, Any] = {
        name: int(row[name]) if row[name] else None
        for name in ("memory_bytes", "parameter_bytes", "other_bytes")
    }
    return CostRow(**_stage_of(row), seconds=_number(row["seconds"]), **kept, fold=row.get("fold", ""))


def _epoch_row(row: Mapping[str, str]) -> EpochRow:
    return EpochRow(
        **_stage_of(row),
        epoch=int(row["epoch"]),
        validation_ccc=float(row["validation_ccc"]),
        bent_share=_number(row["bent_share"]),
        fold=row.get("fold", ""),
    )


def _stage_of(row: Mapping[str, str]) -> dict[str, Any]:
    whole = {name: int(row[name]) for name in ("memory_size", "seed", "stage")}
    return {name: whole.get(name, row[name]) for name in _STAGE}


def _number(text: str) -> float | None:
    return float(text) if text else None


def _table(path: Path, build: Callable[[Mapping[str, str]], Row], columns: Sequence[str]) -> list[Row]:
    """The rows of a CSV table; none if there is no file. Raises SerError, with the line, if it is damaged."""
    line = 1
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            absent = [name for name in columns if name not in (reader.fieldnames or [])]
            if absent:
                raise SerError(f"{path} has no column {listing(absent)}: give a folder that ser-train wrote.")
            rows = []
            for row in reader:
                line = reader.line_num
                rows.append(build(row))
            return rows
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SerError(f"{path} cannot be opened: {error.strerror}.") from None
    except (UnicodeDecodeError, csv.Error, TypeError, ValueError) as error:
        raise SerError(f"{path} is damaged at line {line} ({error}): {_again(path)}.") from None


def _config(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SerError(f"{path} cannot be opened: {error.strerror}.") from None
    except ValueError as error:
        raise SerError(f"{path} is damaged ({error}): restore it from a copy, or remove it.") from None
    if not isinstance(content, dict):
        raise SerError(f"{path} has no settings of a run: restore it from a copy, or remove it.")
    return content


def _again(path: Path) -> str:
    return f"remove it, and run the same ser-train command with --output {path.parent} to have it again"
