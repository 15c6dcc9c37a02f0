"""Claims on a shared folder: which of several workers, on any hosts, does which piece of work. No locks, no common clock.

    <name>.<k>.claim   piece `name`, claimed for the k-th time; holds the id of the worker, and only one can make it
    <name>.done        the piece is done; may hold a word on how it ended
    <id>.alive         a counter that the worker raises while it lives; "gone" once it has left in order

A worker whose counter has not changed for a while, by the observer's own monotonic clock, is taken for dead: whoever
makes the next claim on its piece has it. Times of different hosts are never compared. A worker that only slept finds
its piece done twice, with the same bytes. Files are looked for by name, never by listing, because a shared folder may
list a file late.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ser_memory.common.errors import SerError
from ser_memory.common.files import write_whole
from ser_memory.common.options import Options, option

TIMEOUT = 60.0  # seconds
_GONE = "gone"
_BEATS = 6  # per timeout
_LONGEST_WAIT = 2.0  # seconds between two looks at the work of others
_NO_LINKS = (
    errno.EPERM,
    errno.EACCES,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
    errno.EXDEV,
)

_T = TypeVar("_T")


@dataclass(frozen=True)
class WorkerSettings(Options):
    """Whether the work is shared with other processes."""

    title = "Several workers"
    worker: bool = option(
        False,
        help="Share the work with other processes that run the same command with --worker, on this or other hosts "
        "with the same folders; any number, whenever they start. A worker that is killed loses only the piece in hand.",
    )
    claim_timeout: float = option(
        TIMEOUT,
        minimum=1,
        help="With --worker: seconds without a sign of life after which the others take over a worker's piece.",
    )


class Claims:
    """The claims of one worker; use it as a context: within it, the worker shows that it lives.

    Methods raise OSError if the folder cannot be used.
    """

    def __init__(
        self, folder: Path, timeout: float = TIMEOUT, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`timeout`: seconds without a sign of life after which a worker is taken for dead."""
        self.folder = folder
        self.id = uuid.uuid4().hex  # process ids of containers and hosts coincide
        self._timeout = timeout
        self._clock = clock
        self._seen: dict[
            str, tuple[str, float]
        ] = {}  # of other workers: their last sign of life, and when it came
        self._stopped = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        write_whole(self._own("id"), self.id)
        self._own("alive").write_text("0")
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        self._beating.join()
        with suppress(OSError):  # the folder may be removed already
            self._own("alive").write_text(_GONE)
            self._own("id").unlink(missing_ok=True)

    def take(self, name: str) -> bool:
        """Claim a piece of work; false if a living worker has it, or if it is done."""
        if self.is_done(name):
            return False
        number, holder = self._last_claim(name)
        if holder == self.id:
            return True
        if number and self._lives(holder, name):
            return False
        return self._make(self._path(f"{name}.{number + 1}.claim"))

    def finish(self, name: str, word: str = "") -> None:
        """Note that a piece is done; `word` is what `is_done` is to tell others about it."""
        write_whole(self._path(f"{name}.done"), f"{self.id}\n{word}")

    def is_done(self, name: str) -> bool:
        """Whether a piece is done."""
        return self._read(f"{name}.done") is not None

    def word(self, name: str) -> str:
        """What was noted when a piece was done, "" if nothing was."""
        _, _, word = (self._read(f"{name}.done") or "").partition("\n")
        return word

    def wait(self) -> None:
        """Let some time pass before the next look at what others do."""
        self._stopped.wait(min(_LONGEST_WAIT, self._timeout / _BEATS))

    def remove(self) -> None:
        """Remove the folder once everything is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _last_claim(self, name: str) -> tuple[int, str]:
        """The number of the last claim on a piece and who has it; 0 if there is none."""
        number, holder = 0, ""
        while (found := self._read(f"{name}.{number + 1}.claim")) is not None:
            number, holder = number + 1, found
        return number, holder

    def _lives(self, worker: str, name: str) -> bool:
        """Whether a worker has shown a sign of life lately; one that is seen for the first time has."""
        sign = self._read(f"{worker}.alive") if worker else ""
        if sign == _GONE:
            return False
        # A claim whose content cannot be seen yet has no known worker: it counts by itself.
        known, now = self._seen.get(worker or name), self._clock()
        if known is None or known[0] != sign:
            self._seen[worker or name] = sign, now
            return True
        return now - known[1] < self._timeout

    def _make(self, path: Path) -> bool:
        """Make a claim that exactly one worker can make; false if somebody else did."""
        try:
            os.link(self._own("id"), path)  # atomic with its content, also on NFS
        except FileExistsError:
            return self._read(path.name) == self.id  # NFS may repeat a request whose answer was lost
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return self._create(path)
        return True

    def _create(self, path: Path) -> bool:
        """The same where the folder has no hard links."""
        try:
            with path.open("x") as file:
                file.write(self.id)
        except FileExistsError:
            return False
        return True

    def _beat(self) -> None:
        count = 0
        while not self._stopped.wait(self._timeout / _BEATS):
            count += 1
            with suppress(OSError):  # a full disk, for a while; others may take the work over meanwhile
                self._own("alive").write_text(str(count))

    def _read(self, name: str) -> str | None:
        try:
            return self._path(name).read_text()
        except FileNotFoundError:
            return None

    def _own(self, kind: str) -> Path:
        return self._path(f"{self.id}.{kind}")

    def _path(self, name: str) -> Path:
        return self.folder / name


def claimed(
    claims: Claims,
    pieces: Sequence[_T],
    name: Callable[[_T], str],
    ready: Callable[[_T], bool] = lambda _: True,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[_T]:
    """Pieces of work that are this worker's, one after the other, until all are done by somebody.

    Do each that is yielded, and then `claims.finish` it, before the next is asked for. Where nothing is left but what
    others do or what has to wait for it, this waits: a worker that dies leaves its piece to the others.

    Args:
        claims: of this worker.
        pieces: the same in all workers, in the order in which they should be done.
        name: of a piece, different for each; part of the name of a file.
        ready: whether a piece can begin.
        stopped: whether to end early.
    """
    left = list(pieces)
    while left and not stopped():
        waiting: list[_T] = []
        found = False
        for piece in left:
            if stopped():
                return
            if ready(piece) and claims.take(name(piece)):
                found = True
                yield piece
            elif not claims.is_done(name(piece)):
                waiting.append(piece)
        left = waiting
        if left and not found:
            claims.wait()


def refuse_other_work(folder: Path, what: str, other: SerError) -> None:
    """Note what the workers of a folder work on; raise `other` if they work on something else already. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "work"
    partial = path.with_name(f"{uuid.uuid4().hex}.partial")
    partial.write_text(what)
    try:
        os.link(partial, path)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with suppress(FileExistsError), path.open("x") as file:
            file.write(what)
    finally:
        partial.unlink()
    if path.read_text() not in (what, ""):
        raise other
