"""The feature cache: the one file that both stages share.

An HDF5 file, one row per utterance in the corpus reader's order, with flat data sets that plain h5py reads.
It is written beside its place and renamed, so that a file under its final name is whole.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, Self

import h5py
import numpy as np
import numpy.typing as npt

from ser_memory.common.conventions import NO_SPLIT, RATED, in_split_order
from ser_memory.common.errors import SerError, listing
from ser_memory.common.files import replacing
from ser_memory.common.hdf5 import NO_LOCKS, error_number, opened, said, why_not_opened
from ser_memory.common.manifests import extraction_of
from ser_memory.common.protocols import SPLIT_NAME

FORMAT = "ser-feature-cache"
FORMAT_VERSION = 1
SUFFIX = ".h5"
# How the attribute transcriber begins where no texts are known, and one row stands for all of them; its digest follows.
NEUTRAL = "none: neutral text "

TEXT_COLUMNS = ("id", "speaker", "gender", "split", "transcript")  # (N,) UTF-8
NUMBER_COLUMNS = ("duration", *RATED)  # (N,) float32
EMBEDDINGS = ("acoustic", "text")  # (N, D), or (N, L, D) with several layers, and (N, E) float32
COLUMNS = TEXT_COLUMNS + NUMBER_COLUMNS + EMBEDDINGS
# (N,) UTF-8, of which older files of this format have none: what split protocols need, "" where it is not known, and
# what identifies the content of the recording.
LATER_COLUMNS = ("session", "release_split", "recording")
_TEXTS = TEXT_COLUMNS + LATER_COLUMNS
_ALL = COLUMNS + LATER_COLUMNS  # in the order in which they are written
ENCODER_ATTRIBUTES = (
    "acoustic_encoder", "acoustic_revision", "acoustic_pooling", "acoustic_layers",
    "text_encoder", "text_revision", "text_pooling",
)  # fmt: skip

_JSON = ("dropped", "protocols", "refused", "silent", "compared")  # attributes

# Why an utterance of the release has no row.
REASONS = ("too short", "too long", "missing", "unreadable", "not finite", "no label", "no transcript")


# What a value can be that it should not, for a message; dominance may be NaN.
_WRONG = {
    "split": "not train, validation, test, test2 and so on",
    "duration": "not between min_duration and max_duration",
    **dict.fromkeys(RATED, "not finite or outside the scale"),
    **dict.fromkeys(EMBEDDINGS, "not finite"),
}
_BLOCK = 8192  # rows looked at together
_BLOCK_BYTES = 1 << 25  # or so many of them
_ROUNDING = 1e-5  # of float32, for a label at the end of the scale
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # errors of a full disk
# Attributes that are no part of CacheInfo: the digest of all columns, and that of older files, of COLUMNS alone.
_DIGEST, _OLD_DIGEST = "digest", "content_digest"


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
    acoustic_layers: str  # "last", or the numbers along the layer axis, such as "7,9,11"
    text_encoder: str
    text_revision: str
    text_pooling: str
    transcriber: str
    min_duration: float  # seconds
    max_duration: float  # seconds
    sampling_rate: int  # Hz
    precision: str  # float32 or bfloat16, in which the encoders computed
    created_by: str
    fingerprint: str  # of everything that determines the content
    limit: int  # the most utterances a trial was allowed, 0 for no limit
    dropped: dict[str, list[str]]  # reason -> ids without a row
    # What follows is not in older files of this format.
    protocol: str = ""  # the name of the one that gave the splits
    protocols: dict[str, Any] = field(default_factory=dict)  # all of the manifest, as it writes them
    refused: dict[str, str] = field(default_factory=dict)  # recording -> reason, of those that have no row
    silent: list[str] = field(default_factory=list)  # recordings without any sound
    # The transcripts beside those of another cache with the same recordings: reference (its transcriber), and
    # word_error_rate and words of the reference, over the utterances that both have; {} if there is no such cache.
    compared: dict[str, Any] = field(default_factory=dict)
    # In which the test recordings were encoded, such as noise:10; "" for all recordings as they are.
    condition: str = ""

    @property
    def has_texts(self) -> bool:
        """Whether the text rows are of texts, and not one neutral row in place of all."""
        return not self.transcriber.startswith(NEUTRAL)


class Version(NamedTuple):
    """Tells whether a file is still the same: another program may replace it between two readings."""

    device: int
    inode: int
    size: int
    changed: int  # nanoseconds

    @classmethod
    def of(cls, handle: int) -> Self:
        """The version of an open file."""
        facts = os.fstat(handle)
        return cls(facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)


class FeatureCache:
    """A cache opened for reading.

    Opening checks that the file is a whole cache of this format version and raises SerError, in one
    sentence, if it is not. Columns are read from disk when asked for; every reading raises SerError if the file is not
    the one that was opened first.
    """

    def __init__(self, path: Path, version: Version | None = None) -> None:
        """`version` is that of an earlier reading; None accepts any."""
        self.path = path
        self.version = version
        with self._opened() as file:
            self.info = _read_info(file, path)
            self.shapes = _check_columns(file, path)

    def __len__(self) -> int:
        return self.shapes["id"][0]

    def has(self, column: str) -> bool:
        """Whether a column is there: one of LATER_COLUMNS may not be."""
        return column in self.shapes

    def read(self, column: str) -> npt.NDArray[Any]:
        """One column, whole: text columns as (N,) of str objects, the others as float32."""
        with self._opened() as file:
            data = file[column]
            try:
                values = data.asstr()[:] if column in _TEXTS else data[:]
            except UnicodeDecodeError:
                raise SerError(
                    f"{self.path} is damaged, its data set {column} is not UTF-8: "
                    f"run {extraction_of(self.path.stem)} --overwrite."
                ) from None
        return np.asarray(values)

    def mapped(self, column: str) -> npt.NDArray[np.float32]:
        """An embedding column as a view of the file, which is read when looked at and shared by processes.

        Writing to it changes this process's copy alone. A column that is not one piece of float32 in the file
        (ours always is, another program's may be compressed) is read whole instead.
        """
        with self._opened() as file:
            data = file[column]
            if data.chunks is not None or data.dtype != np.float32 or data.id.get_offset() is None:
                return np.asarray(data[:], dtype=np.float32)
            shape, offset = data.shape, data.id.get_offset()
        try:
            with self.path.open("rb") as raw:
                self._refuse_another(raw.fileno())
                return np.memmap(raw, np.float32, mode="c", offset=offset, shape=shape)
        except OSError as error:
            raise SerError(why_not_opened(self.path, error)) from error

    @contextmanager
    def _opened(self) -> Iterator[h5py.File]:
        with opened(self.path) as file:
            self._refuse_another(file.id.get_vfd_handle())
            yield file

    def _refuse_another(self, handle: int) -> None:
        """Raise SerError if an open file is not the one that was read before."""
        version = Version.of(handle)
        if self.version is None:
            self.version = version
        if version != self.version:
            raise SerError(
                f"{self.path} was replaced or changed while it was being used: run the same command again, which "
                "reads the new file from the beginning."
            )

    def validate(self) -> None:
        """Read everything and check what opening does not: each value on its own, unique ids, the number of layers.

        Raises SerError naming the column and the first utterance that is wrong.
        """
        again = f"run {extraction_of(self.path.stem)} --overwrite"
        ids = self.read("id")
        repeated = [name for name, count in Counter(ids).items() if count > 1]
        if repeated:
            raise SerError(f"{self.path} is damaged, it has the id {repeated[0]!r} more than once.")
        layers = self.info.acoustic_layers
        expected = () if layers == "last" else (len(layers.split(",")),)
        if self.shapes["acoustic"][1:-1] != expected:
            raise SerError(
                f"{self.path} is damaged, it says that its layers are {layers}, and its data set acoustic has the "
                f"shape {self.shapes['acoustic']}: {again}."
            )
        texts = {
            name: self.read(name) for name in _TEXTS if self.has(name)
        }  # which refuses what is not UTF-8
        with self._opened() as file:
            for name, wrong in _WRONG.items():
                for start in range(0, len(ids), _BLOCK):
                    values = texts.get(name, file[name])[start : start + _BLOCK]
                    right = self._are_right(name, values)
                    if not right.all():
                        first = ids[start + int(np.argmin(right))]
                        raise SerError(f"{self.path} is damaged, the {name} of {first} is {wrong}: {again}.")

    def _are_right(self, column: str, values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """(n,) whether each row of a column is what it should be."""
        if column == "split":
            return np.array([SPLIT_NAME.fullmatch(name) is not None or name == NO_SPLIT for name in values])
        right = np.isfinite(values)
        if column == "duration":
            low, high = self.info.min_duration, self.info.max_duration
            right &= (values > 0) & (values >= low * (1 - _ROUNDING)) & (values <= high * (1 + _ROUNDING))
        if column in RATED:
            low, high = self.info.scale_min - _ROUNDING, self.info.scale_max + _ROUNDING
            right &= (values >= low) & (values <= high)
        if column == "dominance":
            right |= np.isnan(values)
        return np.asarray(right.reshape(len(values), -1).all(axis=1))

    def refuse_altered(self) -> bool:
        """Raise SerError if a value is not the one that was written; False where the file is too old to tell."""
        with self._opened() as file:
            told = file.attrs.get(_DIGEST, file.attrs.get(_OLD_DIGEST))
            if told is not None and told != _digest(file, COLUMNS if _DIGEST not in file.attrs else _ALL):
                raise SerError(
                    f"{self.path} is damaged, its values are not those that were written: "
                    f"run {extraction_of(self.path.stem)} --overwrite."
                )
        return told is not None

    def describe(self) -> dict[str, int]:
        """Rows per split, in the order train, validation, test, test2, ..."""
        counts = Counter(self.read("split"))
        return {split: counts[split] for split in in_split_order(counts)}


@dataclass(frozen=True)
class Pieces:
    """A column that need not fit into memory."""

    shape: tuple[int, ...]
    blocks: Iterable[
        tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]
    ]  # different rows, and their values


def write_cache(path: Path, info: CacheInfo, columns: Mapping[str, npt.ArrayLike | Pieces]) -> None:
    """Write a whole cache to `path`, or nothing.

    `columns` has every name of COLUMNS, and those of LATER_COLUMNS that are known, all with the same number of rows;
    EMBEDDINGS may come in Pieces.
    Equal content gives equal bytes. Raises SerError for columns that are missing, of unequal length, not
    finite (dominance may be NaN) or whose ids repeat, and when the disk refuses; what stood at `path` before
    is then untouched.
    """
    pieces = {name: column for name, column in columns.items() if isinstance(column, Pieces)}
    arrays = _checked(columns)
    size = _size(arrays, pieces)
    try:
        with replacing(path) as partial:
            _reserve(partial, size)
            with h5py.File(partial, "w", libver="v110") as file:
                for name in _ALL:
                    if name in pieces:
                        _write_pieces(file, name, pieces[name], arrays["id"])
                    elif name in arrays:
                        file.create_dataset(name, data=arrays[name])
                for key, value in asdict(info).items():
                    file.attrs[key] = (
                        json.dumps(value, sort_keys=True, default=str) if key in _JSON else value
                    )
                file.attrs[_DIGEST] = _digest(file, _ALL)
                # The two attributes that make it a cache come last: a file without them was cut off.
                file.attrs["format"] = FORMAT
                file.attrs["format_version"] = FORMAT_VERSION
    except (OSError, RuntimeError) as error:  # HDF5 raises the second when the disk fills up at its close
        raise SerError(_why_not_written(path, error, size)) from error


def _why_not_written(path: Path, error: Exception, size: int) -> str:
    number, sentence = error_number(error), f"The cache {path} could not be written ({said(error)})"
    if "lock file" in str(error):
        return f"{sentence}, because its disk gives no locks: {NO_LOCKS}."
    if number is None or number in _FULL:
        return f"{sentence}: it needs about {math.ceil(size / 1e6):,} MB of free space."
    return f"{sentence}: solve that, or give another --cache; what was there before is untouched."


def cache_path(folder: Path, corpus: str) -> Path:
    """<folder>/<corpus>.h5"""
    return folder / f"{corpus}{SUFFIX}"


def _write_pieces(file: h5py.File, name: str, pieces: Pieces, ids: npt.NDArray[Any]) -> None:
    data = file.create_dataset(name, shape=pieces.shape, dtype=np.float32)
    written = np.zeros(len(ids), bool)
    for rows, values in pieces.blocks:
        if not len(rows):
            continue
        _refuse_not_finite(name, values, ids[rows])
        rising = np.argsort(rows)  # the only order HDF5 takes
        data[rows[rising]] = values[rising]
        written[rows] = True
    if not written.all():
        raise SerError(f"The {name} of {ids[int(np.argmin(written))]} was never computed.")


def _digest(file: h5py.File, columns: Iterable[str]) -> str:
    """SHA-256 of all rows of the columns that the file has, as they lie in it, column by column."""
    made = hashlib.sha256()
    for name in (name for name in columns if name in file):
        data = file[name]
        made.update(f"{name} {data.shape} {data.dtype}".encode())
        width = 4 * int(np.prod(data.shape[1:]))
        step = max(1, min(_BLOCK, _BLOCK_BYTES // max(1, width)))
        for start in range(0, len(data), step):
            rows = data[start : start + step]
            made.update(b"\0".join([*rows, b""]) if name in _TEXTS else rows.tobytes())
    return made.hexdigest()


def _size(arrays: Mapping[str, npt.NDArray[Any]], pieces: Mapping[str, Pieces]) -> int:
    """Bytes of the file to be written, rather too many than too few."""
    numbers = sum(array.nbytes for array in arrays.values() if array.dtype != object)
    numbers += sum(4 * int(np.prod(column.shape)) for column in pieces.values())
    # HDF5 keeps a reference and a header with every string.
    texts = sum(len(str(text).encode()) + 48 for name in _TEXTS for text in arrays.get(name, ()))
    return numbers + texts + (1 << 16)


def _reserve(path: Path, size: int) -> None:
    """Fail now if the disk has no room: when it fills up under HDF5's hands, HDF5 may take the process down."""
    with path.open("wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        elif shutil.disk_usage(path.parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _refuse_not_finite(name: str, values: npt.NDArray[Any], ids: npt.NDArray[Any]) -> None:
    finite = np.isfinite(values).reshape(len(ids), -1).all(axis=1)
    if not finite.all():
        raise SerError(f"The {name} of {ids[int(np.argmin(finite))]} is not finite.")


def _checked(columns: Mapping[str, npt.ArrayLike | Pieces]) -> dict[str, npt.NDArray[Any]]:
    absent = [name for name in COLUMNS if name not in columns]
    if absent:
        raise SerError(f"A cache needs the columns {listing(COLUMNS)}; missing: {listing(absent)}.")
    arrays: dict[str, npt.NDArray[Any]] = {}
    lengths: dict[str, int] = {}
    for name in (name for name in _ALL if name in columns):
        column = columns[name]
        if isinstance(column, Pieces):
            lengths[name] = column.shape[0]
            continue
        dtype = h5py.string_dtype() if name in _TEXTS else np.float32
        arrays[name] = np.ascontiguousarray(column, dtype=dtype)
        lengths[name] = len(arrays[name])
    if len(set(lengths.values())) != 1:
        raise SerError(f"The columns of a cache must be of equal length, not {lengths}.")
    ids = arrays["id"]
    if len(set(ids)) != len(ids):
        raise SerError("The ids of a cache must be unique.")
    for name in ("duration", "activation", "valence", *EMBEDDINGS):
        if name in arrays:
            _refuse_not_finite(name, arrays[name], ids)
    return arrays


def _read_info(file: h5py.File, path: Path) -> CacheInfo:
    again = f"run {extraction_of(path.stem)} --overwrite"
    if file.attrs.get("format") != FORMAT:
        raise SerError(f"{path} is an HDF5 file but not a feature cache: give a file that ser-extract wrote.")
    version = file.attrs.get("format_version")
    if version != FORMAT_VERSION:
        raise SerError(
            f"{path} has format version {version}, and this program reads {FORMAT_VERSION}: {again}."
        )
    absent = [item.name for item in fields(CacheInfo) if item.name not in file.attrs and _is_needed(item)]
    if absent:
        raise SerError(f"{path} is incomplete, it lacks the attributes {listing(absent)}: {again}.")
    values = {item.name: file.attrs[item.name] for item in fields(CacheInfo) if item.name in file.attrs}
    for key in (key for key in _JSON if key in values):
        try:
            values[key] = json.loads(values[key])
        except (TypeError, ValueError):
            raise SerError(f"{path} is damaged, its attribute {key} is not JSON: {again}.") from None
    try:
        for key in ("scale_min", "scale_max", "min_duration", "max_duration"):
            values[key] = float(values[key])
        for key in ("sampling_rate", "limit"):
            values[key] = int(values[key])
    except (TypeError, ValueError):
        raise SerError(f"{path} is damaged, its attribute {key} is not a number: {again}.") from None
    return CacheInfo(**values)


def _is_needed(item: Field[Any]) -> bool:
    return item.default is MISSING and item.default_factory is MISSING


def _check_columns(file: h5py.File, path: Path) -> dict[str, tuple[int, ...]]:
    again = f"run {extraction_of(path.stem)} --overwrite"
    absent = [name for name in COLUMNS if not isinstance(file.get(name), h5py.Dataset)]
    if absent:
        raise SerError(f"{path} is incomplete, it lacks the data sets {listing(absent)}: {again}.")
    shapes: dict[str, tuple[int, ...]] = {
        name: file[name].shape for name in _ALL if isinstance(file.get(name), h5py.Dataset)
    }
    for name in (name for name in _TEXTS if name in shapes):
        if h5py.check_string_dtype(file[name].dtype) is None:
            raise SerError(f"{path} is damaged, its data set {name} is not text: {again}.")
    for name in (*NUMBER_COLUMNS, *EMBEDDINGS):
        if file[name].dtype.kind not in "fiu":
            raise SerError(f"{path} is damaged, its data set {name} is not numbers: {again}.")
    axes = {"acoustic": (2, 3), "text": (2,)}
    wrong = [name for name, shape in shapes.items() if len(shape) not in axes.get(name, (1,))]
    if wrong or len({shape[0] for shape in shapes.values()}) != 1:
        raise SerError(f"{path} is incomplete, its data sets do not fit together ({shapes}): {again}.")
    if shapes["id"][0] == 0:
        raise SerError(f"{path} holds no utterance: {again}.")
    return shapes
