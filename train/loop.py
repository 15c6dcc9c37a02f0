"""One stage of training, of a stack of runs: epochs, early stopping, the best state of each run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from common.metrics import ccc
from train.data import DIMENSIONS, Samples
from train.strategies import Stage, Strategy


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


class Training:
    """A stage under way. Runs of a stack share the work of each step, and nothing else.

    A run that has stopped (by patience, or because it diverged) is computed on but no longer looked at.
    """

    def __init__(self, stage: Stage, strategy: Strategy, settings: LoopSettings) -> None:
        self.stage = stage
        self.strategy = strategy
        self._settings = settings
        network = stage.network
        flat = torch.nn.Parameter(stage.start.clone(), requires_grad=False)
        self._optimiser = torch.optim.Adam([flat], lr=settings.learning_rate, fused=True)
        self.parameters = network.unpack(flat.data)
        self._gradient = network.unpack(torch.empty_like(stage.start))
        self._flat = flat

    @torch.inference_mode()
    def run(self, validation: Samples, advance: Callable[[float], None] = lambda _: None) -> list[Trained]:
        """Train to the end. `advance` is told of epochs done over all runs, those not needed included."""
        settings, runs = self._settings, self.stage.runs
        best = self.stage.start.clone()
        scores: list[list[float]] = [[] for _ in range(runs)]
        going = set(range(runs))
        diverged: set[int] = set()
        for _ in range(settings.epochs):
            for index in self.strategy.batches():
                self.step(index)
            for run, score in enumerate(self.validate(validation)):
                if run not in going:
                    continue
                scores[run].append(score)
                peak = int(np.argmax(scores[run]))  # the first of equals
                if not np.isfinite(score):
                    diverged.add(run)
                elif peak == len(scores[run]) - 1:
                    best[run] = self.parameters.flat[run]
                if run in diverged or len(scores[run]) - 1 - peak >= settings.patience:
                    going.remove(run)
                    advance(float(settings.epochs - len(scores[run])))
                advance(1.0)
            if not going:
                break
        return [Trained(best[run].clone(), scores[run], run in diverged) for run in range(runs)]

    @torch.inference_mode()
    def step(self, index: Tensor) -> None:
        """One step of every run, on its own (B,) numbers of the (R, B) `index`."""
        stage, strategy = self.stage, self.strategy
        batch = strategy.pool.batch(index).to(self._flat.device)
        masks = stage.dropout.masks(index.shape[1])
        prediction = stage.network.forward(self.parameters, batch.acoustic, batch.text, masks)
        _, of_outputs = stage.objective(prediction, batch.targets)
        of_outputs = strategy.output_gradient(index, prediction, of_outputs)
        stage.network.backward(self.parameters, of_outputs, self._gradient)
        self._flat.grad = strategy.adjust(self.parameters, self._gradient.flat)
        self._optimiser.step()

    def validate(self, validation: Samples) -> list[float]:
        """Per run the mean CCC of both dimensions on the whole split, NaN where a prediction is not finite."""
        truth = validation.targets.cpu().numpy()
        predictions = self.stage.network.predict(self.parameters, validation).cpu().numpy()
        return [_mean_ccc(truth, prediction) for prediction in predictions]


def _mean_ccc(truth: npt.NDArray[np.float32], prediction: npt.NDArray[np.float32]) -> float:
    if not np.isfinite(prediction).all():
        return float("nan")
    return float(np.mean([ccc(truth[:, i], prediction[:, i]) for i in range(len(DIMENSIONS))]))
