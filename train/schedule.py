"""Who trains what, and when: worker processes on a CPU, stacks of runs on a GPU.

On a CPU a core trains one run after the other: side by side runs share nothing but the mapped caches, while
the threads of one run would wait for each other at every one of its small operations. On a GPU, which is idle
between such small operations, all runs of a strategy are one stack.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from ser_memory.common.errors import SerError
from ser_memory.common.machine import one_core_each
from ser_memory.train.data import Corpus, Source, load_corpora
from ser_memory.train.experiment import Advance, Experiment, Failure, Trainer
from ser_memory.train.loop import PausedError
from ser_memory.train.runs import Keys, Run
from ser_memory.train.store import Store

_TURN = 2.0  # seconds that a run trains at least before it makes room for another


@dataclass(frozen=True)
class Plan:
    """What is left to do of an experiment."""

    first: tuple[int, ...]  # seeds whose first stage is to be trained
    later: tuple[Run, ...]  # runs of which later stages are, or are to be evaluated on other corpora
    untrained: tuple[tuple[int, Run], ...]  # every stage (from 1) that is to be trained
    finished: int  # stages that are not

    def followers(self, seed: int) -> list[Run]:
        return [run for run in self.later if run.seed == seed]


def plan(experiment: Experiment, corpora: Sequence[Corpus], store: Store, device: torch.device) -> Plan:
    """Compare an experiment with what is finished."""
    keys = Keys(experiment.loop, experiment.strategy, corpora, device)

    def missing(run: Run, number: int) -> bool:
        return store.record(keys.of(run, number)) is None

    def stale(run: Run, number: int) -> bool:
        record = store.record(keys.of(run, number))
        return record is None or record.evaluated != keys.evaluated

    stages = range(2, len(corpora) + 1)
    first = [seed for seed in experiment.seeds if stale(Run(None, seed), 1)]
    runs = [Run(variant, seed) for seed in experiment.seeds for variant in experiment.variants]
    later = [run for run in runs if any(stale(run, number) for number in stages)]
    whole = [(1, Run(None, seed)) for seed in experiment.seeds]
    whole += [(number, run) for number in stages for run in runs]
    untrained = tuple((number, run) for number, run in whole if missing(run, number))
    return Plan(tuple(first), tuple(later), untrained, len(whole) - len(untrained))


def carry_out(
    experiment: Experiment, source: Source, corpora: Sequence[Corpus], store: Store, todo: Plan, jobs: int,
    advance: Advance, keep: Callable[[], None],
) -> list[Failure]:  # fmt: skip
    """Train what is left to do; `advance` is told of epochs done, `keep` is called after everything finished.

    `jobs` worker processes share a CPU; on a GPU, or with one job, this process trains. Returns the runs that
    diverged. Raises SerError when a worker is killed.
    """
    device = torch.device(source.device)
    if device.type != "cpu":
        return _stacked(Trainer(experiment, corpora, store, device), todo, advance, keep)
    if jobs == 1:
        with one_core_each():
            return _one_by_one(Trainer(experiment, corpora, store, device), todo, advance, keep)
    return _side_by_side(experiment, source, store, todo, jobs, advance, keep)


def _one_by_one(trainer: Trainer, todo: Plan, advance: Advance, keep: Callable[[], None]) -> list[Failure]:
    failures: list[Failure] = []
    for seed in dict.fromkeys([*todo.first, *(run.seed for run in todo.later)]):
        failed = trainer.first_stage([seed], advance) if seed in todo.first else []
        failures += failed
        keep()
        for run in [] if failed else todo.followers(seed):
            failures += trainer.later_stages([run], advance)
            keep()
    return failures


def _stacked(trainer: Trainer, todo: Plan, advance: Advance, keep: Callable[[], None]) -> list[Failure]:
    """All seeds as one stack, then for each strategy all its runs that are equally far."""
    failures = _halving(trainer.first_stage, todo.first, advance)
    keep()
    lost = {failure.run.seed for failure in failures}
    stacks: dict[tuple[str, int], list[Run]] = {}
    for run in todo.later:
        if run.seed not in lost and run.variant is not None:
            stacks.setdefault((run.strategy, run.variant.memory_size), []).append(run)
    for runs in stacks.values():
        failures += _halving(trainer.later_stages, runs, advance)
        keep()
    return failures


def _halving(
    work: Callable[[Any, Advance], list[Failure]], items: Sequence[Any], advance: Advance
) -> list[Failure]:
    """Do the work on all items at once; where the GPU's memory does not suffice, on halves of them."""
    if not items:
        return []
    try:
        return work(items, advance)
    except torch.cuda.OutOfMemoryError:
        if len(items) == 1:
            raise SerError(
                "The GPU's memory does not suffice for one run: use --device cpu, a smaller --batch-size or --gem-batch."
            ) from None
    torch.cuda.empty_cache()
    middle = len(items) // 2
    return _halving(work, items[:middle], advance) + _halving(work, items[middle:], advance)


