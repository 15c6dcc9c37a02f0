"""Reads the folder of a run for a report. Arrays of predictions stay in their file until somebody asks for them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
import numpy.typing as npt

from ser_memory.common.conventions import DIMENSIONS, in_split_order
from ser_memory.common.errors import SerError, listing
from ser_memory.train.results import MEMORY, RESULTS, STUDY, Result, read_results

CONFIG, COSTS, EPOCHS, PREDICTIONS = "config.json", "costs.csv", "epochs.csv", "predictions.h5"
FORMAT, FORMAT_VERSION = "ser-predictions", 1

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
class PredictedRun:
    """A run in predictions.h5: one index along the first axis of its predictions."""

    strategy: str
    sampler: str
    memory_size: int
    seed: int
    fold: str = ""


@dataclass(frozen=True)
class Predictions:
    """The predictions of a run folder. Methods read one corpus and split at a time.

    All methods raise SerError if the file is damaged or has no such corpus, split or stage.
    """

    path: Path
    dimensions: tuple[str, ...]  # columns of truth and predictions
    stages: tuple[str, ...]  # corpora in the order of training
    runs: tuple[PredictedRun, ...]
    splits: Mapping[str, tuple[str, ...]]  # of each corpus

    def truth(self, corpus: str, split: str) -> npt.NDArray[np.float32]:
        """(N, K) labels in [-1, 1]; NaN where there is none."""
        return self._array(corpus, split, "truth")

    def after(self, corpus: str, split: str, stage: int) -> npt.NDArray[np.float32]:
        """(R, N, K) predictions after a stage, numbered from 1, of each of the R runs.

        NaN for utterances that are not in the fold of a run, and for runs that did not reach the stage.
        """
        return self._array(corpus, split, f"stage-{stage}")

    def texts(self, corpus: str, split: str, name: str) -> tuple[str, ...]:
        """N texts: `name` is id, speaker or gender."""
        with _opened(self.path) as file:
            return tuple(_part(file, self.path, corpus, split, name).asstr()[:].tolist())

    def _array(self, corpus: str, split: str, name: str) -> npt.NDArray[np.float32]:
        with _opened(self.path) as file:
            return np.asarray(_part(file, self.path, corpus, split, name)[:], dtype=np.float32)


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
    missing: tuple[str, ...] = ()  # names of files that this folder does not have

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
    if not (folder / RESULTS).exists():
        raise SerError(
            f"{folder} has no {RESULTS}, so it is not the folder of a run: give one that ser-train wrote."
        )
    return RunData(
        folder,
        read_results(folder),
        _table(
            folder / MEMORY, _memory_row, ("sampler", "memory_size", "seed", "corpus", "speaker", "n", *_BINS)
        ),
        _table(
            folder / COSTS,
            _cost_row,
            (*_STAGE, "seconds", "memory_bytes", "parameter_bytes", "other_bytes"),
        ),
        _table(folder / EPOCHS, _epoch_row, (*_STAGE, "epoch", "validation_ccc", "bent_share")),
        _config(folder / CONFIG),
        _predictions(folder / PREDICTIONS),
        tuple(name for name in (MEMORY, COSTS, EPOCHS, CONFIG, PREDICTIONS) if not (folder / name).exists()),
    )


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


def _predictions(path: Path) -> Predictions | None:
    if not path.exists():
        return None
    with _opened(path) as file:
        if file.attrs.get("format") != FORMAT:
            raise SerError(
                f"{path} holds no predictions of ser-train: remove it, and the report leaves them out."
            )
        version = file.attrs.get("format_version")
        if version != FORMAT_VERSION:
            raise SerError(
                f"{path} has format version {version}, and this program reads version {FORMAT_VERSION}: "
                "use the version of ser-memory that wrote it."
            )
        stages = tuple(json.loads(file.attrs["stages"]))
        return Predictions(
            path,
            tuple(json.loads(file.attrs["dimensions"])),
            stages,
            tuple(_predicted_run(row) for row in file["runs"][:]),
            {corpus: tuple(in_split_order(file[corpus])) for corpus in stages if corpus in file},
        )


def _predicted_run(row: np.void) -> PredictedRun:
    return PredictedRun(
        row["strategy"].decode(),
        row["sampler"].decode(),
        int(row["memory_size"]),
        int(row["seed"]),
        row["fold"].decode(),
    )


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError) as error:
        # h5py raises all of these for damage inside a file.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise SerError(f"{path} cannot be read ({reason}): {_again(path)}.") from error


def _part(file: h5py.File, path: Path, corpus: str, split: str, name: str) -> h5py.Dataset:
    place = f"{corpus}/{split}/{name}"
    if place not in file:
        raise SerError(f"{path} has no {place}: it has {listing(_places(file))}.")
    return file[place]


def _places(file: h5py.File) -> list[str]:
    return [
        f"{corpus}/{split}/{name}"
        for corpus, group in file.items()
        if isinstance(group, h5py.Group)
        for split in group
        for name in group[split]
    ]


def _again(path: Path) -> str:
    return f"remove it, and run the same ser-train command with --output {path.parent} to have it again"
