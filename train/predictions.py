"""predictions.h5: every prediction behind the figures of a run. Plain HDF5; reading it needs no torch.

Attributes: format, format_version, dimensions and stages (JSON lists). `/runs` has a row per run: strategy, sampler,
memory_size, seed, fold. `/<corpus>/<split>` has id, speaker, gender (N,), truth (N, K) and for each stage k, from 1,
`stage-<k>` (runs, N, K): predictions after it, on the scale of the truth, [-1, 1], which they may leave. NaN stands for a
row that is not in the fold of its run, and for runs whose stage is not finished. The split of a corpus with folds has the
rows of all folds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from ser_memory.common.conventions import in_split_order
from ser_memory.common.errors import SerError, listing

PREDICTIONS = "predictions.h5"
FORMAT, FORMAT_VERSION = "ser-predictions", 1


@dataclass(frozen=True)
class PredictedRun:
    """A run in predictions.h5: one index along the first axis of its predictions."""

    strategy: str
    sampler: str
    memory_size: int
    seed: int
    fold: str = ""  # "" without folds


class Predictions:
    """A predictions.h5, opened for reading. Methods read one corpus and split at a time.

    All methods raise SerError if the file is damaged or has no such corpus, split or stage.
    """

    def __init__(self, path: Path) -> None:
        """`path` is the file, or the folder of a run. Raises SerError if it is no such file, or of another version."""
        self.path = path / PREDICTIONS if path.is_dir() else path
        if not self.path.exists():
            raise SerError(
                f"There is no {self.path}: give the folder of a run of ser-train that kept its predictions, or run its "
                "command again with --predictions all, which trains nothing."
            )
        with _opened(self.path) as file:
            if file.attrs.get("format") != FORMAT:
                raise SerError(
                    f"{self.path} holds no predictions of ser-train: remove it, and the report leaves them out."
                )
            version = file.attrs.get("format_version")
            if version != FORMAT_VERSION:
                raise SerError(
                    f"{self.path} has format version {version}, and this program reads version {FORMAT_VERSION}: "
                    "use the version of ser-memory that wrote it."
                )
            self.dimensions: tuple[str, ...] = tuple(json.loads(file.attrs["dimensions"]))  # columns
            self.stages: tuple[str, ...] = tuple(json.loads(file.attrs["stages"]))  # corpora in their order
            self.runs: tuple[PredictedRun, ...] = tuple(_predicted_run(row) for row in file["runs"][:])
            self.splits: Mapping[str, tuple[str, ...]] = {
                corpus: tuple(in_split_order(file[corpus])) for corpus in self.stages if corpus in file
            }

    def truth(self, corpus: str, split: str) -> npt.NDArray[np.float32]:
        """(N, K) labels in [-1, 1]; NaN where there is none."""
        return self._array(corpus, split, "truth")

    def after(self, corpus: str, split: str, stage: int) -> npt.NDArray[np.float32]:
        """(R, N, K) predictions after a stage, numbered from 1, of each of the R runs.

        NaN for utterances that are not in the fold of a run, and for runs that did not reach the stage.
        """
        return self._array(corpus, split, f"stage-{stage}")

    def predicted(self, corpus: str, split: str, stage: int, run: int) -> npt.NDArray[np.float32]:
        """(N, K) predictions of one run, by its place in `runs`, after a stage."""
        with _opened(self.path) as file:
            return np.asarray(_part(file, self.path, corpus, split, f"stage-{stage}")[run], dtype=np.float32)

    def texts(self, corpus: str, split: str, name: str) -> tuple[str, ...]:
        """N texts: `name` is id, speaker or gender."""
        with _opened(self.path) as file:
            return tuple(_part(file, self.path, corpus, split, name).asstr()[:].tolist())

    def _array(self, corpus: str, split: str, name: str) -> npt.NDArray[np.float32]:
        with _opened(self.path) as file:
            return np.asarray(_part(file, self.path, corpus, split, name)[:], dtype=np.float32)


def join_folds(runs: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
    """(N, K) predictions of the runs of one seed, of which `runs` (R, N, K) has one per fold.

    The folds of a corpus have no utterance in common and become one: figures are of all their predictions together. Runs
    that predict the same utterances, such as those of folds of another corpus, stay apart.
    """
    if (np.isfinite(runs).any(axis=2).sum(axis=0) > 1).any():
        return list(runs)
    return [np.fmax.reduce(runs, axis=0)]


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
