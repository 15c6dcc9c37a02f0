"""Writes predictions.h5, recomputed from the parameters of finished stages; see predictions.py for its layout."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import numpy.typing as npt

from ser_memory.common.cache import FeatureCache
from ser_memory.common.conventions import in_split_order
from ser_memory.common.errors import SerError
from ser_memory.common.files import replacing
from ser_memory.common.hdf5 import error_number, said
from ser_memory.common.machine import cores, one_core_each
from ser_memory.common.protocols import NEEDED
from ser_memory.common.reporting import progress
from ser_memory.train.plan import Experiment
from ser_memory.train.predictions import FORMAT, FORMAT_VERSION
from ser_memory.train.results import Outcomes
from ser_memory.train.runs import Run

if TYPE_CHECKING:
    from ser_memory.train.corpora import Corpus, Source
    from ser_memory.train.samples import Samples
    from ser_memory.train.trainer import Trainer

WHICH = ("all", "test", "none")  # splits: all that are evaluated, test splits only, no file
_TEXTS = ("id", "speaker", "gender")
_FINGERPRINT = "fingerprint"  # an attribute: of everything that determined the content

Floats = npt.NDArray[np.float32]


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
    if experiment.begun:
        yield from dict.fromkeys(
            (experiment.owner(run, experiment.begun), experiment.begun) for run in experiment.runs
        )
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
        cache = FeatureCache(source.path(corpus.name), versions[corpus.name])
        columns = {name: cache.read(name) for name in _TEXTS}
        for part in (part for part in parts if part.corpus == corpus.name):
            group = file.create_group(part.place)
            for name, values in columns.items():
                group.create_dataset(name, data=values[part.rows], dtype=text)
            truth = np.full((len(part.rows), len(corpus.dimensions)), np.nan, np.float32)
            for fold, samples in part.folds.items():
                truth[part.places(fold)] = samples.targets.cpu().numpy()
            group.create_dataset("truth", data=truth)
            for number in experiment.measured:
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
