"""The network and its losses, against formulas written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.metrics import ccc
from train.model import Architecture, EmotionModel
from train.objective import ccc_loss, mse_loss


def model(**changes: int) -> EmotionModel:
    torch.manual_seed(0)
    return EmotionModel(
        Architecture(**{"acoustic_width": 6, "text_width": 5, "trunk_width": 8, "head_width": 4, **changes})
    )


def test_the_network_is_the_papers() -> None:
    """Layer by layer from its parameters, without dropout: LayerNorm, Linear, LeakyReLU, and so on."""
    net = model().eval()
    p = dict(net.named_parameters())
    acoustic, text = torch.randn(7, 6), torch.randn(7, 5)

    def norm_linear(x: torch.Tensor, norm: str, linear: str) -> torch.Tensor:
        x = F.layer_norm(x, x.shape[1:], p[f"{norm}.weight"], p[f"{norm}.bias"])
        return x @ p[f"{linear}.weight"].T + p[f"{linear}.bias"]

    def head(x: torch.Tensor, name: str) -> torch.Tensor:
        hidden = F.leaky_relu(norm_linear(x, f"{name}.0", f"{name}.1"))
        return norm_linear(hidden, f"{name}.4", f"{name}.5")

    trunk = acoustic
    for block in range(3):
        trunk = F.leaky_relu(norm_linear(trunk, f"trunk.{block}.0", f"trunk.{block}.1"))
    words = norm_linear(text, "text.1", "text.2")
    expected = torch.cat(
        [head(trunk, "activation"), head(torch.cat([trunk, words], dim=1), "valence")], dim=1
    )
    torch.testing.assert_close(net(acoustic, text), expected)
    assert {name: m.p for name, m in net.named_modules() if isinstance(m, torch.nn.Dropout)} == {
        "trunk.0.3": 0.2, "trunk.1.3": 0.2, "trunk.2.3": 0.2, "text.0": 0.2, "activation.3": 0.1, "valence.3": 0.1,
    }  # fmt: skip


def test_text_does_not_reach_activation() -> None:
    net = model().eval()
    acoustic = torch.randn(7, 6)
    one, other = net(acoustic, torch.randn(7, 5)), net(acoustic, torch.randn(7, 5))
    assert torch.equal(one[:, 0], other[:, 0])
    assert not torch.equal(one[:, 1], other[:, 1])


def test_the_defaults_are_those_of_the_method() -> None:
    net = EmotionModel(Architecture(768, 768))
    shapes = {
        name: tuple(p.shape) for name, p in net.named_parameters() if name.endswith("weight") and p.ndim == 2
    }
    assert shapes == {
        "trunk.0.1.weight": (256, 768), "trunk.1.1.weight": (256, 256), "trunk.2.1.weight": (256, 256),
        "text.2.weight": (256, 768), "activation.1.weight": (128, 256), "activation.5.weight": (1, 128),
        "valence.1.weight": (128, 512), "valence.5.weight": (1, 128),
    }  # fmt: skip


def test_prediction_in_pieces_is_prediction_at_once() -> None:
    net = model().train()
    acoustic, text = torch.randn(33, 6), torch.randn(33, 5)
    torch.testing.assert_close(net.predict(acoustic, text, rows=7), net.predict(acoustic, text))
    assert net.training


def test_the_ccc_loss_is_one_minus_the_measure() -> None:
    prediction, target = torch.randn(50, 2, dtype=torch.float64), torch.rand(50, 2, dtype=torch.float64)
    measures = [ccc(target[:, i].numpy(), prediction[:, i].numpy()) for i in range(2)]
    assert float(ccc_loss(prediction, target)) == pytest.approx(2 - sum(measures))


@pytest.mark.parametrize("rows", [1, 4])
def test_the_ccc_loss_of_a_constant_is_finite(rows: int) -> None:
    prediction = torch.zeros(rows, 2, requires_grad=True)
    loss = ccc_loss(prediction, torch.zeros(rows, 2))
    loss.backward()
    assert loss.item() == 2
    assert prediction.grad is not None
    assert torch.isfinite(prediction.grad).all()


def test_gradients_agree_with_finite_differences() -> None:
    target = torch.rand(6, 2, dtype=torch.float64)
    for objective in (ccc_loss, mse_loss):
        start = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(objective, (start, target))


def test_mse_is_summed_over_dimensions() -> None:
    prediction, target = np.random.default_rng(0).standard_normal((2, 9, 2))
    expected = sum(np.mean((prediction[:, i] - target[:, i]) ** 2) for i in range(2))
    assert float(mse_loss(torch.tensor(prediction), torch.tensor(target))) == pytest.approx(expected)


def test_layers_are_mixed_by_a_softmax() -> None:
    net, plain = model(layers=3).eval(), model().eval()
    plain.load_state_dict(
        {name: value for name, value in net.state_dict().items() if name != "layer_weights"}
    )
    layers, text = torch.randn(7, 3, 6), torch.randn(7, 5)
    torch.testing.assert_close(
        net(layers, text), plain(layers.mean(dim=1), text)
    )  # alike before any training
    assert net.layer_weights is not None
    net.layer_weights.data = torch.tensor([0.0, 1.0, -1.0])
    weights = np.exp([0.0, 1.0, -1.0]) / np.exp([0.0, 1.0, -1.0]).sum()
    mixed = sum(float(weight) * layers[:, k] for k, weight in enumerate(weights))
    torch.testing.assert_close(net(layers, text), plain(mixed, text))
