"""A stack of runs that are trained by gradient steps, from stage to stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

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
from ser_memory.train.memory.samplers import fair_shares
from ser_memory.train.objective import OBJECTIVES
from ser_memory.train.plan import held_out_of
from ser_memory.train.results import Held
from ser_memory.train.runs import Run, Variant
from ser_memory.train.samples import Samples, take
from ser_memory.train.settings import LaterStageSettings, MemorySettings
from ser_memory.train.store import Record
from ser_memory.train.strategies import STRATEGIES, GradientStrategy, Kept, Stage
from ser_memory.train.workbench import Workbench, generator, stream


@dataclass(frozen=True)
class _Carried:
    """What a stack carries on from one corpus."""

    kept: Kept
    # Of each run the rows of the training split in its memory, in their order there, then those that are held out. None
    # without a memory, or if it comes from a bundle.
    rows: tuple[npt.NDArray[np.int64], ...] = ()


class GradientStack:
    """Runs of one strategy in one fold, or first stages. What a run learns does not depend on the others."""

    def __init__(self, bench: Workbench, runs: Sequence[Run]) -> None:
        self._bench = bench
        self.runs = runs
        strategy = STRATEGIES[runs[0].strategy]
        assert issubclass(strategy, GradientStrategy)
        self._strategy = strategy
        self._options = bench.experiment.options_of(runs[0].strategy)
        self._carried: list[_Carried] = []  # from each stage before

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
                record = Record(one.scores, self.held(place), one.seconds, one.bent, one.score, one.share)
                bench.store.save(keys[place], one.parameters, record)
        return [runs[place] for place, one in zip(places, trained, strict=True) if one.diverged]

    def predict(self, parameters: Tensor, samples: Samples) -> Tensor:
        """(R, N, K) predictions with (R, P) parameters."""
        network = self._bench.network
        return network.predict(network.unpack(parameters.to(self._bench.device)), samples)

    def kept_bytes(self, number: int, after: int) -> KeptBytes:
        """What a run keeps from stage `number` (from 1) when stage `after` is over.

        The strategy itself keeps it, of samples and parameters of the right shapes, but learns from one utterance only.
        """
        bench, begun = self._bench, self._bench.experiment.begun
        size = self._sizes(after)[number - 1] if self._remembers else 0
        if number <= begun:
            kept = self._bundled()[number - 1]
            return self._bytes(self._shrunk(_Carried(kept), number, after, size).kept if size else kept)
        train = bench.corpus(self.runs, number).splits["train"]
        allowed = train if self._strategy.earlier == "corpora" else None
        held_out = None
        if self._remembers:
            allowed, held_out = self._divided(train.select(torch.arange(size)))
        nothing = bench.network.unpack(torch.zeros(1, bench.network.size, device=bench.device))
        with torch.inference_mode():
            one = train.select(torch.arange(1))
            kept = self._strategy.keep(bench.network, nothing, one, allowed, *self._options)
            return self._bytes(replace(kept, held_out=held_out))

    def _bytes(self, kept: Kept) -> KeptBytes:
        """Bytes of what is kept, as a bundle stores it."""
        size = kept.size
        parts = [part for part in (kept.samples, kept.held_out) if part is not None]
        if not self._remembers:
            return size
        return size._replace(memory=size.memory - sum(saved_bytes(part, self._protection) for part in parts))

    def start(self, number: int) -> Tensor:
        """(R, P) parameters with which stage `number` begins."""
        begun = self._bench.experiment.begun
        if begun and number == begun + 1:
            rows = [self._bench.bundle(run).parameters for run in self.runs]
            return torch.stack(rows).to(self._bench.device)
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
        begun = bench.experiment.begun
        learned = [bench.corpus(runs, stage).splits["train"] for stage in range(begun + 1, number + 1)]
        rated = all(bool(train.targets.isfinite().all()) for train in learned)
        rated &= not begun or all(seen.complete for seen in bench.bundle(runs[0]).info.seen)
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

    def kept(self, number: int, parameters: Tensor | None = None) -> list[Kept]:
        """What the stack carries on from all stages before `number`.

        `parameters`, (R, P), stand for those after each of these stages, if these are not trained.
        """
        if not self._carried and self._bench.experiment.begun:
            self._carried = [_Carried(kept) for kept in self._bundled()]
        for earlier in range(len(self._carried) + 1, number):
            after = self.start(earlier + 1) if parameters is None else parameters
            self._carried.append(self._keep(earlier, after))
            if self._budget is not None:
                sizes = fair_shares(
                    [each.kept.rows // len(self.runs) for each in self._carried], self._budget
                )
                self._carried = [
                    self._shrunk(each, place, earlier, size)
                    for place, (each, size) in enumerate(zip(self._carried, sizes, strict=True), start=1)
                ]
        return [each.kept for each in self._carried[: number - 1]]

    def chosen(self, place: int) -> list[npt.NDArray[np.int64] | None]:
        """Of each stage so far, the rows of its cache that one run's memory holds, in its order: those held out are last.

        None where there is no memory, or a bundle held it.
        """
        return [
            self._bench.corpus(self.runs, number).splits["train"].rows.cpu().numpy()[carried.rows[place]]
            if carried.rows
            else None
            for number, carried in enumerate(self._carried, start=1)
        ]

    def held(self, place: int) -> list[Held]:
        """What the memories of one run hold, by cell and speaker; those of a bundle name no speakers."""
        return [
            held
            for number, carried in enumerate(self._carried, start=1)
            if carried.rows
            for held in contents(self._bench.corpus(self.runs, number), np.sort(carried.rows[place]))
        ]

    @property
    def _remembers(self) -> bool:
        return self._strategy.earlier == "memory" and self.runs[0].variant is not None

    @property
    def _later(self) -> LaterStageSettings:
        return self._bench.experiment.later_of(self.runs[0].strategy)

    @property
    def _protection(self) -> MemorySettings:
        variant = self.runs[0].variant
        return self._bench.experiment.memory_of(variant) if variant else MemorySettings()

    @property
    def _budget(self) -> int | None:
        return self._later.memory_budget

    def _bundled(self) -> list[Kept]:
        """What the bundles of the runs hold of each corpus."""
        bench = self._bench
        bundles = [bench.bundle(run) for run in self.runs]
        needed = self._strategy.keeps
        fields = [name for name in (*needed, "held_out") if name != "rated"]  # every bundle tells it in words
        rows = bench.corpora[0].splits["train"].rows.device
        found = zip(bundles[0].info.seen, *(bundle.kept for bundle in bundles), strict=True)
        return [
            replace(
                stacked(kept, fields, rows, bench.device),
                rated=self._rated(seen.rated) if "rated" in needed else None,
            )
            for seen, *kept in found
        ]

    def _rated(self, dimensions: Sequence[str]) -> Tensor:
        """(K,) bool, of each predicted dimension whether a corpus with ratings of these dimensions has it."""
        predicted = self._bench.network.architecture.dimensions
        return torch.tensor([name in dimensions for name in predicted], device=self._bench.device)

    def _sizes(self, after: int) -> list[int]:
        """Utterances in the memory of each corpus when stage `after` is over."""
        bench, variant = self._bench, self.runs[0].variant
        assert variant is not None
        sizes = [
            self._bench.bundle(self.runs[0]).kept[number - 1].rows
            if number <= bench.experiment.begun
            else min(variant.memory_size, len(bench.corpus(self.runs, number).splits["train"]))
            for number in range(1, after + 1)
        ]
        return sizes if self._budget is None else fair_shares(sizes, self._budget)

    def _keep(self, number: int, parameters: Tensor) -> _Carried:
        """What the strategy carries on from stage `number`, after which the runs have (R, P) parameters."""
        bench, runs = self._bench, self.runs
        train = bench.corpus(runs, number).splits["train"]

        def keep(allowed: Samples | None) -> Kept:
            unpacked = bench.network.unpack(parameters)
            return self._strategy.keep(bench.network, unpacked, train, allowed, *self._options)

        if not self._remembers:
            return _Carried(keep(train if self._strategy.earlier == "corpora" else None))
        chosen = [remembered(train, variant, run.seed, number) for run in runs if (variant := run.variant)]
        memories = self._as_kept(number, train, chosen)
        if not self._later.holds_out:
            return _Carried(keep(Samples.concatenate(memories)), tuple(chosen))
        parts = [
            _split(len(own), generator(run.seed, number, "held out"))
            for run, own in zip(runs, chosen, strict=True)
        ]
        trained, looked_at = (
            Samples.concatenate(
                [
                    memory.select(torch.from_numpy(places))
                    for memory, places in zip(memories, part, strict=True)
                ]
            )
            for part in zip(*parts, strict=True)
        )
        rows = tuple(own[np.concatenate(part)] for own, part in zip(chosen, parts, strict=True))
        return _Carried(replace(keep(trained), held_out=looked_at), rows)

    def _as_kept(self, number: int, train: Samples, chosen: Sequence[npt.NDArray[np.int64]]) -> list[Samples]:
        """The memory of each run from its chosen rows."""
        settings, deviations = self._protection, Deviations(train)
        return [
            protected(
                train.select(torch.from_numpy(rows)),
                settings,
                deviations,
                generator(run.seed, number, "memory noise"),
            )
            for run, rows in zip(self.runs, chosen, strict=True)
        ]

    def _divided(self, memory: Samples) -> tuple[Samples, Samples | None]:
        """A memory of the right shape as what is trained on and what is held out."""
        if not self._later.holds_out:
            return memory, None
        fifth = held_out_of(len(memory))
        trained, looked_at = torch.arange(len(memory)).split([len(memory) - fifth, fifth])
        return memory.select(trained), memory.select(looked_at)

    def _shrunk(self, carried: _Carried, number: int, after: int, size: int) -> _Carried:
        """Of the memory of stage `number` only `size` utterances per run, by its sampler, when stage `after` is over."""
        kept, variant = carried.kept, self.runs[0].variant
        assert kept.samples is not None
        assert variant is not None
        there = [len(part) // len(self.runs) for part in (kept.samples, kept.held_out) if part is not None]
        if size >= sum(there):
            return carried
        wanted = [size - held_out_of(size), held_out_of(size)] if len(there) > 1 else [size]
        parts = [part for part in (kept.samples, kept.held_out) if part is not None]
        chosen: list[list[npt.NDArray[np.int64]]] = [
            [
                choose(
                    part.select(torch.arange(place * n, (place + 1) * n)), variant.sampler, keep,
                    generator(run.seed, number, f"{name} of {after} corpora"),
                )
                for place, run in enumerate(self.runs)
            ]
            for part, n, keep, name in zip(parts, there, wanted, ("memory", "held out"), strict=False)
        ]  # fmt: skip
        smaller = [
            _select(part, [rows + place * n for place, rows in enumerate(own)])
            for part, n, own in zip(parts, there, chosen, strict=True)
        ]
        made = replace(kept, samples=smaller[0], held_out=smaller[1] if len(smaller) > 1 else None)
        if kept.answers is not None:
            index = torch.from_numpy(np.stack(chosen[0])).to(kept.answers.device)
            made = replace(made, answers=take(kept.answers, index))
        rows = tuple(
            whole[np.concatenate([own[place] + sum(there[:part]) for part, own in enumerate(chosen)])]
            for place, whole in enumerate(carried.rows)
        )
        return _Carried(made, rows)


def stacked(kept: Sequence[Kept], fields: Sequence[str], rows: torch.device, device: torch.device) -> Kept:
    """What several runs keep of one corpus as that of a stack; remembered rows go to one device, all else to another."""
    made: dict[str, Any] = {}
    for name in fields:
        values = [getattr(each, name) for each in kept]
        if values[0] is None:
            continue
        if isinstance(values[0], Samples):
            made[name] = Samples.concatenate(values).to(rows)
        elif isinstance(values[0], Tensor):
            made[name] = torch.cat(values).to(device)
        else:
            made[name] = values[0]  # statistics, which are the same for all runs
    return Kept(**made)


def remembered(train: Samples, variant: Variant, seed: int, number: int) -> npt.NDArray[np.int64]:
    """Rows of the training split of stage `number` (from 1) that go into a run's memory."""
    return choose(train, variant.sampler, variant.memory_size, generator(seed, number, "memory"))


def _split(size: int, random: np.random.Generator) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Places in a memory: the four fifths that are trained on, and the fifth that is held out; each rising."""
    order = random.permutation(size)
    fifth = held_out_of(size)
    return np.sort(order[fifth:]), np.sort(order[:fifth])


def _select(train: Samples, rows: Sequence[npt.NDArray[np.int64]]) -> Samples:
    """The rows of each run, one run after the other."""
    return train.select(torch.from_numpy(np.concatenate(rows)))
