"""Exported models in ONNX Runtime and audonnx, beside PyTorch: every class of encoders, on recordings of 3 to 30 s."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import audonnx
import click
import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ser_memory.extract.encoders import EncoderOptions, load_acoustic, relative_error
from ser_memory.train.bundle_files import read_bundle
from ser_memory.train.bundles import onnx_graphs
from ser_memory.train.bundles.cli import main as ser_bundle
from ser_memory.train.bundles.onnx_export import AUDONNX, HEAD, MODEL
from ser_memory.train.bundles.onnx_graphs import compare, runner, write_graph
from ser_memory.train.strategies import STRATEGIES
from tests.bundles import save, untrained
from tests.contracts.test_encoders import save as save_encoder
from tests.contracts.test_encoders import waveforms
from tests.models import ACOUSTIC, save_acoustic, save_text
from tests.train.test_cli import run
from tests.train.worlds import write_caches

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
    encoder = load_acoustic(save_encoder(kind, tmp_path), options=options)
    path = tmp_path / "encoder.onnx"
    write_graph(encoder.graph().eval(), path, {"waveform": torch.zeros(1, 48_000)}, {1: "samples"}, {})
    run = runner(path)
    for waveform in waveforms():
        row = run(waveform=waveform[None])
        assert relative_error(row, encoder.encode([waveform])) < _DIFFERENT
    assert np.isfinite(run(waveform=np.zeros((1, 48_000), np.float32))).all()


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small text encoder."""
    return save_text(tmp_path_factory.mktemp("text"))


@pytest.mark.parametrize(
    ("kind", "options", "layer", "strategy"),
    [
        ("wav2vec2", EncoderOptions(), None, "finetune"),
        ("wav2vec2", EncoderOptions(layers="0,1", pooling="mean+std"), "1", "finetune"),
        ("wav2vec2", EncoderOptions(layers="0,1"), "weighted", "finetune"),
        ("whisper", EncoderOptions(), None, "finetune"),
        ("log-mel", EncoderOptions(), None, "analytic"),
    ],
)
def test_a_bundle_in_audonnx(
    kind: str, options: EncoderOptions, layer: str | None, strategy: str, text: str, tmp_path: Path
) -> None:
    """Waveforms of 3 to 30 s in, ratings out, in audonnx as in PyTorch."""
    name = save_encoder(kind, tmp_path / "encoder")
    bundle = save(untrained(name, text, options, layer, strategy), tmp_path / "bundle")
    carry_out(ser_bundle, ["export", str(bundle.folder), "--onnx", "--output", str(tmp_path / "made")])
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == [HEAD, MODEL, AUDONNX]
    model = audonnx.load(str(tmp_path / "made"))
    assert model.labels() == ["activation", "valence"]
    encoder = load_acoustic(name, options=replace(options, layers=layer if layer == "1" else options.layers))
    for waveform in waveforms():
        row = encoder.encode([waveform]).numpy()
        expected = bundle.predict(row[:, 0] if layer == "1" else row, bundle.neutral_text[None])
        assert np.abs(model(waveform, 16_000) - expected).max() < _DIFFERENT


def test_heads_of_every_strategy(tmp_path: Path) -> None:
    """Trained ones, on the rows of a test split: the closed form with random features too."""
    write_caches(tmp_path / "caches")
    every = [word for name in STRATEGIES for word in ("--strategy", name)] + ["--epochs", 2]
    common = ["--cache", tmp_path / "caches", "--seeds", 1, "--bundles"]
    outputs = {
        tmp_path / "all": every,
        tmp_path / "wide": ["--strategy", "analytic", "--analytic-features", 60],
    }
    for output, options in outputs.items():
        result = run(*common, *options, "--output", output)
        assert result.exit_code == 0, result.output
    with h5py.File(tmp_path / "caches" / "iemocap.h5") as file:
        rows = {name: file[name][:] for name in ("acoustic", "text")}
    found = [each for output in outputs for each in sorted(output.glob("bundles/**/stage-3"))]
    names = {folder.relative_to(tmp_path).parts[2].split("-random")[0] for folder in found}
    assert names == {name for name, each in STRATEGIES.items() if each.earlier != "corpora"}  # have bundles
    for folder in found:
        made = tmp_path / "made" / str(folder.relative_to(tmp_path))
        carry_out(ser_bundle, ["export", str(folder), "--onnx", "--head-only", "--output", str(made)])
        found_rows = compare([runner(made / HEAD)(**rows)], [read_bundle(folder).predict(**rows)])
        print(folder.relative_to(tmp_path), found_rows.difference)
        assert found_rows.difference < 1e-5


def test_refusals(text: str, tmp_path: Path) -> None:
    """Nothing is written for an encoder of another revision, or one that cannot be exported; the head can be."""
    name = save_acoustic(tmp_path / "encoder", "hubert")
    bundle = save(untrained(name, text), tmp_path / "bundle")
    export = ["export", str(bundle.folder), "--onnx", "--output", str(tmp_path / "made")]
    other = save_acoustic(tmp_path / "other", "hubert", seed=1)
    result = CliRunner().invoke(ser_bundle, [*export, "--acoustic-encoder", other])
    assert result.exit_code == 1
    assert "has the revision" in result.stderr
    assert not (tmp_path / "made").exists()
    carry_out(ser_bundle, [*export, "--head-only"])
    assert [path.name for path in (tmp_path / "made").iterdir()] == [HEAD]


def test_weights_too_large_for_one_file(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are in a second file, and the export is whole all the same."""
    monkeypatch.setattr(onnx_graphs, "_ONE_FILE", 50_000)
    name = save_acoustic(tmp_path / "encoder", "wav2vec2 with group norm")
    bundle = save(untrained(name, text), tmp_path / "bundle")
    made = tmp_path / "made"
    carry_out(ser_bundle, ["export", str(bundle.folder), "--onnx", "--output", str(made)])
    assert sorted(path.name for path in made.iterdir()) == [HEAD, MODEL, f"{MODEL}.data", AUDONNX]
    assert np.isfinite(audonnx.load(str(made))(waveforms()[0], 16_000)).all()


def carry_out(command: click.Command, arguments: list[str]) -> None:
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    print(result.stdout)
