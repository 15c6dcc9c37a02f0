"""A stack of runs that are trained by gradient steps, from stage to stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ser_memory.common.reporting import Advance
from ser_memory.train.dropout import Dropout
from ser_memory.train.kept import KeptBytes
from ser_memory.train.loop import PausedError, Training
from ser_memory.train.memory.contents import choose, contents
from ser_memory.train.memory.remedies import Deviations, protected, saved_bytes
from ser_memory.train.objective import OBJECTIVES
from ser_memory.train.results import Held
from ser_memory.train.samples import Samples
from ser_memory.train.settings import LaterStageSettings, Run, Variant, held_out_of
from ser_memory.train.store import Record
from ser_memory.train.strategies import STRATEGIES, GradientStrategy, Kept, Stage
from ser_memory.train.workbench import Workbench, generator, stream


class GradientStack:
    """Runs of one strategy in one fold, or first stages. What a run learns does not depend on the others."""

    def __init__(self, bench: Workbench, runs: Sequence[Run]) -> None:
        self._bench = bench
        self.runs = runs
        strategy = STRATEGIES[runs[0].strategy]
        assert issubclass(strategy, GradientStrategy)
        self._strategy = strategy
        self._options = bench.experiment.options_of(runs[0].strategy)
        self._kept: list[Kept] = []
        self._memories: list[list[Held]] = [[] for _ in runs]

    def train(self, number: int, advance: Advance, pause: Callable[[], bool]) -> list[Run]:
        """Train stage `number` (from 1) and keep it, if any of it is missing; returns the runs that diverged.

        The stages before must be in the store. `advance` gets the epochs that are done. Raises PausedError if `pause` said
        so; what was trained until then is kept in the store.
        """
        bench, runs = self._bench, self.runs
        keys = bench.keys_of(runs, number)
        missing = [place for place, key in enumerate(keys) if bench.store.record(key) is None]
        if not missing:
            return []
        # What came before lies in tensors of the whole stack, so that only a first stage can be trained in part.
        places = missing if number == 1 else range(len(runs))
        stack = self if len(places) == len(runs) else GradientStack(bench, [runs[place] for place in places])
        training = stack.training(number, stack.start(number), stack.kept(number))
        paused = [bench.store.paused(keys[place]) for place in places]
        states = [state for state in paused if state is not None]
        if len(states) == len(paused) and len({float(state.tensors["step"]) for state in states}) == 1:
            training.restore(states)
        try:
            trained = training.run(bench.corpus(runs, number).splits["validation"], advance, pause)
        except PausedError:
            for place, state in zip(places, training.states(), strict=True):
                bench.store.pause(keys[place], state)
            raise
        for place, one in zip(places, trained, strict=True):
            if not one.diverged:
                record = Record(
                    one.scores, self._memories[place], one.seconds, one.bent, one.score, one.share
                )
                bench.store.save(keys[place], one.parameters, record)
        return [runs[place] for place, one in zip(places, trained, strict=True) if one.diverged]

    def predict(self, parameters: Tensor, samples: Samples) -> Tensor:
        """(R, N, K) predictions with (R, P) parameters."""
        network = self._bench.network
        return network.predict(network.unpack(parameters.to(self._bench.device)), samples)

    def kept_bytes(self, number: int) -> KeptBytes:
        """What a run keeps from stage `number` (from 1) for later ones.

        The strategy itself keeps it, of samples and parameters of the right shapes, but learns from one utterance only.
        """
        bench, train = self._bench, self._bench.corpus(self.runs, number).splits["train"]
        (run,) = self.runs
        allowed = train if self._strategy.earlier == "corpora" else None
        held_out = None
        if self._strategy.earlier == "memory" and run.variant is not None:
            allowed = train.select(torch.arange(min(run.variant.memory_size, len(train))))
            if bench.experiment.later_of(run.strategy).holds_out:
                parts = torch.arange(len(allowed)).split(
                    [len(allowed) - held_out_of(len(allowed)), held_out_of(len(allowed))]
                )
                allowed, held_out = (allowed.select(part) for part in parts)
        nothing = bench.network.unpack(torch.zeros(1, bench.network.size, device=bench.device))
        with torch.inference_mode():
            one = train.select(torch.arange(1))
            kept = self._strategy.keep(bench.network, nothing, one, allowed, *self._options)
            size = replace(kept, held_out=held_out).size
        if self._strategy.earlier != "memory":
            return size
        settings = bench.experiment.memory_of(run.strategy)
        saved = sum(saved_bytes(part, settings) for part in (allowed, held_out) if part is not None)
        return size._replace(memory=size.memory - saved)

    def start(self, number: int) -> Tensor:
        """(R, P) parameters with which stage `number` begins."""
        if number > 1:
            keys = self._bench.keys_of(self.runs, number - 1)
            return self._bench.store.parameters(keys).to(self._bench.device)
        network = self._bench.network
        rows = [network.initial(generator(run.seed, 0, "initialisation")) for run in self.runs]
        return torch.stack(rows).to(self._bench.device)

    def training(self, number: int, start: Tensor, kept: Sequence[Kept]) -> Training:
        """Stage `number` (from 1), about to begin from (R, P) parameters."""
        bench, runs = self._bench, self.runs
        settings = bench.experiment.training
        # Of what the stage learns from, and of nothing else: other corpora and test labels are not in its fingerprint.
        learned = [bench.corpus(runs, stage).splits["train"] for stage in range(1, number + 1)]
        rated = all(bool(train.targets.isfinite().all()) for train in learned)
        stage = Stage(
            bench.network,
            start,
            replace(OBJECTIVES[settings.loss], rated=rated),
            bench.corpus(runs, number).splits["train"],
            kept,
            settings.batch_size,
            Dropout(
                bench.network.dropouts, [stream(run.seed, number, "dropout") for run in runs], bench.device
            ),
            order=[generator(run.seed, number, "order") for run in runs],
            chance=[generator(run.seed, number, "strategy") for run in runs],
        )
        name = runs[0].strategy
        strategy = self._strategy(stage, *self._options)
        later = bench.experiment.later_of(name) if number > 1 else LaterStageSettings()
        return Training(stage, strategy, settings, later)

    def kept(self, number: int) -> list[Kept]:
        """What the stack carries on from all stages before `number`."""
        for earlier in range(len(self._kept) + 1, number):
            what, held = self.keep(earlier, self.start(earlier + 1))
            self._kept.append(what)
            self._memories = [before + new for before, new in zip(self._memories, held, strict=True)]
        return self._kept

    def keep(self, number: int, parameters: Tensor) -> tuple[Kept, list[list[Held]]]:
        """What a stack's strategy carries on from stage `number`, and what each run's memory of it holds.

        Of the memories a fifth may be held out: it is chosen by chance, for each run on its own.
        """
        bench, runs, corpus = self._bench, self.runs, self._bench.corpus(self.runs, number)
        train = corpus.splits["train"]
        unpacked = bench.network.unpack(parameters)
        if self._strategy.earlier != "memory":
            allowed = train if self._strategy.earlier == "corpora" else None
            return self._strategy.keep(bench.network, unpacked, train, allowed, *self._options), [
                [] for _ in runs
            ]
        chosen = [remembered(train, variant, run.seed, number) for run in runs if (variant := run.variant)]
        held = [contents(corpus, rows) for rows in chosen]
        memories = self._as_kept(number, train, chosen)
        if not bench.experiment.later_of(runs[0].strategy).holds_out:
            return self._strategy.keep(
                bench.network, unpacked, train, _joined(memories), *self._options
            ), held
        parts = [
            [
                memory.select(torch.from_numpy(places))
                for places in split_memory(len(memory), run.seed, number)
            ]
            for run, memory in zip(runs, memories, strict=True)
        ]
        trained, looked_at = (_joined(part) for part in zip(*parts, strict=True))
        kept = self._strategy.keep(bench.network, unpacked, train, trained, *self._options)
        return replace(kept, held_out=looked_at), held

    def _as_kept(self, number: int, train: Samples, chosen: Sequence[npt.NDArray[np.int64]]) -> list[Samples]:
        """The memory of each run from its chosen rows."""
        settings = self._bench.experiment.memory_of(self.runs[0].strategy)
        deviations = Deviations(train)
        return [
            protected(
                train.select(torch.from_numpy(rows)),
                settings,
                deviations,
                generator(run.seed, number, "memory noise"),
            )
            for run, rows in zip(self.runs, chosen, strict=True)
        ]


def remembered(train: Samples, variant: Variant, seed: int, number: int) -> npt.NDArray[np.int64]:
    """Rows of the training split of stage `number` (from 1) that go into a run's memory."""
    return choose(train, variant.sampler, variant.memory_size, generator(seed, number, "memory"))


def split_memory(size: int, seed: int, number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places in a memory of stage `number`: the four fifths that are trained on, and the fifth held out; each rising."""
    order = generator(seed, number, "held out").permutation(size)
    fifth = held_out_of(size)
    return np.sort(order[fifth:]), np.sort(order[:fifth])


def _joined(memories: Sequence[Samples]) -> Samples:
    """The memories of runs, one after the other."""
    return memories[0] if len(memories) == 1 else Samples.concatenate(memories)
