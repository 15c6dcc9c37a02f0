"""A bundle as ONNX files: its head, and the whole from waveform to ratings. What differs from PyTorch is not written."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.files import flush_to_disk
from ser_memory.common.reporting import notice
from ser_memory.train.bundle import Bundle, BundleInfo
from ser_memory.train.bundles.encoders import encoder_settings, refuse_other_encoder
from ser_memory.train.bundles.head_modules import head_of
from ser_memory.train.bundles.onnx_graphs import (
    Comparison,
    Floats,
    compare,
    median_seconds,
    refuse_different,
    require_onnx,
    runner,
    write_graph,
)

if TYPE_CHECKING:
    from ser_memory.extract.encoders import AcousticEncoder

Rows = dict[str, Floats]  # acoustic: (N, D) or (N, L, D); text: (N, E)
Predict = Callable[..., Floats]  # of such rows by name, -> (N, K)

HEAD, MODEL, AUDONNX = "head.onnx", "model.onnx", "model.yaml"
_HEAD_DIFFERENCE, _MODEL_DIFFERENCE = 1e-5, 1e-4  # allowed, see Comparison
_BATCHES, _ROWS = 10, 1000  # that the head is compared for
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


def export_onnx(
    bundle: Bundle, output: Path, *, acoustic_encoder: str | None = None, head_only: bool = False
) -> list[Written]:
    """Write a bundle as ONNX files: head.onnx, and unless `head_only` model.onnx with model.yaml for audonnx.

    Args:
        bundle: the bundle.
        output: folder to write to. Files of these names are replaced, all or none of them.
        acoustic_encoder: where the bundle's encoder is, if not where it was.
        head_only: the head alone needs no encoder.

    Raises:
        SerError: a package is missing, the encoder cannot be loaded, is another one than that of the training, or cannot
            be exported, or ONNX Runtime does not compute what PyTorch does.
    """
    require_onnx()
    encoder = None if head_only else _encoder_of(bundle, acoustic_encoder)
    head, notes = head_of(bundle), _notes(bundle)
    with _all_or_none(output) as folder:
        written = [write_head(head, bundle.predict, _rows(bundle), folder / HEAD, notes)]
        if encoder is not None:
            written.append(_write_whole(bundle, encoder, head, folder / MODEL, notes))
            (folder / AUDONNX).write_text(audonnx_yaml(bundle.info.dimensions), encoding="utf-8")
    return [replace(each, path=output / each.path.name) for each in written]


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
    head: nn.Module, predict: Predict, batches: Iterable[Rows], path: Path, notes: Mapping[str, str]
) -> Written:
    """Write the head alone.

    Args:
        head: the module.
        predict: what it must agree with.
        batches: `acoustic` (N, D) or (N, L, D) and `text` (N, E) rows, such as it was trained with, to compare with.
        path: where to.
        notes: what the file says about itself.

    Raises SerError if PyTorch cannot write it, or a result differs by more than 1e-5, see `Comparison`.
    """
    first, *others = batches
    write_graph(
        head.eval(),
        path,
        {name: torch.from_numpy(each[:2]) for name, each in first.items()},
        {0: "rows"},
        notes,
    )
    run = runner(path)
    made = [(run(**rows), predict(**rows)) for rows in (first, *others)]
    found = compare(*zip(*made, strict=True))
    refuse_different(path.name, found, _HEAD_DIFFERENCE)
    n = len(first["acoustic"])
    seconds = median_seconds(lambda: run(**first)) / n
    return Written(path, _size(path), found, seconds, median_seconds(lambda: predict(**first)) / n)


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


def _write_whole(
    bundle: Bundle, encoder: AcousticEncoder, head: nn.Module, path: Path, notes: Mapping[str, str]
) -> Written:
    info, text = bundle.info, bundle.neutral_text
    one_layer = _is_one_layer(info)

    def reference(waveform: Floats) -> Floats:
        row = encoder.encode([waveform]).numpy()
        return bundle.predict(row[:, 0] if one_layer else row, text[None])

    whole = WholeModel(encoder, one_layer, head, torch.from_numpy(text))
    return write_model(whole, reference, (info.min_duration, info.max_duration), path, notes)


def _encoder_of(bundle: Bundle, place: str | None) -> AcousticEncoder:
    """The acoustic encoder of the training, on the CPU and in float32.

    Raises SerError if it cannot be loaded or exported, or is another one.
    """
    from ser_memory.extract.encoders import EncoderOptions, load_acoustic

    info, wanted = bundle.info, encoder_settings(bundle, place)
    options = EncoderOptions(wanted.layers, wanted.pooling)
    encoder = load_acoustic(wanted.acoustic_encoder, options=options)
    refuse_other_encoder(info, "acoustic", encoder.attributes())
    encoder.graph()  # refuses what cannot be exported
    if info.precision != encoder.precision:
        notice(
            f"The bundle was trained on embeddings in {info.precision}, and {MODEL} computes in float32: ratings may "
            "differ in the second decimal."
        )
    return encoder


def _is_one_layer(info: BundleInfo) -> bool:
    """Whether the model reads one layer out of several cached ones."""
    return info.layer is not None and info.layer.isdigit()


def _rows(bundle: Bundle) -> Iterator[Rows]:
    """Random rows with the means and variances of the training rows, as far as the bundle has them."""
    layers, random = bundle.info.architecture.layers, np.random.default_rng(0)
    text_spreads = bundle.text_means.std(axis=1, keepdims=True)
    for _ in range(_BATCHES):
        corpus = random.integers(len(bundle.means), size=_ROWS)
        around, spreads = bundle.means[corpus], np.sqrt(bundle.variances[corpus])
        if layers:  # the bundle has the statistics of their mean
            around, spreads = (np.repeat(each[:, None], layers, axis=1) for each in (around, spreads))
        acoustic = around + spreads * random.standard_normal(around.shape, np.float32)
        words = bundle.text_means[corpus]
        text = words + text_spreads[corpus] * random.standard_normal(words.shape, np.float32)
        yield {"acoustic": np.asarray(acoustic, np.float32), "text": np.asarray(text, np.float32)}


def _notes(bundle: Bundle) -> dict[str, str]:
    info = bundle.info
    return {
        "bundle": bundle.checksum,
        "model": info.title,
        "dimensions": ",".join(info.dimensions),
        "scale": f"-1 to 1, {info.label_scale}",
        "sampling_rate": str(info.sampling_rate),
        "min_duration": f"{info.min_duration:g}",
        "max_duration": f"{info.max_duration:g}",
        "acoustic_revision": info.encoders["acoustic_revision"],
        "text_revision": info.encoders["text_revision"],
        "created_by": info.created_by,
    }


@contextmanager
def _all_or_none(output: Path) -> Iterator[Path]:
    """A folder whose files go to `output` at the end of the block, unless it raises."""
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=output) as name:
        folder = Path(name)
        yield folder
        for file in sorted(folder.iterdir()):
            flush_to_disk(file)
            file.replace(output / file.name)


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
