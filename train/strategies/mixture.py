"""Training on new and earlier samples together, shuffled: what experience replay and joint training have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ser_memory.common.options import Options, option
from ser_memory.train.strategies.base import GradientStrategy, Stage

if TYPE_CHECKING:
    from torch import Tensor

POOLED, PER_CORPUS = "pooled", "per-corpus"


@dataclass(frozen=True)
class ReplayLossOptions(Options):
    title = "Strategies that mix corpora: experience-replay, prototype-replay, der++ and joint"

    replay_loss: str = option(
        POOLED,
        choices=(POOLED, PER_CORPUS),
        help="The loss of a batch with several corpora: of the whole batch, or the mean of each corpus's own; corpora "
        "with fewer than 16 utterances in the batch are taken together.",
    )


class Mixture(GradientStrategy):
    """Trains on the new corpus and what is kept of all earlier ones, shuffled together.

    The CCC of a mixed batch also rewards a model for telling the corpora apart by their means; the mean of each
    corpus's own CCC does not.
    """

    options: ClassVar[tuple[type[Options], ...]] = (ReplayLossOptions,)

    def __init__(self, stage: Stage, loss: ReplayLossOptions, *others: Any) -> None:
        from ser_memory.train.samples import Pool

        super().__init__(stage)
        earlier = [kept.samples for kept in stage.kept if kept.samples is not None]
        self.pool = Pool(stage.current, earlier, stage.runs, owned=self.earlier != "corpora")
        self._per_corpus = loss.replay_loss == PER_CORPUS and bool(stage.kept)

    def output_gradient(self, index: Tensor, prediction: Tensor, targets: Tensor) -> Tensor:
        from ser_memory.train.objective import groups_of

        if not self._per_corpus:
            return super().output_gradient(index, prediction, targets)
        groups = groups_of(self.pool.parts(index))
        return self.stage.objective.per_group(prediction, targets, groups)[1]
