"""The network and its losses, and their gradients by hand, against plain PyTorch and autograd in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ser_memory.common.metrics import ccc
from ser_memory.train.model import Architecture, Network
from ser_memory.train.objective import OBJECTIVES, ccc_loss, mse_loss
from tests.train.reference import flat_gradient, plain, plain_ccc_loss
from tests.train.worlds import ACOUSTIC_WIDTH, TEXT_WIDTH, network, parameters, samples


def inputs(runs: int, rows: int, layers: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    of_layers = (layers,) if layers else ()
    return (
        torch.randn(runs, rows, *of_layers, ACOUSTIC_WIDTH, generator=random).double(),
        torch.randn(runs, rows, TEXT_WIDTH, generator=random).double(),
    )


def awkward(net: Network, runs: int) -> torch.Tensor:
    """(R, P) float64, with gains, shifts and layer weights that are not what they begin as."""
    return parameters(net, runs).double() + 0.3 * torch.randn(
        runs, net.size, generator=torch.Generator().manual_seed(5)
    )


@pytest.mark.parametrize("layers", [0, 3])
def test_the_network_is_the_papers(layers: int) -> None:
    """Layer by layer as nn.Modules; every run of a stack with parameters of its own."""
    net = network(layers=layers)
    flat = awkward(net, 3)
    acoustic, text = inputs(3, 7, layers)
    ours = net.forward(net.unpack(flat), acoustic, text)
    for run in range(3):
        torch.testing.assert_close(ours[run], plain(net, flat[run]).eval()(acoustic[run], text[run]))


def test_dropout_is_where_the_paper_has_it() -> None:
    model = plain(network(), parameters(network())[0])
    rates = {name: m.p for name, m in model.named_modules() if isinstance(m, torch.nn.Dropout)}
    assert list(rates.values()) == [0.2, 0.2, 0.2, 0.2, 0.1, 0.1]
    assert network().dropouts == {
        "text": (TEXT_WIDTH, 0.2), "trunk.0": (16, 0.2), "trunk.1": (16, 0.2), "trunk.2": (16, 0.2),
        "activation.hidden": (8, 0.1), "valence.hidden": (8, 0.1),
    }  # fmt: skip


class Masked(torch.nn.Module):
    """In place of nn.Dropout: a mask that is given."""

    def __init__(self, mask: torch.Tensor) -> None:
        super().__init__()
        self.mask = mask

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.mask


@pytest.mark.parametrize("layers", [0, 3])
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_gradients_are_autograds(loss: str, layers: int) -> None:
    """Loss and network, with dropout, every parameter of every run of a stack, in float64."""
    net, runs, rows = network(layers=layers), 3, 11
    flat = awkward(net, runs)
    acoustic, text = inputs(runs, rows, layers)
    random = torch.Generator().manual_seed(3)
    targets = (torch.rand(runs, rows, 2, generator=random) * 2 - 1).double()
    masks = {
        name: (torch.rand(runs, rows, width, generator=random) < 0.7).double() / 0.7
        for name, (width, _) in net.dropouts.items()
    }
    packed, into = net.unpack(flat), net.unpack(torch.full_like(flat, torch.nan))
    value, of_outputs = OBJECTIVES[loss](net.forward(packed, acoustic, text, masks), targets)
    net.backward(packed, of_outputs, into)
    for run in range(runs):
        model = plain(net, flat[run])
        model.text[0] = Masked(masks["text"][run])
        for number, part in enumerate(model.trunk):
            part[3] = Masked(masks[f"trunk.{number}"][run])  # type: ignore[operator]
        model.activation[3] = Masked(masks["activation.hidden"][run])
        model.valence[3] = Masked(masks["valence.hidden"][run])
        prediction = model(acoustic[run], text[run])
        squared = (prediction - targets[run]).square().mean(dim=0).sum()
        plain_loss = plain_ccc_loss(prediction, targets[run]) if loss == "ccc" else squared
        plain_loss.backward()
        torch.testing.assert_close(value[run], plain_loss.detach())
        torch.testing.assert_close(into.flat[run], flat_gradient(net, model), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("layers", [0, 2])
def test_squares_are_of_every_utterance_apart(layers: int) -> None:
    """The Fisher information's sums, one utterance and one output at a time by autograd."""
    net = network(layers=layers)
    flat = awkward(net, 2)
    acoustic, text = inputs(2, 5, layers)
    packed, into = net.unpack(flat), net.unpack(torch.full_like(flat, torch.nan))
    prediction = net.forward(packed, acoustic, text)
    for dimension in range(2):
        one = torch.zeros_like(prediction)
        one[..., dimension] = 1
        net.backward(packed, one, into, squares=True)
        for run in range(2):
            expected = torch.zeros(net.size, dtype=torch.float64)
            for row in range(5):
                model = plain(net, flat[run]).eval()
                model.zero_grad()
                for parameter in model.parameters():
                    parameter.grad = torch.zeros_like(parameter)
                model(acoustic[run, row : row + 1], text[run, row : row + 1])[0, dimension].backward()
                expected += flat_gradient(net, model).square()
            torch.testing.assert_close(into.flat[run], expected, atol=1e-12, rtol=1e-9)


