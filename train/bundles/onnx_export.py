"""A bundle's head, and the whole from waveform to ratings, as ONNX files. What differs from PyTorch is not written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.train.bundles.onnx_graphs import (
    Comparison,
    Floats,
    compare,
    median_seconds,
    refuse_different,
    runner,
    write_graph,
)

if TYPE_CHECKING:
    from ser_memory.extract.encoders import AcousticEncoder

Predict = Callable[[Floats, Floats], Floats]  # (N, D) or (N, L, D) acoustic and (N, E) text rows -> (N, K)

HEAD, MODEL, AUDONNX = "head.onnx", "model.onnx", "model.yaml"
_HEAD_DIFFERENCE, _MODEL_DIFFERENCE = 1e-5, 1e-4  # allowed, see Comparison
_ROWS = 10_000  # that the head is compared for
_RECORDINGS = 6  # that the model is compared for
_LONGEST = 30.0  # seconds of the longest of them
_TIMED = 5.0  # seconds of the recording whose time is reported


@dataclass(frozen=True)
class Written:
    """A file and what was measured of it."""

    path: Path
    size: int  # bytes, its .data file included
    found: Comparison
    seconds: float  # per row or per recording
    torch_seconds: float


class WholeModel(nn.Module):
    """From a (1, samples) waveform at 16 kHz to (1, K) ratings in about [-1, 1]."""

    def __init__(self, encoder: AcousticEncoder, one_layer: bool, head: nn.Module, text: Tensor) -> None:
        """`text` is the (E,) row that stands for no text. With `one_layer` the encoder's row has a layer axis of 1."""
        super().__init__()
        self._encoder, self._one_layer, self._head = encoder.graph(), one_layer, head
        self.register_buffer("_text", text[None])

    def forward(self, signal: Tensor) -> Tensor:
        row = self._encoder(signal)
        made: Tensor = self._head(row[:, 0] if self._one_layer else row, self._text)
        return made


def write_head(
    head: nn.Module, predict: Predict, rows: Mapping[str, Floats], path: Path, notes: Mapping[str, str]
) -> Written:
    """Write the head alone.

    Args:
        head: the module.
        predict: what it must agree with.
        rows: `acoustic` (N, D) or (N, L, D) and `text` (N, E) rows, such as it was trained with, to compare with.
        path: where to.
        notes: what the file says about itself.

    Raises SerError if PyTorch cannot write it, or a result differs by more than 1e-5, see `Comparison`.
    """
    examples = {name: torch.from_numpy(each[:2]) for name, each in rows.items()}
    write_graph(head.eval(), path, examples, {0: "rows"}, notes)
    run = runner(path)
    acoustic, text = rows["acoustic"], rows["text"]
    found = compare([run(**rows)], [predict(acoustic, text)])
    refuse_different(path.name, found, _HEAD_DIFFERENCE)
    seconds = median_seconds(lambda: run(**rows)) / found.n
    return Written(
        path, _size(path), found, seconds, median_seconds(lambda: predict(acoustic, text)) / found.n
    )


def write_model(
    whole: WholeModel,
    reference: Callable[[Floats], Floats],
    durations: tuple[float, float],
    path: Path,
    notes: Mapping[str, str],
) -> Written:
    """Write the whole from waveform to ratings.

    Args:
        whole: the module.
        reference: what it must agree with, a (samples,) waveform -> (1, K) ratings.
        durations: of the shortest and the longest recording that it is meant for, in seconds.
        path: where to.
        notes: what the file says about itself.

    Raises SerError if PyTorch cannot write it, or a result differs by more than 1e-4, see `Comparison`.
    """
    example = torch.from_numpy(_recording(durations[0]))
    write_graph(whole.eval(), path, {"signal": example[None]}, {1: "samples"}, notes)
    run = runner(path)
    lengths = np.geomspace(durations[0], min(durations[1], _LONGEST), _RECORDINGS)
    recordings = [_recording(each) for each in lengths]
    found = compare([run(signal=each[None]) for each in recordings], [reference(each) for each in recordings])
    refuse_different(path.name, found, _MODEL_DIFFERENCE)
    timed = _recording(min(_TIMED, durations[1]))
    seconds = median_seconds(lambda: run(signal=timed[None]))
    return Written(path, _size(path), found, seconds, median_seconds(lambda: reference(timed)))


def audonnx_yaml(labels: Sequence[str]) -> str:
    """The file that `audonnx.load` reads: where the graph is, and what its columns are called."""
    lines = ["$audonnx.core.model.Model:", f"  path: {MODEL}", "  labels:"]
    return "\n".join([*lines, *(f"  - {label}" for label in labels), "  transform: null", ""])


def _recording(seconds: float) -> Floats:
    """(samples,) of noise whose level changes, as that of speech does; always the same for a duration."""
    n = round(seconds * SAMPLING_RATE)
    random = np.random.default_rng(n)
    level = np.interp(np.arange(n), np.linspace(0, n, 12), random.uniform(0.001, 0.3, 12))
    return (level * random.standard_normal(n)).astype(np.float32)


def _size(path: Path) -> int:
    return sum(each.stat().st_size for each in path.parent.glob(f"{path.name}*"))
