"""predictions.h5: every prediction behind the figures of a run. Plain HDF5; reading it needs no torch.

Attributes: format, format_version, dimensions and stages (JSON lists). `/runs` has a row per run: strategy, sampler,
memory_size, seed, fold. `/<corpus>/<split>` has id, speaker, gender (N,), truth (N, K) and for each stage k, from 1,
`stage-<k>` (runs, N, K): predictions after it, on the scale of the truth, [-1, 1], which they may leave. NaN stands for a
row that is not in the fold of its run, and for runs whose stage is not finished. The split of a corpus with folds has the
rows of all folds.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt

from ser_memory.common.cache import FeatureCache, cache_path
from ser_memory.common.conventions import in_split_order
from ser_memory.common.errors import SerError
from ser_memory.common.files import replacing
from ser_memory.common.hdf5 import error_number, said
from ser_memory.common.machine import cores, one_core_each
from ser_memory.common.protocols import NEEDED
from ser_memory.common.reporting import progress
from ser_memory.train.results import Outcomes
from ser_memory.train.settings import Experiment, Run

if TYPE_CHECKING:
    from ser_memory.train.corpora import Corpus, Source
    from ser_memory.train.samples import Samples
    from ser_memory.train.trainer import Trainer

PREDICTIONS = "predictions.h5"
FORMAT, FORMAT_VERSION = "ser-predictions", 1
WHICH = ("all", "test", "none")  # splits: all that are evaluated, test splits only, no file
_TEXTS = ("id", "speaker", "gender")
_FINGERPRINT = "fingerprint"  # an attribute: of everything that determined the content

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PredictedRun:
    """A row of `/runs`."""

    strategy: str
    sampler: str
    memory_size: int
    seed: int
    fold: str  # "" without folds


class Predictions:
    """A predictions.h5, opened for reading; arrays are read when asked for."""

    def __init__(self, path: Path) -> None:
        """`path` is the file, or the folder of a run. Raises SerError if it is no such file."""
        self.path = path / PREDICTIONS if path.is_dir() else path
        with _opened(self.path) as file:
            told = (file.attrs.get("format"), file.attrs.get("format_version"))
            if told != (FORMAT, FORMAT_VERSION):
                raise SerError(f"{self.path} is no file of predictions of this version of ser-train.")
            self.dimensions: list[str] = json.loads(file.attrs["dimensions"])
            self.stages: list[str] = json.loads(file.attrs["stages"])
            self.splits: dict[str, list[str]] = {
                name: in_split_order(file[name]) for name in self.stages if name in file
            }  # by corpus

    @cached_property
    def runs(self) -> list[PredictedRun]:
        """In the order of the first axis of every prediction."""
        with _opened(self.path) as file:
            return [
                PredictedRun(row[0].decode(), row[1].decode(), int(row[2]), int(row[3]), row[4].decode())
                for row in file["runs"][:]
            ]

    def texts(self, corpus: str, split: str, column: str) -> list[str]:
        """(N,) the column id, speaker or gender."""
        with _opened(self.path) as file:
            return list(file[corpus][split][column].asstr()[:])

    def truth(self, corpus: str, split: str) -> Floats:
        """(N, K) labels in [-1, 1]."""
        with _opened(self.path) as file:
            return np.asarray(file[corpus][split]["truth"][:])

    def predicted(self, corpus: str, split: str, stage: int, run: int) -> Floats:
        """(N, K) predictions of one run, by its place in `runs`, after a stage (from 1)."""
        with _opened(self.path) as file:
            return np.asarray(file[corpus][split][f"stage-{stage}"][run])


@contextmanager
def _opened(path: Path) -> Iterator[h5py.File]:
    """Raises SerError in one sentence if the file cannot be opened, or a part of it cannot be read."""
    if not path.exists():
        raise SerError(
            f"There is no {path}: give the folder of a run of ser-train that kept its predictions, or run its command "
            "again with --predictions all, which trains nothing."
        )
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError, KeyError) as error:  # h5py raises the others for damage inside the file
        raise SerError(
            f"{path} cannot be read as predictions of ser-train ({said(error)}): run the command of that run again, "
            "which writes it again and trains nothing."
        ) from error


@dataclass(frozen=True)
class _Part:
    """One split of one corpus, with the rows of all folds."""

    corpus: str
    split: str
    rows: npt.NDArray[np.int64]  # (N,) of the cache, rising
    folds: Mapping[str, Samples]  # by fold; only "" without folds

    @property
    def place(self) -> str:
        return f"{self.corpus}/{self.split}"

    def places(self, fold: str) -> npt.NDArray[np.int64]:
        """Where the samples of a fold are among the rows."""
        return np.searchsorted(self.rows, self.folds[fold].rows.cpu().numpy())


def write_predictions(path: Path, which: str, trainer: Trainer, source: Source, outcomes: Outcomes) -> None:
    """Write the predictions of all stages that are finished, recomputed from their parameters; or nothing.

    `which` is one of WHICH. A file that has them already stays. Raises SerError if the disk refuses.
    """
    if which == "none":
        path.unlink(missing_ok=True)
        return
    experiment = trainer.experiment
    parts = [part for corpus in trainer.corpora for part in _parts(corpus, which == "test")]
    finished = [stage for stage in _stages(experiment) if stage in outcomes]
    told = [[trainer.keys.of(*stage), trainer.keys.evaluated(stage[0])] for stage in finished]
    fingerprint = hashlib.sha256(json.dumps([which, told, _runs(experiment)]).encode()).hexdigest()
    if _fingerprint_of(path) == fingerprint:
        return
    size = sum(4 * part.rows.size * len(trainer.corpora[0].dimensions) for part in parts)
    _refuse_full(path, size * len(experiment.runs) * len(experiment.stages))
    try:
        with replacing(path) as partial, h5py.File(partial, "w", libver="v110") as file:
            file.attrs["dimensions"] = json.dumps(trainer.corpora[0].dimensions)
            file.attrs["stages"] = json.dumps(experiment.stages)
            _prepare(file, experiment, parts, source, trainer)
            with progress("predictions", len(finished), "stages") as advance:
                for run, number in finished:
                    _write_stage(file, experiment, parts, run, number, trainer.predictor(run, number))
                    advance(1)
            file.attrs[_FINGERPRINT] = fingerprint
            file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
    except (OSError, RuntimeError) as error:  # HDF5 raises the second when the disk fills up at its close
        if isinstance(error, RuntimeError) and error_number(error) is None:
            raise  # no report of the system
        raise SerError(
            f"{path} could not be written ({said(error)}). All else of the run is kept: solve that, or use "
            "--predictions none."
        ) from error


def _parts(corpus: Corpus, tests_only: bool) -> Iterator[_Part]:
    """The evaluated splits of a corpus."""
    for split in in_split_order(split for fold in corpus.each_fold for split in fold.evaluated):
        if not (tests_only and split in NEEDED):
            folds = {fold.fold: fold.splits[split] for fold in corpus.each_fold if split in fold.splits}
            rows = np.unique(np.concatenate([samples.rows.cpu().numpy() for samples in folds.values()]))
            yield _Part(corpus.name, split, rows, folds)


def _stages(experiment: Experiment) -> Iterator[tuple[Run, int]]:
    for run, numbers in experiment.owners.items():
        for number in numbers:
            yield run, number


def _runs(experiment: Experiment) -> list[tuple[Any, ...]]:
    return [(*astuple(run.variant), run.seed, run.fold) for run in experiment.runs if run.variant is not None]


def _prepare(
    file: h5py.File, experiment: Experiment, parts: Sequence[_Part], source: Source, trainer: Trainer
) -> None:
    """Everything but the predictions; room for these, full of NaN."""
    text = h5py.string_dtype()
    kinds = [("strategy", text), ("sampler", text), ("memory_size", "i8"), ("seed", "i8"), ("fold", text)]
    file.create_dataset("runs", data=np.array(_runs(experiment), dtype=kinds))
    versions = dict(zip(source.names, source.versions, strict=True))
    for corpus in trainer.corpora:
        cache = FeatureCache(cache_path(source.folder, corpus.name), versions[corpus.name])
        columns = {name: cache.read(name) for name in _TEXTS}
        for part in (part for part in parts if part.corpus == corpus.name):
            group = file.create_group(part.place)
            for name, values in columns.items():
                group.create_dataset(name, data=values[part.rows], dtype=text)
            truth = np.full((len(part.rows), len(corpus.dimensions)), np.nan, np.float32)
            for fold, samples in part.folds.items():
                truth[part.places(fold)] = samples.targets.cpu().numpy()
            group.create_dataset("truth", data=truth)
            for number in range(1, len(experiment.stages) + 1):
                shape = (len(experiment.runs), *truth.shape)
                group.create_dataset(f"stage-{number}", shape, np.float32, fillvalue=np.nan)


def _write_stage(
    file: h5py.File, experiment: Experiment, parts: Sequence[_Part], owner: Run, number: int,
    predict: Callable[[Samples], Floats],
) -> None:  # fmt: skip
    """The predictions of one trained stage, for all runs to which it belongs."""
    whose = [
        (place, run) for place, run in enumerate(experiment.runs) if experiment.owner(run, number) == owner
    ]
    folds = {run.fold for _, run in whose}
    wanted = [
        (part, fold, samples)
        for part in parts
        for fold, samples in part.folds.items()
        if fold in folds or not fold
    ]
    # A thread for each core: figures were measured on one core each, so that predictions are those of the figures.
    with one_core_each(), ThreadPoolExecutor(cores()) as pool:
        made = pool.map(predict, [samples for _, _, samples in wanted])
        for (part, fold, _), prediction in zip(wanted, made, strict=True):
            whole = np.full((len(part.rows), prediction.shape[1]), np.nan, np.float32)
            whole[part.places(fold)] = prediction
            for place, run in whose:
                if fold in ("", run.fold):
                    file[part.place][f"stage-{number}"][place] = whole


def _fingerprint_of(path: Path) -> str | None:
    """What the file at `path` was made from; None if there is none, or it is damaged."""
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs[_FINGERPRINT]) if file.attrs.get("format") == FORMAT else None
    except (OSError, KeyError):
        return None


def _refuse_full(path: Path, size: int) -> None:
    """Raise SerError now if the disk has no room: when it fills up under HDF5's hands, HDF5 may end the process."""
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise SerError(
            f"{path} needs {size / 1e6:,.0f} MB and its disk has {free / 1e6:,.0f} MB left. All else of the run is kept: "
            "make room, or use --predictions test or none."
        )
