"""One stage of training, of a stack of runs: epochs, early stopping, the best state of each run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ser_memory.common.metrics import ccc
from ser_memory.train.data import Samples
from ser_memory.train.strategies import Stage, Strategy

# PyTorch's fused Adam exists for these. Elsewhere, such as on `meta`, its plain implementation runs.
_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


@dataclass(frozen=True)
class LoopSettings:
    """How a stage is trained. All of it is our choice, the paper gives none of it."""

    loss: str = "ccc"  # a key of train.objective.OBJECTIVES
    learning_rate: float = 1e-4
    batch_size: int = 128
    epochs: int = 50  # at most
    patience: int = 10  # epochs without a better validation CCC before a stage stops


@dataclass(frozen=True)
class Trained:
    """The outcome of a stage for one run of a stack."""

    parameters: Tensor  # (P,) of its best epoch
    scores: list[float]  # validation CCC in [-1, 1] after each epoch, the mean over dimensions
    diverged: bool = False  # the predictions stopped being finite


class PausedError(Exception):
    """Not an error: a stage was paused on request."""


@dataclass(frozen=True)
class State:
    """A stage between two epochs, in a form that can be stored and read on another device."""

    tensors: dict[str, Tensor]  # on the CPU
    scores: list[list[float]]  # of each run
    streams: list[Any]  # states of the random streams, as JSON can hold them once NumPy arrays are lists


class Training:
    """A stage under way. Runs of a stack share the work of each step, and nothing else.

    A run that has stopped (by patience, or because it diverged) still takes part in the steps, but its results
    no longer count. Raises ValueError if the targets have another number of columns than the network has heads.
    """

    def __init__(self, stage: Stage, strategy: Strategy, settings: LoopSettings) -> None:
        columns, dimensions = stage.current.targets.shape[1], stage.network.architecture.dimensions
        if columns != len(dimensions):  # (R, B, 1) and (R, B, 2) would broadcast silently
            raise ValueError(
                f"Targets have {columns} columns, but the network predicts {', '.join(dimensions)}."
            )
        self.stage = stage
        self.strategy = strategy
        self._settings = settings
        self._flat = torch.nn.Parameter(stage.start.clone(), requires_grad=False)
        self._optimiser = _optimiser(self._flat, settings.learning_rate)
        self.parameters = stage.network.unpack(self._flat.data)
        self._gradient = stage.network.unpack(torch.empty_like(stage.start))
        self._best = stage.start.clone()
        self._scores: list[list[float]] = [[] for _ in range(stage.runs)]

    @torch.inference_mode()
    def run(
        self,
        validation: Samples,
        advance: Callable[[float], None] = lambda _: None,
        pause: Callable[[], bool] = lambda: False,
    ) -> list[Trained]:
        """Train to the end: one result per run, in the order of the stack.

        Args:
            validation: the split whose CCC decides which epoch is best, and when a run stops.
            advance: receives the number of epochs done, summed over runs. When a run stops early, its remaining
                epochs count as done, so that the total is always epochs times runs.
            pause: whether to pause; called after every epoch.

        Raises PausedError if `pause` returns true. `state` then holds everything to go on from.
        """
        while going := [run for run in range(self.stage.runs) if not self._is_over(run)]:
            for index in self.strategy.batches():
                self.step(index)
            now = self.validate(validation)
            for run in going:
                scores = self._scores[run]
                scores.append(now[run])
                if _best_epoch(scores) == len(scores) - 1:
                    self._best[run] = self.parameters.flat[run]
                advance(1.0 + (self._settings.epochs - len(scores) if self._is_over(run) else 0))
            if pause():
                raise PausedError
        return [
            Trained(self._best[run].clone(), scores, not np.isfinite(scores[-1]))
            for run, scores in enumerate(self._scores)
        ]

    def _is_over(self, run: int) -> bool:
        """Whether a run has had all its epochs, has run out of patience, or has diverged."""
        scores = self._scores[run]
        if not scores:
            return False
        patient = len(scores) - 1 - _best_epoch(scores) < self._settings.patience
        return not (np.isfinite(scores[-1]) and patient and len(scores) < self._settings.epochs)

    def state(self) -> State:
        """Everything that later epochs depend on. On a CPU the tensors are those of the training, not copies."""
        adam = self._optimiser.state[self._flat]
        tensors = {"parameters": self._flat.data, "best": self._best, **adam}
        return State(
            {name: tensor.cpu() for name, tensor in tensors.items()},
            self._scores,
            [
                *self.stage.dropout.state(),
                *(generator.bit_generator.state for generator in self._generators()),
            ],
        )

    def restore(self, state: State) -> None:
        """Go on from the state of a Training of the same stage and settings.

        Raises ValueError if the state is that of another number of runs.
        """
        self._flat.data.copy_(state.tensors["parameters"])
        self._best.copy_(state.tensors["best"])
        # Adam's own tensors go to the device of the parameters, but for the plain implementation's step counter.
        adam = {name: value for name, value in state.tensors.items() if name not in ("parameters", "best")}
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": {0: adam}})
        self._scores = state.scores
        runs = self.stage.runs
        self.stage.dropout.restore(state.streams[:runs])
        for generator, saved in zip(self._generators(), state.streams[runs:], strict=True):
            generator.bit_generator.state = saved

    def _generators(self) -> list[np.random.Generator]:
        return [*self.stage.order, *self.stage.chance]

    @torch.inference_mode()
    def step(self, index: Tensor) -> None:
        """One step of every run. `index` is (R, B) int64: the numbers of each run's batch in the strategy's pool."""
        stage, strategy = self.stage, self.strategy
        batch = strategy.pool.batch(index).to(self._flat.device)
        masks = stage.dropout.masks(index.shape[1])
        prediction, trace = stage.network.forward(self.parameters, batch.acoustic, batch.text, masks)
        _, output_gradient = stage.objective(prediction, batch.targets)
        output_gradient = strategy.output_gradient(index, prediction, output_gradient)
        stage.network.backward(self.parameters, trace, output_gradient, self._gradient)
        self._flat.grad = strategy.adjust(self.parameters, self._gradient.flat)
        self._optimiser.step()

    def validate(self, validation: Samples) -> list[float]:
        """Per run the mean CCC over dimensions on the whole split, NaN if a prediction is not finite."""
        truth = validation.targets.cpu().numpy()
        predictions = self.stage.network.predict(self.parameters, validation).cpu().numpy()
        return [_mean_ccc(truth, prediction) for prediction in predictions]


def _optimiser(parameters: torch.nn.Parameter, learning_rate: float) -> torch.optim.Adam:
    fused = parameters.device.type in _FUSED_DEVICES
    return torch.optim.Adam([parameters], lr=learning_rate, fused=fused, foreach=False)


def _best_epoch(scores: list[float]) -> int:
    """The first of equals; NaN is worse than everything."""
    return int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))


def _mean_ccc(truth: npt.NDArray[np.float32], prediction: npt.NDArray[np.float32]) -> float:
    if not np.isfinite(prediction).all():
        return float("nan")
    return float(np.mean([ccc(truth[:, i], prediction[:, i]) for i in range(truth.shape[1])]))
