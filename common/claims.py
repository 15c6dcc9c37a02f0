"""Claims on a shared folder: which of several workers, on any hosts, does which piece of work. No locks, no common clock.

    <k>.worker         the k-th worker that came; holds its id
    <id>.alive         a counter that the worker raises while it lives; "gone" once it has left in order
    <name>.1, .2, ...  what happened to the piece `name`: a worker claimed it (its id), or finished it (its id, and a
                       second line, which may hold a word on how it ended)

Each of these files, except the counters, can be made by one worker only, because the server decides about exclusive
creation (`O_EXCL`, of which NFS 3 and later, Lustre, GPFS, BeeGFS and SMB are capable). Claiming a dead worker's piece
and finishing it are about the same file, so that a worker that cannot see yet that a piece is finished does not get
it. Files are looked for by name, never by listing, because a shared folder may list a file late.

A worker whose counter has not changed for a while, by the observer's own monotonic clock, is taken for dead. Times of
different hosts are never compared. A worker that only slept finds its piece done twice, with the same bytes. A
thread raises the counter: a worker that hangs in its work counts as alive.
"""

from __future__ import annotations

import errno
import itertools
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ser_memory.common.errors import SerError
from ser_memory.common.options import Options, option

TIMEOUT = 60.0  # seconds
_GONE = "gone"
_BEATS = 6  # per timeout
_SHORTEST_WAIT, _LONGEST_WAIT = 0.02, 2.0  # seconds between two looks at the work of others
_NOT_THERE = (errno.ENOENT, errno.ESTALE)  # the second if an NFS server removed what a client has open
_PATIENCE = 5.0  # seconds for the content of a file that another worker has just made

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


class FolderGoneError(SerError):
    """The folder of the claims was removed, as workers do at the end if they take this one for dead."""


