"""Worker processes side by side, one run each on a core of its own.

On a CPU a core trains one run after the other: side by side runs share nothing but the mapped caches, while
the threads of one run would wait for each other at every one of its small operations.
"""

from __future__ import annotations

import math
import multiprocessing
import signal
import sys
import time
import traceback
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch

from ser_memory.common.errors import SerError
from ser_memory.common.machine import one_core_each
from ser_memory.common.reporting import Advance, spare
from ser_memory.train.corpora import Source, load_corpora
from ser_memory.train.engines.contract import WorkerKilledError, ready
from ser_memory.train.loop import PausedError
from ser_memory.train.plan import Experiment
from ser_memory.train.results import Outcome
from ser_memory.train.runs import Run
from ser_memory.train.store import Store
from ser_memory.train.trainer import Trainer


class Processes:
    """Trains what can begin, and as soon as that is there, what follows it."""

    def __init__(
        self, experiment: Experiment, source: Source, store: Path, jobs: int, turn: float = 2.0
    ) -> None:
        """`source` and the folder `store` are opened by every worker for itself.

        Where the last runs take turns, each trains at least `turn` seconds before it makes room for another.
        """
        self._arguments = experiment, source, store, turn
        self._jobs = jobs
        self._context = multiprocessing.get_context("spawn")
        self._stopped = self._context.Event()

    def run(self, tasks: Sequence[Run], advance: Advance) -> Iterator[tuple[Run, Outcome]]:
        can_begin = deque(ready(tasks, tasks))
        waiting = [task for task in tasks if task not in can_begin]
        if not tasks:
            return
        with self._workers(min(self._jobs, len(tasks))) as workers:
            idle, busy = deque(workers), dict[Connection, Run]()
            while busy or (can_begin and not self._stopped.is_set()):
                while can_begin and idle and not self._stopped.is_set():
                    worker = idle.popleft()
                    busy[worker] = can_begin.popleft()
                    worker.send((busy[worker], is_near_the_end(len(can_begin) + len(busy), len(workers))))
                for worker in [pipe for pipe in busy if pipe in wait(list(busy))]:
                    message = worker.recv()
                    if isinstance(message, Exception):
                        raise message
                    if isinstance(message, _Epochs):
                        spare(advance, message.number) if message.spared else advance(message.number)
                        continue
                    task = busy.pop(worker)
                    idle.append(worker)
                    if message is None:
                        can_begin.append(task)
                        continue
                    if not message.failed:
                        freed = ready([each for each in waiting if each.follows(task)], waiting)
                        waiting = [each for each in waiting if each not in freed]
                        can_begin += freed
                    yield task, message

    def stop(self) -> None:
        self._stopped.set()

    @contextmanager
    def _workers(self, number: int) -> Iterator[list[Connection]]:
        """Worker processes, as the pipes to them; they end with the block, or with this process."""
        pipes: list[Connection] = []
        processes = []
        try:
            for _ in range(number):
                ours, theirs = self._context.Pipe()
                process = self._context.Process(
                    target=_work, args=(theirs, self._stopped, *self._arguments), daemon=True
                )
                with _callers_script_hidden():
                    process.start()
                theirs.close()  # so that the end of either side is the end of the pipe
                pipes.append(ours)
                processes.append(process)
            yield pipes
        except (EOFError, ConnectionError):
            raise WorkerKilledError("A worker process was killed, perhaps because memory ran out.") from None
        finally:
            for process in processes:
                process.kill()  # harmless at any moment, since the store is written whole or not at all
                process.join()


def is_near_the_end(tasks: int, workers: int) -> bool:
    """Whether the last tasks take turns, so that three of them take two workers one and a half times as long."""
    return workers < tasks < 2 * workers


@contextmanager
def _callers_script_hidden() -> Iterator[None]:
    """Keep a new process from running the caller's script again, which ours do not need.

    Otherwise every script that trains would have to guard itself with `if __name__ == "__main__"`.
    """
    main = sys.modules["__main__"]
    hidden = {name: value for name, value in vars(main).items() if name in ("__file__", "__spec__")}
    vars(main).pop("__file__", None)
    main.__spec__ = None
    try:
        yield
    finally:
        vars(main).update(hidden)


@dataclass(frozen=True)
class _Epochs:
    """A message of a worker."""

    number: float
    spared: bool = False


class _Sender:
    """Sends the epochs of a worker to the main process."""

    def __init__(self, main: Connection) -> None:
        self._main = main

    def __call__(self, amount: float) -> None:
        self._main.send(_Epochs(amount))

    def spare(self, amount: float) -> None:
        self._main.send(_Epochs(amount, spared=True))


def _work(
    main: Connection, stopped: Any, experiment: Experiment, source: Source, folder: Path, turn: float
) -> None:
    """A worker: gets a task and whether tasks take turns; sends the epochs done, and at the end the outcome.

    None instead of an outcome means that the task is paused, an exception that it failed.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(
            number, signal.SIG_IGN
        )  # the main process decides; it may get them together with this one
    with suppress(EOFError, ConnectionError):  # the main process has gone
        try:
            with one_core_each():
                trainer = Trainer(
                    experiment, load_corpora(source), Store(folder), torch.device(source.device)
                )
                while True:
                    task, in_turns = main.recv()
                    turn_ends = time.monotonic() + (turn if in_turns else math.inf)
                    trainer.pause = lambda: stopped.is_set() or time.monotonic() > turn_ends  # noqa: B023
                    try:
                        main.send(trainer.carry_out([task], _Sender(main))[0])
                    except PausedError:
                        main.send(None)
        except (EOFError, ConnectionError):
            raise
        except SerError as error:
            main.send(error)
        except OSError as error:
            place = f": {error.filename}" if error.filename else ""
            main.send(SerError(f"A worker cannot go on. The system says: {error.strerror or error}{place}."))
        except Exception:
            # Not the exception itself: not every one survives the way to another process.
            main.send(RuntimeError(f"A worker failed:\n{traceback.format_exc()}"))
