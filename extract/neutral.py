"""A corpus without any texts: one text row, such as the mean of other texts, stands for the text of every utterance."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ser_memory.common.cache import NEUTRAL
from ser_memory.extract.encoders import TextIdentity
from ser_memory.extract.rows import Store


@dataclass(frozen=True)
class NeutralText:
    """The row, and the text encoder whose rows it is a mean of; the encoder itself is not needed."""

    row: npt.NDArray[np.float32]  # (E,)
    encoder: TextIdentity

    @property
    def name(self) -> str:
        """What the cache has as its transcriber: another row gives another cache."""
        return f"{NEUTRAL}{hashlib.sha256(self.row.astype('<f4').tobytes()).hexdigest()[:16]}"

    @property
    def store(self) -> Store:
        """The row as that of the transcript "", which utterances without a text have."""
        return Store(
            (), (), [""], {}, (), {"text": self.row.shape}, lambda _, rows: np.tile(self.row, (len(rows), 1))
        )