def _side_by_side(
    experiment: Experiment, source: Source, store: Store, todo: Plan, jobs: int, advance: Advance,
    keep: Callable[[], None],
) -> list[Failure]:  # fmt: skip
    """First stages, and as soon as a seed's is there, that seed's variants."""
    failures: list[Failure] = []
    tasks: deque[int | Run] = deque([*todo.first, *(run for run in todo.later if run.seed not in todo.first)])
    with _workers(experiment, source, store.folder, min(jobs, len(todo.first) + len(todo.later))) as workers:
        idle, busy = deque(workers), dict[Connection, int | Run]()
        while tasks or busy:
            while tasks and idle:
                worker = idle.popleft()
                busy[worker] = tasks.popleft()
                worker.send((busy[worker], _is_near_the_end(len(tasks) + len(busy), len(workers))))
            for worker in [pipe for pipe in busy if pipe in wait(list(busy))]:
                message = worker.recv()
                if isinstance(message, Exception):
                    raise message
                if isinstance(message, float):
                    advance(message)
                    continue
                done = busy.pop(worker)
                idle.append(worker)
                if message is None:
                    tasks.append(done)
                    continue
                failures += message
                if isinstance(done, int) and not message:
                    tasks += todo.followers(done)
                keep()
    return failures


def _is_near_the_end(tasks: int, workers: int) -> bool:
    """Whether the last tasks are to take turns, so that three of them take two workers one and a half times as long."""
    return workers < tasks < 2 * workers


@contextmanager
def _workers(experiment: Experiment, source: Source, folder: Path, jobs: int) -> Iterator[list[Connection]]:
    """Worker processes, as the pipes to them; they end with the block, or with this process."""
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes = []
    try:
        for _ in range(jobs):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, experiment, source, folder), daemon=True)
            process.start()
            theirs.close()  # so that the end of either side is the end of the pipe
            pipes.append(ours)
            processes.append(process)
        yield pipes
    except (EOFError, ConnectionError):
        raise SerError(
            "A worker process was killed, perhaps for want of memory: what is finished is kept, "
            "so run the same command again, with fewer --jobs."
        ) from None
    finally:
        for process in processes:
            process.terminate()  # harmless at any moment, since the store is written whole or not at all
            process.join()


def _work(main: Connection, experiment: Experiment, source: Source, folder: Path) -> None:
    """A worker: a seed or a run comes in; epochs done go out as numbers, and in the end the list of failures, or None if
    it is not at its end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process is told too, and ends this one
    with one_core_each(), suppress(EOFError, ConnectionError):  # the main process is gone
        trainer = Trainer(experiment, load_corpora(source), Store(folder), torch.device(source.device))
        while True:
            task, in_turns = main.recv()
            turn_ends = time.monotonic() + (_TURN if in_turns else math.inf)
            trainer.pause = lambda: time.monotonic() > turn_ends  # noqa: B023
            try:
                first = isinstance(task, int)
                main.send((trainer.first_stage if first else trainer.later_stages)([task], main.send))
            except PausedError:
                main.send(None)
            except ConnectionError:
                raise
            except Exception as error:
                error.add_note(traceback.format_exc())
                main.send(error)
