"""One stage of training, of a stack of runs: epochs, early stopping, the best state of each run."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ser_memory.common.metrics import ccc
from ser_memory.common.reporting import Advance, spare
from ser_memory.train.samples import Samples
from ser_memory.train.settings import LaterStageSettings, TrainingSettings
from ser_memory.train.strategies import GradientStrategy, Stage

# PyTorch's fused Adam exists for these. Elsewhere, such as on `meta`, its plain implementation runs.
_FUSED_DEVICES = ("cpu", "cuda", "mps", "xpu")


@dataclass(frozen=True)
class Trained:
    """The outcome of a stage for one run of a stack."""

    parameters: Tensor  # (P,) of its best epoch
    scores: list[float]  # validation CCC in [-1, 1] after each epoch, the mean over dimensions
    diverged: bool = False  # the predictions stopped being finite
    seconds: float = 0.0  # that it took; of a stack, its share
    bent: list[float] = field(
        default_factory=list
    )  # `Strategy.bent_shares` of each epoch, empty if there are none
    score: float | None = None  # validation score of `parameters`; of the best epoch unless it is an average
    share: float | None = None  # of the new parameters, if they were interpolated


class PausedError(Exception):
    """Not an error: a stage was paused on request."""


@dataclass(frozen=True)
class State:
    """A stage of one run between two epochs, in a form that can be stored and read on another device."""

    tensors: dict[str, Tensor]  # on the CPU
    scores: list[float]  # validation CCC after each epoch
    streams: list[Any]  # of its random streams, as JSON can hold them once NumPy arrays are lists
    seconds: float = 0.0
    bent: list[float] = field(default_factory=list)


class Training:
    """A stage under way. Runs of a stack share the work of each step, and nothing else.

    A run that has stopped (by patience, or because it diverged) still takes part in the steps, but its results
    no longer count. Raises ValueError if the targets have another number of columns than the network has heads.
    """

    def __init__(
        self,
        stage: Stage,
        strategy: GradientStrategy,
        settings: TrainingSettings,
        later: LaterStageSettings | None = None,
    ) -> None:
        columns, dimensions = stage.current.targets.shape[1], stage.network.architecture.dimensions
        if columns != len(dimensions):  # (R, B, 1) and (R, B, 2) would broadcast silently
            raise ValueError(
                f"Targets have {columns} columns, but the network predicts {', '.join(dimensions)}."
            )
        self.stage = stage
        self.strategy = strategy
        self._settings = settings
        self._later = later or LaterStageSettings()
        self._held_out = [
            kept.held_out.shared(stage.start) for kept in stage.kept if kept.held_out is not None
        ]
        self._flat = torch.nn.Parameter(stage.start.clone(), requires_grad=False)
        self._optimiser = _optimiser(self._flat, settings.learning_rate)
        self.parameters = stage.network.unpack(self._flat.data)
        self._gradient = stage.network.unpack(torch.empty_like(stage.start))
        self._average = stage.start.clone() if self._later.average == "ema" else None  # of the parameters
        self._best = stage.start.clone()
        self._scores: list[list[float]] = [[] for _ in range(stage.runs)]
        self._bent: list[list[float]] = [[] for _ in range(stage.runs)]
        self._seconds = [0.0] * stage.runs

    @torch.inference_mode()
    def run(
        self,
        validation: Samples,
        advance: Advance = lambda _: None,
        pause: Callable[[], bool] = lambda: False,
    ) -> list[Trained]:
        """Train to the end: one result per run, in the order of the stack.

        Args:
            validation: the split whose CCC decides which epoch is best, and when a run stops.
            advance: receives the number of epochs done, summed over runs. When a run stops early, its remaining
                epochs are spared.
            pause: whether to pause; called after every epoch.

        Raises PausedError if `pause` returns true. `states` then hold everything to continue from.
        """
        while going := [run for run in range(self.stage.runs) if not self._is_over(run)]:
            begun = time.perf_counter()
            for index in self.strategy.batches():
                self.step(index)
            now, bent = self.validate(validation), self.strategy.bent_shares()
            seconds = (time.perf_counter() - begun) / len(going)
            for run in going:
                scores = self._scores[run]
                scores.append(now[run])
                self._bent[run] += [] if bent is None else [bent[run]]
                self._seconds[run] += seconds
                if _best_epoch(scores) == len(scores) - 1:
                    self._best[run] = self._current[run]
                advance(1.0)
                if self._is_over(run) and (spared := self._settings.epochs - len(scores)):
                    spare(advance, spared)
            if pause():
                raise PausedError
        if self._later.average == "interpolate":
            best, kept, shares = self._interpolated(validation)
        else:
            best, kept = self._best, [scores[_best_epoch(scores)] for scores in self._scores]
            shares = [None] * self.stage.runs
        return [
            Trained(
                best[run].clone(),
                scores,
                not np.isfinite(scores[-1]),
                self._seconds[run],
                self._bent[run],
                kept[run],
                shares[run],
            )
            for run, scores in enumerate(self._scores)
        ]

    @property
    def _current(self) -> Tensor:
        """(R, P) parameters that are evaluated: those of the last step, or their average."""
        return self._flat.data if self._average is None else self._average

    def _interpolated(self, validation: Samples) -> tuple[Tensor, list[float], list[float | None]]:
        """(R, P) of each run, the parameters between those before the stage and the best after it (WiSE-FT).

        And of each run their score, and the share of the new parameters.

        Wortsman et al. 2022, "Robust fine-tuning of zero-shot models". The share of the new ones is the one of eleven, from
        0 to 1, that is best on validation and memory; without a memory, `average_share`.
        """
        start, end = self.stage.start, self._best
        if not self._held_out:
            share = self._later.average_share
            between = torch.lerp(start, end, share)
            return between, self._scored(between, validation, with_memory=False), [share] * len(start)
        shares = torch.linspace(0, 1, 11, device=start.device)
        tried = [torch.lerp(start, end, share) for share in shares]
        scores = [self._scored(parameters, validation, with_memory=True) for parameters in tried]
        chosen = [_best_epoch(list(of_run)) for of_run in zip(*scores, strict=True)]
        best = torch.stack([tried[share][run] for run, share in enumerate(chosen)])
        kept = [scores[share][run] for run, share in enumerate(chosen)]
        return best, kept, [share / (len(shares) - 1) for share in chosen]

    def _is_over(self, run: int) -> bool:
        """Whether a run has had all its epochs, has run out of patience, or has diverged."""
        scores = self._scores[run]
        if not scores:
            return False
        patient = len(scores) - 1 - _best_epoch(scores) < self._settings.patience
        return not (np.isfinite(scores[-1]) and patient and len(scores) < self._settings.epochs)

    def states(self) -> list[State]:
        """Everything that later epochs depend on, per run."""
        adam = self._optimiser.state[self._flat]
        tensors = {"parameters": self._flat.data, "best": self._best, **adam}
        if self._average is not None:
            tensors["average"] = self._average
        streams = zip(*self._streams(), strict=True)
        return [
            State(
                # Adam's step counter has no axis of runs.
                {name: (each[run] if each.ndim else each).cpu().clone() for name, each in tensors.items()},
                self._scores[run],
                list(own),
                self._seconds[run],
                self._bent[run],
            )
            for run, own in enumerate(streams)
        ]

    def restore(self, states: Sequence[State]) -> None:
        """Continue from the states of a Training of the same stage and settings, which may have had other runs.

        Raises ValueError if they are not after the same epoch.
        """
        steps = {float(state.tensors["step"]) for state in states}
        if len(steps) != 1 or len(states) != self.stage.runs:
            raise ValueError(
                f"{len(states)} states after the steps {steps} are none of {self.stage.runs} runs."
            )
        stacked = {
            name: each if not each.ndim else torch.stack([state.tensors[name] for state in states])
            for name, each in states[0].tensors.items()
        }
        self._flat.data.copy_(stacked.pop("parameters"))
        self._best.copy_(stacked.pop("best"))
        if self._average is not None:
            self._average.copy_(stacked.pop("average"))
        # Adam's own tensors go to the device of the parameters, but for the plain implementation's step counter.
        self._optimiser.load_state_dict({**self._optimiser.state_dict(), "state": {0: stacked}})
        self._scores = [list(state.scores) for state in states]
        self._seconds = [state.seconds for state in states]
        self._bent = [list(state.bent) for state in states]
        dropout, *generators = zip(*(state.streams for state in states), strict=True)
        self.stage.dropout.restore(dropout)
        for own, saved in zip((self.stage.order, self.stage.chance), generators, strict=True):
            for generator, one in zip(own, saved, strict=True):
                generator.bit_generator.state = one

    def _streams(self) -> tuple[list[Any], ...]:
        """States of the random streams, each of every run."""
        numpy = (
            [generator.bit_generator.state for generator in own]
            for own in (self.stage.order, self.stage.chance)
        )
        return (self.stage.dropout.state(), *numpy)

    @torch.inference_mode()
    def step(self, index: Tensor) -> None:
        """One step of every run. `index` is (R, B) int64: the numbers of each run's batch in the strategy's pool."""
        stage, strategy = self.stage, self.strategy
        batch = strategy.pool.batch(index).to(self._flat.device)
        masks = stage.dropout.masks(index.shape[1])
        prediction, trace = stage.network.forward(self.parameters, batch.acoustic, batch.text, masks)
        output_gradient = strategy.output_gradient(index, prediction, batch.targets)
        stage.network.backward(self.parameters, trace, output_gradient, self._gradient)
        self._flat.grad = strategy.adjust(self.parameters, self._gradient.flat)
        self._optimiser.step()
        if self._average is not None:
            self._average.lerp_(self._flat.data, 1 - self._later.average_decay)

    def validate(self, validation: Samples) -> list[float]:
        """Per run the mean CCC over dimensions on the whole split, NaN if a prediction is not finite.

        With `stop_on` memory, the mean of that and of what the held-out part of each memory has, as equal halves.
        """
        return self._scored(self._current, validation, with_memory=self._later.stop_on == "memory")

    def _scored(self, flat: Tensor, validation: Samples, with_memory: bool) -> list[float]:
        network = self.stage.network
        parameters = network.unpack(flat)
        of_current = [
            mean_ccc(validation, prediction) for prediction in network.predict(parameters, validation)
        ]
        if not (with_memory and self._held_out):
            return of_current
        of_memories = []
        for memory in self._held_out:
            predictions = network.infer(parameters, memory.acoustic, memory.text)
            pairs = zip(memory.targets.cpu().numpy(), predictions.cpu().numpy(), strict=True)
            of_memories.append([_mean_ccc(truth, prediction) for truth, prediction in pairs])
        means = np.mean(of_memories, axis=0).tolist()
        return [(one + other) / 2 for one, other in zip(of_current, means, strict=True)]


def _optimiser(parameters: torch.nn.Parameter, learning_rate: float) -> torch.optim.Adam:
    fused = parameters.device.type in _FUSED_DEVICES
    return torch.optim.Adam([parameters], lr=learning_rate, fused=fused, foreach=False)


def _best_epoch(scores: list[float]) -> int:
    """The first of equals; NaN is worse than everything."""
    return int(np.argmax(np.nan_to_num(scores, nan=-np.inf)))


def mean_ccc(samples: Samples, prediction: Tensor) -> float:
    """The mean CCC over the rated dimensions of (N, K) predictions, NaN if a prediction is not finite."""
    return _mean_ccc(samples.targets.cpu().numpy(), prediction.cpu().numpy())


def _mean_ccc(truth: npt.NDArray[np.float32], prediction: npt.NDArray[np.float32]) -> float:
    if not np.isfinite(prediction).all():
        return float("nan")
    rated = np.isfinite(truth)
    columns = [column for column in range(truth.shape[1]) if rated[:, column].any()]
    values = [ccc(truth[rated[:, i], i], prediction[rated[:, i], i]) for i in columns]
    return float(np.mean(values)) if values else 0.0
