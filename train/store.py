"""Finished stages on disk: what was trained once is not trained again.

A file per stage of a run, under a fingerprint of everything that determined it, written beside its place and
renamed. Anything that changes gives another fingerprint, so that nothing is ever mixed; a file may be removed at
any time, and is then made again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from train.evaluation import Figure
from train.memory import Held


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

    def save(self, key: str, parameters: Tensor, record: Record) -> None:
        """Keep the (P,) parameters and the record of a stage; on disk when this returns."""
        self.folder.mkdir(parents=True, exist_ok=True)
        aside = self._path(key).with_suffix(f".{os.getpid()}.partial")
        content = save({"parameters": parameters.cpu().contiguous()}, {"record": json.dumps(asdict(record))})
        try:
            with aside.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self._path(key))
        finally:
            aside.unlink(missing_ok=True)

    def record(self, key: str) -> Record | None:
        """The record of a stage, or None where there is none that can be read."""
        try:
            with safe_open(self._path(key), "pt") as file:
                content: dict[str, Any] = json.loads(file.metadata()["record"])
            return Record(
                content["scores"],
                [Held(**item) for item in content["memory"]],
                [Figure(**item) for item in content["figures"]],
                content["evaluated"],
            )
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            return None

    def parameters(self, keys: Sequence[str]) -> Tensor:
        """(R, P) of stages whose records are there."""
        rows = []
        for key in keys:
            with safe_open(self._path(key), "pt") as file:
                rows.append(file.get_tensor("parameters"))
        return torch.stack(rows)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"
