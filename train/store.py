"""Finished stages on disk: what was trained once is not trained again.

A file per stage of a run, under a fingerprint of everything that determined it, written beside its place and
renamed. Anything that changes gives another fingerprint, so that nothing is ever mixed; a file may be removed at
any time, and is then made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ser_memory.common.errors import SerError
from ser_memory.train.evaluation import Figure
from ser_memory.train.loop import State
from ser_memory.train.memory import Held

_FINISHED, _PAUSED = ".safetensors", ".paused"


@dataclass(frozen=True)
class Record:
    """What became of one stage of one run, without the model."""

    scores: list[float]  # validation CCC after each epoch
    memory: list[Held]  # of the corpora before
    figures: list[Figure]
    evaluated: str  # digest of the corpora that the figures are of


class Store:
    """A folder of finished stages."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, tuple[int, Record]] = {}  # when it was written, and what it said

    def prepare(self, size: int) -> None:
        """Make sure that `size` bytes can be written before work is done that could not be kept.

        Raises SerError in one sentence otherwise.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
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
        """Keep the (P,) parameters and the record of a stage; on disk when this returns."""
        parameters = parameters.cpu().contiguous()
        facts = {"record": json.dumps(asdict(record)), "checksum": _checksum(parameters)}
        self._write(self._path(key), save({"parameters": parameters}, facts))
        self._path(key, _PAUSED).unlink(missing_ok=True)

    def pause(self, key: str, state: State) -> None:
        """Keep a stage that is to go on later, perhaps in another process."""
        facts = json.dumps({"scores": state.scores, "streams": state.streams}, default=np.ndarray.tolist)
        self._write(self._path(key, _PAUSED), save(state.tensors, {"facts": facts}))

    def paused(self, key: str) -> State | None:
        """The stage that `pause` kept, or None where there is none that can be read."""
        try:
            with safe_open(self._path(key, _PAUSED), "pt") as file:
                facts = json.loads(file.metadata()["facts"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            return State(tensors, facts["scores"], facts["streams"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def _write(self, path: Path, content: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(f".{os.getpid()}.partial")
        try:
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
        except OSError as error:
            raise self._refusal(error) from error
        finally:
            aside.unlink(missing_ok=True)

    def _refusal(self, error: OSError) -> SerError:
        return SerError(
            f"Finished stages cannot be kept in {self.folder} ({error.strerror}): what is there stays; "
            "mend that, or give another folder as --trained."
        )

    def record(self, key: str) -> Record | None:
        """The record of a stage, or None where there is none, or one that was damaged."""
        try:
            written = self._path(key).stat().st_mtime_ns
            if self._read.get(key, (0, None))[0] != written:
                self._read[key] = written, _read(self._path(key))
            return self._read[key][1]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def parameters(self, keys: Sequence[str]) -> Tensor:
        """(R, P) of stages whose records are there."""
        rows = []
        for key in keys:
            with safe_open(self._path(key), "pt") as file:
                rows.append(file.get_tensor("parameters"))
        return torch.stack(rows)

    def _path(self, key: str, suffix: str = _FINISHED) -> Path:
        return self.folder / f"{key}{suffix}"


def _read(path: Path) -> Record:
    """Raises ValueError where the parameters are not those that were written."""
    with safe_open(path, "pt") as file:
        content: dict[str, Any] = json.loads(file.metadata()["record"])
        if file.metadata()["checksum"] != _checksum(file.get_tensor("parameters")):
            raise ValueError
    return Record(
        content["scores"],
        [Held(**item) for item in content["memory"]],
        [Figure(**item) for item in content["figures"]],
        content["evaluated"],
    )


def _checksum(parameters: Tensor) -> str:
    return hashlib.sha256(parameters.numpy().tobytes()).hexdigest()
