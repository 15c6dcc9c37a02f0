"""Finished stages on disk: what was trained once is not trained again.

A file per stage of a run, under a fingerprint of everything that determined it, and a small one beside it for each set
of corpora that it was evaluated on. Files are written whole or not at all. Any change gives another fingerprint, so
nothing is ever mixed; a file may be removed at any time, and is then made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ser_memory.common.errors import SerError
from ser_memory.common.files import remove_abandoned, write_whole
from ser_memory.common.reporting import notice
from ser_memory.train.loop import State
from ser_memory.train.results import Figure, Held, StageResult

_FINISHED, _PAUSED, _FIGURES = ".safetensors", ".paused", ".figures"
_DAMAGED = (OSError, SafetensorError, KeyError, TypeError, ValueError)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Record:
    """A finished stage without its parameters and figures."""

    scores: list[float]  # validation CCC after each epoch
    memory: list[Held]  # of the corpora before
    seconds: float | None = None  # of training; None if an older version trained it
    bent: list[float] = field(
        default_factory=list
    )  # share of an epoch's steps that memory bent, if any can be
    score: float | None = None  # of the kept parameters on validation; None if an older version trained it
    share: float | None = None  # of the new parameters, if they were interpolated

    def result(self, figures: list[Figure]) -> StageResult:
        """The result of the stage, with its figures."""
        return StageResult(self.scores, self.memory, figures, self.seconds, self.bent, self.score, self.share)


class Store:
    """A folder of finished stages. Several processes may use it at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[Path, tuple[int, object]] = {}  # when a file was written, and what it says

    def prepare(self, size: int) -> None:
        """Make sure that `size` bytes can be written before work is done that could not be kept.

        Partial files that killed processes left are removed. Raises SerError in one sentence if there is no room.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            remove_abandoned(self.folder)
            with tempfile.TemporaryFile(dir=self.folder):
                free = shutil.disk_usage(self.folder).free
        except OSError as error:
            raise self._refusal(error) from error
        if free < size:
            raise SerError(
                f"Finished stages need {size / 1e6:,.0f} MB and {self.folder} has {free / 1e6:,.0f} MB left: "
                "make room, or give another folder as --trained."
            )

    def save(self, key: str, parameters: Tensor, record: Record) -> None:
        """Keep the (P,) parameters and the record of a stage; they are on disk when this returns."""
        parameters = parameters.cpu().contiguous()
        facts = {"record": json.dumps(asdict(record)), "checksum": _checksum(parameters)}
        self._write(self._path(key), save({"parameters": parameters}, facts))
        self._path(key, _PAUSED).unlink(missing_ok=True)

    def save_figures(self, key: str, evaluated: str, figures: Sequence[Figure]) -> None:
        """Keep the figures of a stage on the corpora with the digest `evaluated`."""
        content = json.dumps([asdict(figure) for figure in figures])
        self._write(self._figures_path(key, evaluated), content.encode())

    def pause(self, key: str, state: State) -> None:
        """Keep a stage that will be continued later, perhaps by another process."""
        facts = json.dumps(
            {"scores": state.scores, "streams": state.streams, "seconds": state.seconds, "bent": state.bent},
            default=np.ndarray.tolist,
        )
        self._write(self._path(key, _PAUSED), save(state.tensors, {"facts": facts}))

    def paused(self, key: str) -> State | None:
        """The stage that `pause` kept, or None if there is none, or its file is damaged."""
        if self._written(self._path(key, _PAUSED)) is None:
            return None
        try:
            with safe_open(self._path(key, _PAUSED), "pt") as file:
                facts = json.loads(file.metadata()["facts"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            return State(tensors, **facts)
        except _DAMAGED:
            notice(f"{self._path(key, _PAUSED)} is damaged: its stage is trained from the beginning.")
            return None

    def record(self, key: str) -> Record | None:
        """The record of a stage, or None if there is none or its file is damaged."""
        return self._cached(self._path(key), _read_record)

    def result(self, key: str, evaluated: str) -> StageResult | None:
        """The result of a stage on the corpora with the digest `evaluated`; None if a part of it does not exist."""
        record, figures = self.record(key), self.figures(key, evaluated)
        return None if record is None or figures is None else record.result(figures)

    def figures(self, key: str, evaluated: str) -> list[Figure] | None:
        """The figures that were kept for a key and the corpora with the digest `evaluated`."""
        return self._cached(self._figures_path(key, evaluated), _read_figures)

    def has_begun(self, key: str) -> bool:
        """Whether anything of a stage is kept."""
        return self._path(key).exists() or self._path(key, _PAUSED).exists()

    def parameters(self, keys: Sequence[str]) -> Tensor:
        """(R, P) of stages whose records are there. Raises SerError if a file is not what its record was read from."""
        rows = []
        for key in keys:
            try:
                with safe_open(self._path(key), "pt") as file:
                    rows.append(file.get_tensor("parameters"))
            except _DAMAGED as error:
                raise self.removed(key) from error
        return torch.stack(rows)

    def removed(self, key: str) -> SerError:
        """The error for a stage that is no longer there though it was a moment ago."""
        return SerError(
            f"The finished stage {self._path(key)} was removed or changed while it was used: run the same command again, "
            "which trains it again."
        )

    def _cached(self, path: Path, read: Callable[[Path], _T]) -> _T | None:
        """What a file says, read once as long as it stays the same; None if there is none or it is damaged."""
        written = self._written(path)
        if written is None:
            return None
        if self._read.get(path, (0, None))[0] != written:
            try:
                self._read[path] = written, read(path)
            except _DAMAGED:
                notice(f"{path} is damaged and will be made again.")
                self._read[path] = written, None
        return self._read[path][1]  # type: ignore[return-value]  # `read` gave it

    def _written(self, path: Path) -> int | None:
        """When a file was written, None if there is none. Raises SerError if it cannot be opened."""
        try:
            with path.open("rb") as file:
                return os.fstat(file.fileno()).st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise SerError(
                f"The finished stage {path} cannot be read ({error.strerror}): solve that, or give another folder as "
                "--trained."
            ) from error

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_whole(path, content)
        except OSError as error:
            raise self._refusal(error) from error

    def _refusal(self, error: OSError) -> SerError:
        return SerError(
            f"Finished stages cannot be kept in {self.folder} ({error.strerror}). What is there stays: "
            "solve that, or give another folder as --trained."
        )

    def _path(self, key: str, suffix: str = _FINISHED) -> Path:
        return self.folder / f"{key}{suffix}"

    def _figures_path(self, key: str, evaluated: str) -> Path:
        return self._path(key, f".{evaluated[:16]}{_FIGURES}")


def _read_record(path: Path) -> Record:
    """Raises ValueError if the parameters are not those that were written."""
    with safe_open(path, "pt") as file:
        content = json.loads(file.metadata()["record"])
        if file.metadata()["checksum"] != _checksum(file.get_tensor("parameters")):
            raise ValueError
    memory = [
        Held(item["corpus"], tuple(item["bins"]), item["speaker"], item["n"]) for item in content["memory"]
    ]
    return Record(
        content["scores"],
        memory,
        content.get("seconds"),
        content.get("bent", []),
        content.get("score"),
        content.get("share"),
    )


def _read_figures(path: Path) -> list[Figure]:
    return [Figure(**item) for item in json.loads(path.read_bytes())]


def _checksum(parameters: Tensor) -> str:
    return hashlib.sha256(parameters.numpy().tobytes()).hexdigest()
