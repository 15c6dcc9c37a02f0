"""The feature cache: the one file that both stages share.

An HDF5 file, one row per utterance in the corpus reader's order, with flat data sets that plain h5py reads.
It is written beside its place and renamed, so that a file under its final name is whole.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from common.errors import SerError, listing

FORMAT = "ser-feature-cache"
FORMAT_VERSION = 1
SUFFIX = ".h5"

TEXT_COLUMNS = ("id", "speaker", "gender", "split", "transcript")  # (N,) UTF-8
NUMBER_COLUMNS = ("duration", "activation", "valence", "dominance")  # (N,) float32
EMBEDDINGS = ("acoustic", "text")  # (N, D) and (N, E) float32
COLUMNS = TEXT_COLUMNS + NUMBER_COLUMNS + EMBEDDINGS
ENCODER_ATTRIBUTES = (
    "acoustic_encoder", "acoustic_revision", "acoustic_pooling",
    "text_encoder", "text_revision", "text_pooling",
)  # fmt: skip

# Why an utterance of the release has no row.
REASONS = ("too short", "too long", "missing", "unreadable", "not finite", "no label", "no transcript")


@dataclass(frozen=True)
class CacheInfo:
    """The attributes of a cache's root: where its rows come from and what determined them."""

    corpus: str
    release: str
    scale_min: float  # of activation, valence and dominance
    scale_max: float
    acoustic_encoder: str
    acoustic_revision: str
    acoustic_pooling: str
    text_encoder: str
    text_revision: str
    text_pooling: str
    transcriber: str
    min_duration: float  # seconds
    max_duration: float  # seconds
    sampling_rate: int  # Hz
    created_by: str
    fingerprint: str  # of everything that determines the content
    dropped: dict[str, list[str]]  # reason -> ids without a row