class Claims:
    """The claims of one worker; use it as a context: within it, the worker shows that it lives.

    Methods raise FolderGoneError, and OSError if the folder cannot be used. One thread at a time may call `take`.
    """

    def __init__(
        self,
        folder: Path,
        timeout: float = TIMEOUT,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        """`timeout`: seconds without a sign of life after which a worker is taken for dead."""
        self.folder = folder
        self.id = uuid.uuid4().hex  # process ids of containers and hosts coincide
        self._timeout = timeout
        self._clock, self._sleep = clock, sleep
        self._seen: dict[str, tuple[str, float]] = {}  # file -> the last sign of life in it, and when it came
        self._pause = _SHORTEST_WAIT
        self._left = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._show(self._counted(0))
        self._register()
        self._beating.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.leave()

    def leave(self) -> None:
        """Show that this worker claims nothing more; others take over what it has not finished."""
        if not self._left.is_set():
            self._left.set()
            self._beating.join()
            with suppress(OSError):  # the folder may be removed already
                self._show(_GONE)

    def is_last(self) -> bool:
        """Whether all other workers are gone or dead, so that nobody needs the folder; `leave` first.

        This watches the others for as long as it takes to tell.
        """
        self._pause = _SHORTEST_WAIT
        others = [f"{number}.worker" for number in range(1, self._register())]
        first = {other: self._sign(other)[1] for other in others}
        while others := [other for other in others if self._lives(other)]:
            if any(self._sign(other)[1] != first[other] for other in others):
                return False
            self.wait()
        return True

    def take(self, name: str) -> bool:
        """Claim a piece of work; false if a living worker has it, or if it is done."""
        number, content = self._last(name)
        if _is_done(content):
            return False
        if number and content != self.id and self._lives(f"{name}.{number}"):
            return False
        if content != self.id and not _create(self._path(f"{name}.{number + 1}"), self.id):
            return False
        self._pause = _SHORTEST_WAIT
        return True

    def finish(self, name: str, word: str = "") -> None:
        """Note that a piece is done; `word` tells the others something about it. The first word counts."""
        while not _is_done((last := self._last(name))[1]):
            if not _create(self._path(f"{name}.{last[0] + 1}"), f"{self.id}\n{word}"):
                self._sleep(_SHORTEST_WAIT)  # another made it, and it may be seen late

    def is_done(self, name: str) -> bool:
        """Whether a piece is done."""
        return _is_done(self._last(name)[1])

    def word(self, name: str) -> str:
        """What was noted when a piece was done, "" if nothing was."""
        return self._last(name)[1].partition("\n")[2]

    def wait(self) -> None:
        """Let some time pass before the next look at what others do, the more the longer there was nothing to do."""
        self._sleep(min(self._pause, self._timeout / _BEATS))
        self._pause = min(_LONGEST_WAIT, 1.5 * self._pause)

    def wait_for(self, happened: Callable[[], bool]) -> bool:
        """Whether something that another worker did is seen, within the timeout: a shared folder may show it late."""
        until = self._clock() + self._timeout
        while not happened():
            if self._clock() >= until:
                return False
            self.wait()
        return True

    def remove(self) -> None:
        """Remove the folder once everything is done."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _register(self) -> int:
        """Be one of the workers that the others know; returns the number. All with a lower one were there before."""
        return next(
            number for number in itertools.count(1) if _create(self._path(f"{number}.worker"), self.id)
        )

    def _last(self, name: str) -> tuple[int, str]:
        """The number and content of the last file on a piece, or of the one that says it is done; 0 and "" if none."""
        number, content = 0, ""
        while not _is_done(content) and (found := _read(self._path(f"{name}.{number + 1}"))) is not None:
            number, content = number + 1, found
        return number, content

    def _lives(self, claim: str) -> bool:
        """Whether the worker in a file has shown a sign of life lately; one that is seen for the first time has."""
        watched, sign = self._sign(claim)
        if sign == _GONE:
            return False
        known, now = self._seen.get(watched), self._clock()
        if known is None or known[0] != sign:
            self._seen[watched] = sign, now
            return True
        return now - known[1] < max(self._timeout, _timeout_in(sign))

    def _sign(self, claim: str) -> tuple[str, str]:
        """Where the worker in a file shows that it lives, and what is there.

        A file without content counts by itself: it has just been made, or its worker died over it.
        """
        worker = _read(self._path(claim))
        watched = f"{worker}.alive" if worker else claim
        return watched, _read(self._path(watched)) or ""

    def _beat(self) -> None:
        for count in itertools.count(1):
            if self._left.wait(self._timeout / _BEATS):
                return
            with suppress(OSError):  # a full disk, for a while; others may take the work over meanwhile
                self._show(self._counted(count))

    def _counted(self, count: int) -> str:
        return f"{count} {self._timeout:g}"

    def _show(self, sign: str) -> None:
        self._path(f"{self.id}.alive").write_text(sign)

    def _path(self, name: str) -> Path:
        return self.folder / name


def shared(
    claims: Claims,
    pieces: Sequence[_T],
    name: Callable[[_T], str],
    ready: Callable[[_T], bool] = lambda _: True,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[tuple[_T, bool]]:
    """All pieces of work, one after the other, and whether each is this worker's; false once somebody else did it.

    Do each that is this worker's, and then `claims.finish` it; several threads may have one each. Where nothing is
    left but what others do or what has to wait for it, this waits: a worker that dies leaves its piece to the others.

    Args:
        claims: of this worker.
        pieces: the same in all workers, in the order in which they should be done.
        name: of a piece, different for each; part of the name of a file.
        ready: whether a piece can begin.
        stopped: whether to end early.
    """
    left = deque(pieces)
    while left and not stopped():
        later: deque[_T] = deque()
        found = False
        while left and not stopped():
            piece = left.popleft()
            if ready(piece) and claims.take(name(piece)):
                found = True
                yield piece, True
            elif claims.is_done(name(piece)):
                yield piece, False
            else:
                later.append(piece)
            while later and claims.is_done(name(later[0])):  # what was begun first is mostly done first
                yield later.popleft(), False
        left = later
        if left and not found and not stopped():
            claims.wait()


def claimed(
    claims: Claims,
    pieces: Sequence[_T],
    name: Callable[[_T], str],
    ready: Callable[[_T], bool] = lambda _: True,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[_T]:
    """Those of the pieces that are this worker's; `shared` says how. It ends once all are done by somebody."""
    return (piece for piece, own in shared(claims, pieces, name, ready, stopped) if own)


def refuse_other_work(folder: Path, what: str, other: SerError) -> None:
    """Note what the workers of a folder work on; raise `other` if they work on something else already. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        path = folder / f"{number}.work"
        if _create(path, what):
            return
        until = time.monotonic() + _PATIENCE
        while not (found := _read(path)) and time.monotonic() < until:
            time.sleep(_PATIENCE / 100)
        if found:  # else its worker died over it
            if found != what:
                raise other
            return


def _create(path: Path, content: str) -> bool:
    """Make a file that exactly one worker can make; false if somebody else did."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(content)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        raise FolderGoneError(
            f"{path.parent} was removed while this worker used it, so that the others took it for dead, or are done: "
            "run the same command again."
        ) from None
    return True


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return None


def _is_done(content: str) -> bool:
    return "\n" in content


def _timeout_in(sign: str) -> float:
    """Seconds after which a worker is dead by its own settings: it may have been started with others than this one."""
    try:
        return float(sign.partition(" ")[2] or 0)
    except ValueError:
        return 0.0
