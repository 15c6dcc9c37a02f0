"""Prototype replay: experience replay of pseudo-rows, drawn from statistics of earlier corpora.

Pseudorehearsal (Robins 1995) on frozen features, where a normal distribution per cell of labels can stand for a corpus.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ser_memory.common.options import Options, option
from ser_memory.train.strategies.base import Kept, Stage
from ser_memory.train.strategies.experience_replay import ExperienceReplay, ExperienceReplayOptions
from ser_memory.train.strategies.mixture import ReplayLossOptions

if TYPE_CHECKING:
    from torch import Tensor

    from ser_memory.train.model import Network, Parameters
    from ser_memory.train.samples import Samples


@dataclass(frozen=True)
class PrototypeReplayOptions(Options):
    title = "Strategy prototype-replay"

    prototype_rank: int = option(
        16, minimum=1, help="Directions kept per cell of labels; always fewer than a third of its utterances."
    )
    prototype_minimum: int = option(
        12, minimum=1, help="Utterances that a cell has at least; smaller cells are merged."
    )
    prototype_rows: int = option(
        1000, minimum=1, help="Pseudo-utterances per earlier corpus, drawn anew in every epoch."
    )


class PrototypeReplay(ExperienceReplay):
    """Experience replay that keeps no utterance: in every epoch the memory is drawn anew from statistics."""

    earlier = "nothing"
    keeps = ("prototypes",)
    options = (ReplayLossOptions, ExperienceReplayOptions, PrototypeReplayOptions)

    @classmethod
    def keep(
        cls,
        network: Network,
        parameters: Parameters,
        train: Samples,
        allowed: Samples | None,
        *options: Any,
    ) -> Kept:
        from ser_memory.train.memory.prototypes import prototypes

        del network, parameters, allowed
        *_, own = options
        return Kept(prototypes=prototypes(train, own.prototype_rank, own.prototype_minimum))

    def __init__(
        self,
        stage: Stage,
        loss: ReplayLossOptions,
        share: ExperienceReplayOptions,
        *own: PrototypeReplayOptions,
    ) -> None:
        super().__init__(stage, loss, share)
        self._rows = own[0].prototype_rows

    def batches(self) -> Iterator[Tensor]:
        """One epoch, with pseudo-rows of its own."""
        from ser_memory.train.samples import Pool

        stage = self.stage
        drawn = [
            kept.prototypes.draw(self._rows, stage.chance, stage.current.rows.device)
            for kept in stage.kept
            if kept.prototypes is not None
        ]
        self.pool = Pool(stage.current, drawn, stage.runs)
        yield from super().batches()