def test_text_does_not_reach_activation() -> None:
    net = network()
    packed = net.unpack(awkward(net, 1))
    acoustic, text = inputs(1, 7)
    one, other = net.forward(packed, acoustic, text), net.forward(packed, acoustic, text + torch.randn(1))
    assert torch.equal(one[..., 0], other[..., 0])
    other = net.forward(packed, acoustic, text.flip(2))
    assert torch.equal(one[..., 0], other[..., 0])
    assert not torch.equal(one[..., 1], other[..., 1])


def test_the_defaults_are_those_of_the_method() -> None:
    net = Network(Architecture(768, 768))
    assert net.widths == {
        "trunk.0": (768, 256), "trunk.1": (256, 256), "trunk.2": (256, 256), "text": (768, 256),
        "activation.hidden": (256, 128), "activation.out": (128, 1),
        "valence.hidden": (512, 128), "valence.out": (128, 1),
    }  # fmt: skip
    assert net.size == sum(parameter.numel() for parameter in plain(net, torch.zeros(net.size)).parameters())


def test_the_beginning_is_pytorchs() -> None:
    """Bounds and spread of every layer as nn.Linear and nn.LayerNorm begin."""
    net = Network(Architecture(64, 32))
    ours = net.unpack(net.initial(np.random.default_rng(0))[None])
    for name, (norm, linear) in plain(net, torch.zeros(net.size)).linear_layers().items():
        norm.reset_parameters()
        linear.reset_parameters()
        layer = ours.layers[name]
        assert torch.equal(layer.gain[0, 0], norm.weight)
        assert torch.equal(layer.shift[0, 0], norm.bias)
        for values in (layer.weight, layer.bias):
            bound = net.widths[name][0] ** -0.5
            assert float(values.abs().max()) <= bound
        if layer.weight.numel() > 1000:
            assert float(layer.weight.std()) == pytest.approx(float(linear.weight.detach().std()), rel=0.05)


def test_prediction_in_pieces_is_prediction_at_once() -> None:
    net = network()
    packed, made = net.unpack(parameters(net, 2)), samples(33, 0)
    torch.testing.assert_close(net.predict(packed, made, rows=7), net.predict(packed, made))
    assert net.predict(packed, made).shape == (2, 33, 2)


def test_the_ccc_loss_is_one_minus_the_measure() -> None:
    prediction, target = torch.randn(2, 50, 2, dtype=torch.float64), torch.rand(2, 50, 2, dtype=torch.float64)
    losses, _ = ccc_loss(prediction, target)
    for run in range(2):
        measures = [ccc(target[run, :, i].numpy(), prediction[run, :, i].numpy()) for i in range(2)]
        assert float(losses[run]) == pytest.approx(2 - sum(measures))


@pytest.mark.parametrize("rows", [1, 4])
def test_the_ccc_loss_of_a_constant_is_finite(rows: int) -> None:
    loss, gradient = ccc_loss(torch.zeros(1, rows, 2), torch.zeros(1, rows, 2))
    assert loss.item() == 2
    assert torch.isfinite(gradient).all()


def test_mse_is_summed_over_dimensions() -> None:
    prediction, target = np.random.default_rng(0).standard_normal((2, 1, 9, 2))
    expected = sum(np.mean((prediction[0, :, i] - target[0, :, i]) ** 2) for i in range(2))
    assert float(mse_loss(torch.tensor(prediction), torch.tensor(target))[0]) == pytest.approx(expected)
