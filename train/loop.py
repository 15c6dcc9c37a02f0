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
from ser_memory.train.data import DIMENSIONS, Samples
from ser_memory.train.strategies import Stage, Strategy


@dataclass(frozen=True)
class LoopSettings:
    """How a stage is trained; all our choice, the source gives none of it."""

    loss: str = "ccc"  # a key of train.objective.OBJECTIVES
    learning_rate: float = 1e-4
    batch_size: int = 128
    epochs: int = 50  # at most
    patience: int = 10  # epochs without a better validation CCC before a stage stops


@dataclass(frozen=True)
class Trained:
    """What one run of a stack came to."""

    parameters: Tensor  # (P,) of its best epoch
    scores: list[float]  # validation CCC, the mean of both dimensions, after each epoch
    diverged: bool = False  # the predictions stopped being finite


class PausedError(Exception):
    """Not an error: a stage was interrupted as asked."""


@dataclass(frozen=True)
class State:
    """A stage between two epochs."""

    tensors: dict[str, Tensor]
    scores: list[list[float]]  # of each run
    streams: list[Any]  # states of the random streams


class Training:
    """A stage under way. Runs of a stack share the work of each step, and nothing else.

    A run that has stopped (by patience, or because it diverged) is computed on but no longer looked at.
    """

    def __init__(self, stage: Stage, strategy: Strategy, settings: LoopSettings) -> None:
        self.stage = stage
        self.strategy = strategy
        self._settings = settings
        self._flat = torch.nn.Parameter(stage.start.clone(), requires_grad=False)
        self._optimiser = torch.optim.Adam([self._flat], lr=settings.learning_rate, fused=True)
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
        """Train to the end. `advance` is told of epochs done over all runs, those not needed included.

        Raises PausedError when `pause` says so after an epoch; `state` is then where to go on from.
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
        """Whether a run has had its epochs, has not become better for too long, or has diverged."""
        scores = self._scores[run]
        if not scores:
            return False
        patient = len(scores) - 1 - _best_epoch(scores) < self._settings.patience
        return not (np.isfinite(scores[-1]) and patient and len(scores) < self._settings.epochs)

    def state(self) -> State:
        """Everything that the epochs to come depend on; on a CPU."""
        adam = self._optimiser.state[self._flat]
        tensors = {"parameters": self._flat.data, "best": self._best, **adam}
        return State(tensors, self._scores, [stream.state for stream in self._streams()])

    def restore(self, state: State) -> None:
        """Go on from where a Training of the same stage and settings was."""
        adam = {name: value for name, value in state.tensors.items() if name not in ("parameters", "best")}
        self._flat.data.copy_(state.tensors["parameters"])
        self._best.copy_(state.tensors["best"])
        self._optimiser.state[self._flat] = adam
        self._scores = state.scores
        for stream, saved in zip(self._streams(), state.streams, strict=True):
            stream.state = saved

    def _streams(self) -> list[np.random.BitGenerator]:
        generators = [*self.stage.order, *self.stage.chance]
        return [*self.stage.dropout.streams, *(generator.bit_generator for generator in generators)]

    @torch.inference_mode()
    def step(self, index: Tensor) -> None:
        """One step of every run, on its own (B,) numbers of the (R, B) `index`."""
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
        """Per run the mean CCC of both dimensions on the whole split, NaN where a prediction is not finite."""
        truth = validation.targets.cpu().numpy()
        predictions = self.stage.network.predict(self.parameters, validation).cpu().numpy()
        return [_mean_ccc(truth, prediction) for prediction in predictions]


def _best_epoch(scores: list[float]) -> int:
    """The first of equals; NaN is worse than everything."""
    return int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))


def _mean_ccc(truth: npt.NDArray[np.float32], prediction: npt.NDArray[np.float32]) -> float:
    if not np.isfinite(prediction).all():
        return float("nan")
    return float(np.mean([ccc(truth[:, i], prediction[:, i]) for i in range(len(DIMENSIONS))]))
