"""Exported models in ONNX Runtime and audonnx, beside PyTorch: every class of encoders, on recordings of 3 to 30 s."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ser_memory.extract.encoders import EncoderOptions, load_acoustic, relative_error
from ser_memory.train.bundles.onnx_graphs import runner, write_graph
from tests.contracts.test_encoders import save, waveforms
from tests.models import ACOUSTIC

_DIFFERENT = 1e-4  # what a whole model may differ by; its encoder, relative to the largest value, as well


_LAYERS = EncoderOptions(layers="0,1", pooling="mean+std")


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, EncoderOptions()) for kind in (*ACOUSTIC, "whisper", "log-mel")),
        *((kind, _LAYERS) for kind in ("wav2vec2 with group norm", "wavlm", "whisper")),
    ],
)
def test_every_encoder_gives_its_rows(kind: str, options: EncoderOptions, tmp_path: Path) -> None:
    encoder = load_acoustic(save(kind, tmp_path), options=options)
    path = tmp_path / "encoder.onnx"
    write_graph(encoder.graph().eval(), path, {"waveform": torch.zeros(1, 48_000)}, {1: "samples"}, {})
    run = runner(path)
    for waveform in waveforms():
        row = run(waveform=waveform[None])
        assert relative_error(row, encoder.encode([waveform])) < _DIFFERENT
    assert np.isfinite(run(waveform=np.zeros((1, 48_000), np.float32))).all()
