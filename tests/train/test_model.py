"""The network and its losses, and their gradients by hand, against plain PyTorch and autograd in float64."""

from __future__ import annotations

import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ser_memory.common.conventions import DIMENSIONS
from ser_memory.common.metrics import ccc
from ser_memory.train.model import HEADS, Architecture, Head, Network, Trace
from ser_memory.train.objective import OBJECTIVES, ccc_loss, mse_loss
from tests.train.reference import flat_gradient, plain, plain_ccc_loss
from tests.train.worlds import ACOUSTIC_WIDTH, TEXT_WIDTH, network, parameters, samples

# One, two and three dimensions, with the text reaching none, some or all of them.
ALL_HEADS = {
    "activation": (Head("activation"),),
    "valence": (Head("valence", text=True),),
    "default": HEADS[:2],
    "swapped": (Head("valence", text=True), Head("activation")),
    "three": (Head("activation"), Head("valence", text=True), Head("dominance")),
    "three with text": tuple(Head(name, text=True) for name in ("activation", "valence", "dominance")),
}
heads = pytest.mark.parametrize("heads", ALL_HEADS.values(), ids=ALL_HEADS)


def inputs(runs: int, rows: int, layers: int = 0, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    shape = (layers, ACOUSTIC_WIDTH) if layers else (ACOUSTIC_WIDTH,)
    return (
        torch.randn(runs, rows, *shape, generator=random).double(),
        torch.randn(runs, rows, TEXT_WIDTH, generator=random).double(),
    )


def awkward(net: Network, runs: int) -> torch.Tensor:
    """(R, P) float64, with gains, shifts and layer weights that are not what they begin as."""
    return parameters(net, runs).double() + 0.3 * torch.randn(
        runs, net.size, generator=torch.Generator().manual_seed(5)
    )


@heads
@pytest.mark.parametrize("layers", [0, 3])
def test_the_network_is_the_papers(layers: int, heads: tuple[Head, ...]) -> None:
    """Layer by layer as nn.Modules; every run of a stack with parameters of its own."""
    net = network(layers=layers, heads=heads)
    flat = awkward(net, 3)
    acoustic, text = inputs(3, 7, layers)
    ours = net.infer(net.unpack(flat), acoustic, text)
    assert torch.equal(ours, net.forward(net.unpack(flat), acoustic, text)[0])
    assert ours.shape == (3, 7, len(heads))
    for run in range(3):
        torch.testing.assert_close(ours[run], plain(net, flat[run]).eval()(acoustic[run], text[run]))


def test_the_default_heads_are_the_papers() -> None:
    """Activation and valence, the columns of every target; text for valence only."""
    assert Architecture(1, 1).dimensions == DIMENSIONS
    assert [head.text for head in HEADS] == [False, True, False]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"heads": ()}, "at least one head"),
        ({"heads": (Head("valence"), Head("valence", text=True))}, "one head only, not valence, valence"),
        ({"trunk_blocks": 0}, "at least one block, not 0"),
    ],
)
def test_an_architecture_that_cannot_be(changes: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        network(**changes)


def test_without_text_there_is_no_text_layer() -> None:
    net = network(heads=(Head("activation"),))
    assert "text" not in net.widths
    assert "text" not in net.dropouts


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


@dataclass
class Problem:
    """A network and one batch for it, with the loss and gradients that autograd finds."""

    net: Network
    flat: torch.Tensor
    acoustic: torch.Tensor
    text: torch.Tensor
    targets: torch.Tensor
    masks: dict[str, torch.Tensor]
    loss: str

    @classmethod
    def of(cls, net: Network, seed: int = 1, loss: str = "ccc", runs: int = 3, rows: int = 11) -> Problem:
        random = torch.Generator().manual_seed(seed + 2)
        a = net.architecture
        masks = {
            name: (torch.rand(runs, rows, width, generator=random) < 0.7).double() / 0.7
            for name, (width, _) in net.dropouts.items()
        }
        targets = (torch.rand(runs, rows, len(a.heads), generator=random) * 2 - 1).double()
        return cls(net, awkward(net, runs), *inputs(runs, rows, a.layers, seed), targets, masks, loss)

    def forward(self) -> tuple[torch.Tensor, Trace]:
        return self.net.forward(self.net.unpack(self.flat), self.acoustic, self.text, self.masks)

    def backward(self, prediction: torch.Tensor, trace: Trace) -> tuple[torch.Tensor, torch.Tensor]:
        """(R,) losses and (R, P) gradients."""
        into = self.net.unpack(torch.full_like(self.flat, torch.nan))
        value, output_gradient = OBJECTIVES[self.loss](prediction, self.targets)
        self.net.backward(self.net.unpack(self.flat), trace, output_gradient, into)
        return value, into.flat

    def check(self, value: torch.Tensor, gradient: torch.Tensor) -> None:
        """Against plain PyTorch, run by run."""
        for run in range(len(self.flat)):
            model = plain(self.net, self.flat[run])
            if model.text is not None:
                model.text[0] = Masked(self.masks["text"][run])
            for number, part in enumerate(model.trunk):
                part[3] = Masked(self.masks[f"trunk.{number}"][run])  # type: ignore[operator]
            for name, part in model.heads.items():
                part[3] = Masked(self.masks[f"{name}.hidden"][run])  # type: ignore[operator]
            prediction = model(self.acoustic[run], self.text[run])
            squared = (prediction - self.targets[run]).square().mean(dim=0).sum()
            loss = plain_ccc_loss(prediction, self.targets[run]) if self.loss == "ccc" else squared
            loss.backward()
            torch.testing.assert_close(value[run], loss.detach())
            torch.testing.assert_close(gradient[run], flat_gradient(self.net, model), atol=1e-12, rtol=1e-9)


@heads
@pytest.mark.parametrize("layers", [0, 3])
@pytest.mark.parametrize("loss", OBJECTIVES)
def test_gradients_are_autograds(loss: str, layers: int, heads: tuple[Head, ...]) -> None:
    """Loss and network, with dropout, every parameter of every run of a stack, in float64."""
    problem = Problem.of(network(layers=layers, heads=heads), loss=loss)
    problem.check(*problem.backward(*problem.forward()))


@pytest.mark.parametrize("layers", [0, 3])
def test_passes_do_not_meet(layers: int) -> None:
    """Two forwards, a prediction between them, then both backwards, the first one twice."""
    net = network(layers=layers)
    one, other = Problem.of(net, seed=1), Problem.of(net, seed=2, rows=7)
    first, second = one.forward(), other.forward()
    net.infer(net.unpack(one.flat), *inputs(3, 5, layers, seed=3))
    gradients = [one.backward(*first), other.backward(*second), one.backward(*first)]
    one.check(*gradients[0])
    other.check(*gradients[1])
    assert torch.equal(gradients[0][1], gradients[2][1])


def test_threads_can_share_a_network() -> None:
    """Four at once, each with a batch of its own, many times over."""
    net = network(layers=3)
    problems = [Problem.of(net, seed) for seed in range(4)]
    expected = [problem.backward(*problem.forward())[1] for problem in problems]
    together = threading.Barrier(len(problems))

    def work(problem: Problem) -> list[torch.Tensor]:
        together.wait(timeout=60)
        return [problem.backward(*problem.forward())[1] for _ in range(20)]

    with ThreadPoolExecutor(len(problems)) as pool:
        for gradients, right in zip(pool.map(work, problems), expected, strict=True):
            assert all(torch.equal(gradient, right) for gradient in gradients)


def test_nothing_is_kept_between_calls() -> None:
    """So memory does not grow, and no activation outlives its trace."""
    net = network(layers=2)
    before = repr(vars(net))
    problem = Problem.of(net)
    prediction, trace = problem.forward()
    problem.backward(prediction, trace)
    alive = weakref.ref(trace.linear["trunk.1"].normal)
    assert alive() is not None
    del trace
    assert alive() is None
    assert repr(vars(net)) == before
    assert "tensor" not in before


@heads
@pytest.mark.parametrize("layers", [0, 2])
def test_squares_are_of_every_utterance_apart(layers: int, heads: tuple[Head, ...]) -> None:
    """The Fisher information's sums, one utterance and one output at a time by autograd."""
    net = network(layers=layers, heads=heads)
    flat = awkward(net, 2)
    acoustic, text = inputs(2, 5, layers)
    packed, into = net.unpack(flat), net.unpack(torch.full_like(flat, torch.nan))
    prediction, trace = net.forward(packed, acoustic, text)
    for dimension in range(len(heads)):
        one = torch.zeros_like(prediction)
        one[..., dimension] = 1
        net.backward(packed, trace, one, into, squares=True)
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
    one, other = net.infer(packed, acoustic, text), net.infer(packed, acoustic, text + torch.randn(1))
    assert torch.equal(one[..., 0], other[..., 0])
    other = net.infer(packed, acoustic, text.flip(2))
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