class FeatureCache:
    """A cache opened for reading.

    Opening checks that the file is a whole cache of this format version and raises SerError, in one
    sentence, if it is not. Columns are read from disk when asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _opened(path) as file:
            self.info = _read_info(file, path)
            self.shapes = _check_columns(file, path)

    def __len__(self) -> int:
        return self.shapes["id"][0]

    def read(self, column: str) -> npt.NDArray[Any]:
        """One column, whole: text columns as (N,) of str objects, the others as float32."""
        with _opened(self.path) as file:
            data = file[column]
            values = data.asstr()[:] if column in TEXT_COLUMNS else data[:]
        return np.asarray(values)

    def describe(self) -> dict[str, int]:
        """Rows per split, in the order train, validation, test, test2, ..."""
        names, counts = np.unique(self.read("split"), return_counts=True)
        order = sorted(
            zip(names, counts, strict=True),
            key=lambda item: (item[0] != "train", "val" not in item[0], item[0]),
        )
        return {str(name): int(count) for name, count in order}


def write_cache(path: Path, info: CacheInfo, columns: Mapping[str, npt.ArrayLike]) -> None:
    """Write a whole cache to `path`, or nothing.

    `columns` has every name of COLUMNS, all with the same number of rows. Equal arguments give equal bytes.
    Raises SerError for columns that are missing, of unequal length, not finite (dominance may be NaN) or
    whose ids repeat, and when the disk refuses; what stood at `path` before is then untouched.
    """
    arrays = _checked(columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".partial")
    try:
        with h5py.File(aside, "w", libver="v110") as file:
            for name in COLUMNS:
                file.create_dataset(name, data=arrays[name])
            for key, value in asdict(info).items():
                file.attrs[key] = json.dumps(value, sort_keys=True) if key == "dropped" else value
            # The two attributes that make it a cache come last: a file without them was cut off.
            file.attrs["format"] = FORMAT
            file.attrs["format_version"] = FORMAT_VERSION
        _flush_to_disk(aside)
        aside.replace(path)
        _flush_to_disk(path.parent)
    except (OSError, RuntimeError) as error:  # HDF5 raises the second when the disk fills up at its close
        raise SerError(
            f"The cache {path} could not be written ({_os_reason(error)}): it needs about "
            f"{sum(array.nbytes for array in arrays.values()) / 1e6:,.0f} MB of free space."
        ) from error
    finally:
        aside.unlink(missing_ok=True)


def cache_path(folder: Path, corpus: str) -> Path:
    """<folder>/<corpus>.h5"""
    return folder / f"{corpus}{SUFFIX}"


def _checked(columns: Mapping[str, npt.ArrayLike]) -> dict[str, npt.NDArray[Any]]:
    absent = [name for name in COLUMNS if name not in columns]
    if absent:
        raise SerError(f"A cache needs the columns {listing(COLUMNS)}; missing: {listing(absent)}.")
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name in COLUMNS:
        if name in TEXT_COLUMNS:
            arrays[name] = np.asarray(columns[name], dtype=h5py.string_dtype())
        else:
            arrays[name] = np.ascontiguousarray(columns[name], dtype=np.float32)
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise SerError(f"The columns of a cache must be of equal length, not {lengths}.")
    ids = arrays["id"]
    if len(set(ids)) != len(ids):
        raise SerError("The ids of a cache must be unique.")
    for name in ("duration", "activation", "valence", *EMBEDDINGS):
        finite = np.isfinite(arrays[name]).reshape(len(ids), -1).all(axis=1)
        if not finite.all():
            raise SerError(f"The {name} of {ids[int(np.argmin(finite))]} is not finite.")
    return arrays


def _opened(path: Path) -> h5py.File:
    if not path.exists():
        raise SerError(f"There is no cache at {path}: make it with ser-extract --corpus {path.stem}.")
    try:
        return h5py.File(path, "r")
    except OSError:
        raise SerError(
            f"{path} is not a feature cache, or was cut off: remove it and run ser-extract --corpus {path.stem}."
        ) from None


def _read_info(file: h5py.File, path: Path) -> CacheInfo:
    again = f"run ser-extract --corpus {path.stem} --overwrite"
    if file.attrs.get("format") != FORMAT:
        raise SerError(f"{path} is an HDF5 file but not a feature cache: give a file that ser-extract wrote.")
    version = file.attrs.get("format_version")
    if version != FORMAT_VERSION:
        raise SerError(
            f"{path} has format version {version}, and this program reads {FORMAT_VERSION}: {again}."
        )
    absent = [item.name for item in fields(CacheInfo) if item.name not in file.attrs]
    if absent:
        raise SerError(f"{path} is incomplete, it lacks the attributes {listing(absent)}: {again}.")
    values = {item.name: file.attrs[item.name] for item in fields(CacheInfo)}
    try:
        values["dropped"] = json.loads(values["dropped"])
    except (TypeError, ValueError):
        raise SerError(f"{path} is damaged, its attribute dropped is not JSON: {again}.") from None
    for key in ("scale_min", "scale_max", "min_duration", "max_duration"):
        values[key] = float(values[key])
    values["sampling_rate"] = int(values["sampling_rate"])
    return CacheInfo(**values)


def _check_columns(file: h5py.File, path: Path) -> dict[str, tuple[int, ...]]:
    again = f"run ser-extract --corpus {path.stem} --overwrite"
    absent = [name for name in COLUMNS if not isinstance(file.get(name), h5py.Dataset)]
    if absent:
        raise SerError(f"{path} is incomplete, it lacks the data sets {listing(absent)}: {again}.")
    shapes: dict[str, tuple[int, ...]] = {name: file[name].shape for name in COLUMNS}
    wrong = [name for name, shape in shapes.items() if len(shape) != (2 if name in EMBEDDINGS else 1)]
    if wrong or len({shape[0] for shape in shapes.values()}) != 1:
        raise SerError(f"{path} is incomplete, its data sets do not fit together ({shapes}): {again}.")
    if shapes["id"][0] == 0:
        raise SerError(f"{path} holds no utterance: {again}.")
    return shapes


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _os_reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
