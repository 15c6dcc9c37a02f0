"""Heads as ONNX files, beside PyTorch; whole models are tests of tests/integration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner

from ser_memory.common.errors import SerError
from ser_memory.train.bundles import onnx_graphs
from ser_memory.train.bundles.cli import main as ser_bundle
from ser_memory.train.bundles.head_modules import AnalyticHead, NetworkHead
from ser_memory.train.bundles.onnx_export import HEAD, Written, audonnx_yaml, write_head
from ser_memory.train.bundles.onnx_graphs import Comparison, Floats, compare, refuse_different, runner
from ser_memory.train.model import HEADS, Architecture, Network
from ser_memory.train.samples import Samples
from ser_memory.train.strategies.analytic import Analytic, AnalyticOptions
from tests.train.worlds import ACOUSTIC_WIDTH, TEXT_WIDTH

_LAYERS = 3


def rows(architecture: Architecture, n: int = 500) -> dict[str, Floats]:
    random = np.random.default_rng(4)
    shape = (n, architecture.layers, ACOUSTIC_WIDTH) if architecture.layers else (n, ACOUSTIC_WIDTH)
    return {
        "acoustic": random.standard_normal(shape, np.float32),
        "text": random.standard_normal((n, TEXT_WIDTH), np.float32),
    }


def samples(acoustic: Floats, text: Floats) -> Samples:
    places = torch.arange(len(acoustic))
    return Samples(
        torch.from_numpy(acoustic), torch.from_numpy(text), places, torch.empty(len(places), 0), places
    )


def write_network(architecture: Architecture, path: Path) -> Written:
    """That of parameters of which none has its first value."""
    network = Network(architecture)
    parameters = network.initial(np.random.default_rng(0))
    parameters += 0.1 * torch.randn(parameters.shape, generator=torch.Generator().manual_seed(1))

    def predict(acoustic: Floats, text: Floats) -> Floats:
        predicted = network.predict(network.unpack(parameters[None]), samples(acoustic, text))
        return predicted[0].numpy()

    return write_head(NetworkHead(architecture, parameters), predict, [rows(architecture)], path, {"a": "b"})


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture(ACOUSTIC_WIDTH, TEXT_WIDTH, 16, 8, layers=_LAYERS, heads=HEADS),
        Architecture(ACOUSTIC_WIDTH, TEXT_WIDTH, 16, 8, trunk_blocks=1, heads=HEADS[:1]),
    ],
)
def test_a_network(architecture: Architecture, tmp_path: Path) -> None:
    """With weighted layers and three dimensions; with one, which does not read the text. The bytes are always the same."""
    written = write_network(architecture, tmp_path / HEAD)
    assert (written.found.n, written.size) == (500, (tmp_path / HEAD).stat().st_size)
    assert written.found.difference < 1e-5
    one = {name: each[:1] for name, each in rows(architecture).items()}
    assert runner(tmp_path / HEAD)(**one).shape == (1, len(architecture.heads))
    write_network(architecture, tmp_path / "again.onnx")
    assert (tmp_path / HEAD).read_bytes() == (tmp_path / "again.onnx").read_bytes()


@pytest.mark.parametrize("features", [None, 50])
def test_heads_in_closed_form(features: int | None, tmp_path: Path) -> None:
    architecture = Architecture(ACOUSTIC_WIDTH, TEXT_WIDTH)
    strategy = Analytic(architecture, 3, AnalyticOptions(analytic_features=features))
    parameters = torch.randn(strategy.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def predict(acoustic: Floats, text: Floats) -> Floats:
        return strategy.predict(parameters, samples(acoustic, text)).numpy()

    head = AnalyticHead(architecture, strategy, parameters)
    written = write_head(head, predict, [rows(architecture)], tmp_path / HEAD, {})
    assert written.found.difference < 1e-5


def test_a_file_says_what_it_is_told_to_and_names_no_source_file(tmp_path: Path) -> None:
    write_network(Architecture(ACOUSTIC_WIDTH, TEXT_WIDTH, 16, 8), tmp_path / HEAD)
    assert b".py" not in (tmp_path / HEAD).read_bytes()
    model = onnx.load(tmp_path / HEAD)
    assert {each.key: each.value for each in model.metadata_props} == {"a": "b"}
    onnx.checker.check_model(model, full_check=True)


def test_a_difference_is_relative_to_large_values_only() -> None:
    big, small = np.array([[100.0]], np.float32), np.array([[0.1]], np.float32)
    assert compare([big], [big + 1]).difference == pytest.approx(1 / 101)
    assert compare([small, small], [small, small + 0.05]).difference == pytest.approx(0.05)


@pytest.mark.parametrize("difference", [2e-5, np.nan])
def test_what_differs_is_refused(difference: float) -> None:
    refuse_different(HEAD, Comparison(1, 1e-5), 1e-5)
    with pytest.raises(
        SerError, match=rf"head.onnx differs from PyTorch by {difference} where 1e-05 is allowed"
    ):
        refuse_different(HEAD, Comparison(1, difference), 1e-5)


def test_without_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    onnx_graphs.require_onnx()
    monkeypatch.setattr(onnx_graphs, "find_spec", lambda name: None if "script" in name else object())
    with pytest.raises(SerError, match=r"needs onnxscript, .* pip install 'ser-memory\[onnx\]'"):
        onnx_graphs.require_onnx()


def test_labels_for_audonnx() -> None:
    assert audonnx_yaml(["activation", "valence"]) == (
        "$audonnx.core.model.Model:\n  path: model.onnx\n  labels:\n  - activation\n  - valence\n  transform: null\n"
    )


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("--output x", "--output is for an export with --onnx"),
        ("--head-only", "--head-only is for an export with --onnx"),
        ("--onnx --output x --estimate-size 3", "--estimate-size is for an export without --onnx"),
        ("--onnx", "--onnx needs --output DIR"),
    ],
)
def test_options_of_the_other_export_are_refused(typed: str, says: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(ser_bundle, ["export", str(tmp_path), *typed.split()])
    assert result.exit_code == 2
    assert says in result.stderr
