"""No strategy may leave a tensor on the CPU when the model is on another device; a new registry entry is covered.

PyTorch's `meta` device stands in for a GPU: its tensors have a shape and a device, but no values.

What this shows: no operation of a training step or a prediction mixes tensors of two devices, nothing there needs
a value on the CPU (`.item()`, `if tensor.any()`, `.numpy()` raise on `meta`), and all results stay on the device.

What it cannot show: whether the values are right, how quick it is, and whether a GPU has every operation in every
precision. Selection of the memory, prototypes, validation and the measures turn tensors into NumPy arrays, so their
last step cannot run on `meta`. GEM over more than six earlier corpora calls SciPy and cannot run here either.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ser_memory.train.dropout import Dropout
from ser_memory.train.loop import Training
from ser_memory.train.samples import Samples
from ser_memory.train.settings import LaterStageSettings, TrainingSettings
from tests.train.worlds import ACOUSTIC_WIDTH, BY_GRADIENT, begin, network, on, samples

LOOP = TrainingSettings(batch_size=16)
RUNS = (0, 1)
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "other": {"replay_share": 0.5, "gem_margin": 0.1, "gem_batch": 8, "replay_loss": "per-corpus"},
}
strategies = pytest.mark.parametrize("name", BY_GRADIENT)


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of two devices, as a GPU does; `meta` alone lets some of them pass.

    Explicit copies are allowed, and scalars on the CPU, which a GPU takes as numbers.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = [item for item in tree_leaves((args, dict(kwargs or {}))) if isinstance(item, Tensor)]
        devices = {item.device.type for item in given if item.dim() or item.device.type != "cpu"}
        if len(devices) > 1 and func is not torch.ops.aten.copy_.default:
            raise RuntimeError(f"{func} meets tensors of two devices: {', '.join(sorted(devices))}.")
        return func(*args, **(kwargs or {}))


def layered(n: int, seed: int, layers: int) -> Samples:
    """Samples with all acoustic layers, or with a single one for 0."""
    made = samples(n, seed)
    if not layers:
        return made
    random = torch.Generator().manual_seed(seed)
    return replace(made, acoustic=torch.randn(n, layers, ACOUSTIC_WIDTH, generator=random))


def device_of_earlier(name: str, data: str) -> str:
    """Where the earlier corpora are: on the CPU for statistics, which are computed there from values."""
    return "cpu" if name == "prototype-replay" else data


def on_meta(name: str, data: str, settings: dict[str, Any], layers: int = 0) -> Training:
    """A third stage whose model is on `meta`."""
    current, *earlier = (layered(n, seed, layers) for seed, n in enumerate((50, 20, 30)))
    current, earlier = on(data, current), [on(device_of_earlier(name, data), corpus) for corpus in earlier]
    # With other settings also with targets that have gaps, and with an average of the parameters.
    later = LaterStageSettings(average="ema") if settings else None
    return begin(
        name,
        current,
        earlier,
        RUNS,
        settings,
        network(layers=layers),
        LOOP,
        "meta",
        rated=not settings,
        later=later,
    )


def steps(training: Training, count: int = 2) -> None:
    """The second step also meets the optimiser's state."""
    for index in itertools.islice(training.strategy.batches(), count):
        training.step(index)


def tensors_of(training: Training) -> list[Tensor]:
    """All that a strategy, its stage and what it kept hold, but for the samples."""
    held = [*vars(training.strategy).values(), *vars(training.stage).values()]
    held += [value for kept in training.stage.kept for value in vars(kept).values()]
    return [item for item in tree_leaves(held) if isinstance(item, Tensor)]


@strategies
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
@pytest.mark.parametrize("layers", [0, 3])
@pytest.mark.parametrize("data", ["meta", "cpu"])
def test_training_and_prediction_stay_on_the_device(
    data: str, layers: int, settings: dict[str, Any], name: str
) -> None:
    """With all data on the device, and with data that are too large for it and stay on the CPU."""
    with OneDevice(), torch.inference_mode():
        training = on_meta(name, data, settings, layers)
        steps(training)
        prediction = training.stage.network.predict(training.parameters, on(data, layered(25, 3, layers)))
    assert prediction.shape == (len(RUNS), 25, 2)
    assert prediction.device.type == training.parameters.flat.device.type == "meta"
    assert {tensor.device.type for tensor in tensors_of(training)} == {"meta"}


@strategies
def test_what_is_kept_of_a_corpus_is_on_the_device(name: str) -> None:
    """Of the model itself; samples are where the corpus is."""
    kind, net = BY_GRADIENT[name], network()
    with OneDevice(), torch.inference_mode():
        flat = torch.empty(1, net.size, device="meta")
        allowed = None if kind.earlier == "nothing" else on("meta", samples(8, 1))
        train = on(device_of_earlier(name, "meta"), samples(50, 0))
        kept = kind.keep(net, net.unpack(flat), train, allowed, *(cls() for cls in kind.options))
    tensors = [value for value in vars(kept).values() if isinstance(value, Tensor)]
    assert {tensor.device.type for tensor in tensors} <= {"meta"}


@strategies
def test_a_tensor_left_on_the_cpu_is_found(name: str) -> None:
    """The check itself can fail: here the dropout masks are made on the CPU."""
    training = on_meta(name, "meta", SETTINGS["default"])
    seeds = [np.random.SeedSequence(run) for run in RUNS]
    on_cpu = Dropout(training.stage.network.dropouts, seeds, torch.device("cpu"))
    object.__setattr__(training.stage, "dropout", on_cpu)
    with OneDevice(), pytest.raises(RuntimeError, match=r"two devices|same device"):
        steps(training)


def test_the_check_is_stricter_than_meta_alone() -> None:
    """A product of tensors on two devices, which a GPU refuses and `meta` may not."""
    with OneDevice(), pytest.raises(RuntimeError, match=r"two devices|same device"):
        torch.bmm(torch.empty(1, 2, 3, device="meta"), torch.zeros(1, 3, 2))
