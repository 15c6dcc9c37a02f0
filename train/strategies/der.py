"""Dark Experience Replay++ (Buzzega et al. 2020): the memory also keeps the model's predictions of that time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ser_memory.common.options import Options, option
from ser_memory.train.strategies.base import GradientStrategy, Kept, Stage
from ser_memory.train.strategies.mixture import PER_CORPUS, ReplayLossOptions

if TYPE_CHECKING:
    from torch import Tensor

    from ser_memory.train.model import Network, Parameters
    from ser_memory.train.samples import Samples


@dataclass(frozen=True)
class DarkExperienceReplayOptions(Options):
    title = "Strategy der++"

    der_alpha: float = option(0.5, minimum=0, help="Weight of the distance to old answers.")
    der_beta: float = option(0.5, minimum=0, help="Weight of the loss on remembered utterances.")


class DarkExperienceReplay(GradientStrategy):
    """Adds to every step the distance to old predictions for some remembered samples, and the loss on others."""

    earlier = "memory"
    keeps = ("samples", "answers")
    options = (ReplayLossOptions, DarkExperienceReplayOptions)

    @classmethod
    def keep(
        cls,
        network: Network,
        parameters: Parameters,
        train: Samples,
        allowed: Samples | None,
        *options: Any,
    ) -> Kept:
        import torch

        assert allowed is not None
        memory = allowed.shared(parameters.flat)
        answers = network.infer(parameters, memory.acoustic, memory.text)
        # Where the corpus has no ratings, the model knows nothing: these answers are chance.
        rated = train.targets.isfinite().any(dim=0).to(answers.device)
        return Kept(allowed, answers=answers.masked_fill(~rated, torch.nan))

    def __init__(self, stage: Stage, loss: ReplayLossOptions, options: DarkExperienceReplayOptions) -> None:
        import torch

        from ser_memory.train.objective import squared_distance

        super().__init__(stage)
        self._distance = squared_distance(stage.objective)
        self._options = options
        self._per_corpus = loss.replay_loss == PER_CORPUS
        self._gradient = stage.gradient()
        memories = stage.memories()
        self._sizes = [memory.targets.shape[1] for memory in memories]
        self._memory = memories[0].join(memories[1:]) if memories else None
        if memories:
            self._answers = torch.cat(
                [kept.answers for kept in stage.kept if kept.answers is not None], dim=1
            )

    def adjust(self, parameters: Parameters, gradient: Tensor) -> Tensor:
        from ser_memory.train.samples import take

        memory, stage = self._memory, self.stage
        if memory is None:
            return gradient
        for weight, answered in ((self._options.der_alpha, True), (self._options.der_beta, False)):
            drawn = stage.draw(memory.targets.shape[1], stage.batch_size)
            index = drawn.to(stage.start.device)
            acoustic, text = take(memory.acoustic, index), take(memory.text, index)
            masks = stage.dropout.masks(index.shape[1])
            prediction, trace = stage.network.forward(parameters, acoustic, text, masks)
            if answered:
                _, output_gradient = self._distance(prediction, take(self._answers, index))
            else:
                output_gradient = self._remembered_loss(drawn, prediction, take(memory.targets, index))
            stage.network.backward(parameters, trace, output_gradient, self._gradient)
            gradient = gradient.add_(self._gradient.flat, alpha=weight)
        return gradient

    def _remembered_loss(self, index: Tensor, prediction: Tensor, targets: Tensor) -> Tensor:
        """The gradient of the loss on remembered utterances, whose numbers are (R, B) `index`, on the host."""
        from ser_memory.train.objective import groups_of
        from ser_memory.train.samples import parts_of

        if not self._per_corpus:
            return self.stage.objective(prediction, targets)[1]
        groups = groups_of(parts_of(index, self._sizes))
        return self.stage.objective.per_group(prediction, targets, groups)[1]
