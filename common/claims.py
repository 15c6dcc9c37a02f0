"""Claims on a shared folder: which of several workers, on any hosts, does which piece of work. No locks, no common clock.

    <k>.worker         the k-th worker that came; holds its id and, in a second line, the folder of its pieces
    <id>.alive         a counter that the worker raises while it lives; "gone" once it has left in order
    <work>.<id>/       the pieces of a work, named after it and the worker that began it here
      <name>.1, .2, ...  what happened to the piece `name`: a worker claimed it (its id), or finished it (its id, and a
                         second line, which may hold a word on how it ended)

Each of these files, except the counters, can be made by one worker only, because the server decides about exclusive
creation (`O_EXCL`, of which NFS 3 and later, Lustre, GPFS, BeeGFS and SMB are capable). Claiming a dead worker's piece
and finishing it are about the same file, so that a worker that cannot see yet that a piece is finished does not get
it. In the same way, a worker can come with other work only as the next after workers that are all gone or dead: if
another comes first, it has to look again. Files are looked for by name, never by listing, because a shared folder may
list a file late.

A worker whose counter has not changed for a while, by the observer's own monotonic clock, is taken for dead. Times of
different hosts are never compared. A worker that only slept finds its piece done twice, with the same bytes, or the
folder of its pieces gone. A thread raises the counter, not the work: no limit is right for a piece that may take
minutes or days, so a worker that hangs counts as alive.
"""

from __future__ import annotations

import errno
import itertools
import re
import shutil
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from ser_memory.common.errors import SerError
from ser_memory.common.options import Options, option
from ser_memory.common.reporting import notice

TIMEOUT = 60.0  # seconds
_GONE = "gone"
_BEATS = 6  # per timeout
_SHORTEST_WAIT, _LONGEST_WAIT = 0.02, 2.0  # seconds between two looks at the work of others
_PIECES = re.compile(r"\w+\.\w+")  # a folder of pieces
_NOT_THERE = (errno.ENOENT, errno.ESTALE)  # the second if an NFS server removed what a client has open
_PATIENCE = 5.0  # seconds for the first sign of a worker that has just come

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
    """The folder was removed, as others do at the end, or before other work, if they take this worker for dead."""


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
        self._work, self._other = "", SerError(f"Workers share {folder} for other work.")
        self._pieces, self._number = folder, 0
        self._clock, self._sleep = clock, sleep
        self._seen: dict[Path, tuple[str, float]] = {}  # file -> the last sign of life, and when it came
        self._pause = _SHORTEST_WAIT
        self._left = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)

    def on(self, work: str, other: SerError) -> Self:
        """These claims, on pieces of this work; to enter them raises `other` while a living worker has other work.

        What dead workers have noted of other work is removed then. `work` is part of the name of a folder, without a
        dot. Without a work, a worker may come at any time.
        """
        self._work, self._other = work, other
        return self

    def __enter__(self) -> Self:
        self._beating.start()
        try:
            while True:
                with suppress(FolderGoneError):  # the last of others removes it just now
                    self._come()
                    return self
        except BaseException:
            self.leave()
            raise

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

        This watches the others for as long as it takes to tell. False if another removed the folder already.
        """
        try:
            self._number = self._register()
            return self._are_dead(self._number - 1) and self._none_came()
        except FolderGoneError:
            return False

    def take(self, name: str) -> bool:
        """Claim a piece of work; false if a living worker has it, or if it is done."""
        number, content = self._last(name)
        if _is_done(content):
            return False
        if number and content != self.id and self._lives(self._piece(name, number), content):
            return False
        if content != self.id and not _create(self._piece(name, number + 1), self.id):
            return False
        self._pause = _SHORTEST_WAIT
        return True

    def finish(self, name: str, word: str = "") -> None:
        """Note that a piece is done; `word` tells the others something about it. The first word counts."""
        while not _is_done((last := self._last(name))[1]):
            if not _create(self._piece(name, last[0] + 1), f"{self.id}\n{word}"):
                self._sleep(_SHORTEST_WAIT)  # another made it, and it may be seen late

    def is_done(self, name: str) -> bool:
        """Whether a piece is done."""
        return _is_done(self._last(name)[1])

    def word(self, name: str) -> str:
        """What was noted when a piece was done, "" if nothing was."""
        return self._last(name)[1].partition("\n")[2]

    def wait(self) -> None:
        """Let some time pass before the next look at what others do, the more the longer there was nothing to do."""
        with _while_there(self._pieces):
            self._pieces.stat()
        self._rest()

    def wait_for(self, happened: Callable[[], bool]) -> bool:
        """Whether something that another worker did is seen, within the timeout: a shared folder may show it late."""
        until = self._clock() + self._timeout
        while not happened():
            if self._clock() >= until:
                return False
            self._rest()
        return True

    def remove(self) -> None:
        """Remove the folder once everything is done, unless another worker has come since this one looked.

        It is moved first: who found only a part of it would take itself for the first that came.
        """
        removed = self.folder.with_name(f"{self.folder.name}.{self.id}")
        with suppress(OSError, FolderGoneError):
            if self._none_came():
                self.folder.rename(removed)
                shutil.rmtree(removed, ignore_errors=True)

    def _rest(self) -> None:
        self._sleep(min(self._pause, self._timeout / _BEATS))
        self._pause = min(_LONGEST_WAIT, 1.5 * self._pause)

    def _come(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with _while_there(self.folder):
            self._show(self._counted(0))
            if not self._work:
                self._number = self._register()
            else:
                self._pieces = self.folder
                self._pieces = self._path(self._join())
                self._pieces.mkdir(exist_ok=True)

    def _join(self) -> str:
        """Be the next of the workers; returns the folder of the pieces. Raises `other` as `on` says."""
        own = f"{self._work}.{self.id}"
        while True:
            known = self._known()
            works = list(filter(None, map(_pieces_in, known)))
            pieces = works[-1] if works else own
            if pieces.partition(".")[0] != self._work:
                longest = max(
                    self._timeout,
                    *(_timeout_in(self._sign(self._worker(i + 1))[1]) for i in range(len(known))),
                )
                notice(
                    f"{self.folder} has claims on other work: looking for up to {longest:g} s whether one of its workers "
                    "lives."
                )
                if not self._are_dead(len(known)):
                    if known == self._known():
                        raise self._other
                    continue
                pieces = own
            self._number = len(known) + 1
            own_note = f"{self.id}\n{pieces}"
            if not _create(self._worker(self._number), own_note):
                self.wait()  # another made it, and it may be seen late
            elif self._known() == [*known, own_note]:
                for other in filter(_PIECES.fullmatch, {*works} - {pieces}):
                    shutil.rmtree(self._path(other), ignore_errors=True)
                return pieces
            else:  # it slept meanwhile, or the folder was removed and made again: what it noted does not count
                with _while_there(self.folder):
                    self._worker(self._number).write_text(f"{self.id}\n", encoding="utf-8")

    def _known(self) -> list[str]:
        """What the workers noted when they came.

        A note that is still empty, and may be of other work than those before, is waited for until its worker is dead.
        """
        while True:
            known, empty = list[str](), list[Path]()
            while (content := _read(path := self._worker(len(known) + 1))) is not None:
                known.append(content)
                empty = [] if _pieces_in(content) else empty if content else [*empty, path]
            if not [path for path in empty if self._lives(path)]:
                return known
            self.wait()

    def _register(self) -> int:
        """Note a number that no worker has; all with a lower one were there before."""
        return next(number for number in itertools.count(1) if _create(self._worker(number), f"{self.id}\n"))

    def _none_came(self) -> bool:
        """Whether all who have noted a number since this one did were leaving; it notes one more to tell."""
        before, self._number = self._number, self._register()
        since = [_read(self._worker(number)) or "" for number in range(before + 1, self._number)]
        return self._number > before and all(note.endswith("\n") for note in since)

    def _are_dead(self, count: int) -> bool:
        """Whether so many workers, besides this one, are all gone or dead; it takes as long as it takes to tell."""
        self._pause = _SHORTEST_WAIT
        others = [self._worker(number) for number in range(1, count + 1)]
        others = [other for other in others if _id_in(_read(other) or "") != self.id]
        first = {other: self._sign(other)[1] for other in others}
        while others := [other for other in others if self._lives(other)]:
            signs = {other: self._sign(other)[1] for other in others}
            if any(
                sign not in ("", first[other]) for other, sign in signs.items()
            ):  # "": it is being written
                return False
            self.wait()
        return True

    def _last(self, name: str) -> tuple[int, str]:
        """The number and content of the last file on a piece, or of the one that says it is done; 0 and "" if none."""
        number, content = 0, ""
        while not _is_done(content) and (found := _read(self._piece(name, number + 1))) is not None:
            number, content = number + 1, found
        return number, content

    def _lives(self, claim: Path, content: str | None = None) -> bool:
        """Whether the worker in a file has shown a sign of life lately; one that is seen for the first time has.

        `content`: of the file if it was read before; since then, its worker may have finished the piece and left.
        """
        watched, sign = self._sign(claim, content)
        if sign == _GONE:
            return False
        known, now = self._seen.get(watched), self._clock()
        if known is None or known[0] != sign:
            self._seen[watched] = sign, now
            return True
        return now - known[1] < max(self._timeout, _timeout_in(sign))

    def _sign(self, claim: Path, content: str | None = None) -> tuple[Path, str]:
        """Where the worker in a file shows that it lives, and what is there.

        A file without content counts by itself: it has just been made, or its worker died over it.
        """
        worker = _id_in((_read(claim) or "") if content is None else content)
        watched = self._path(f"{worker}.alive") if worker else claim
        return watched, _read(watched) or ""

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

    def _worker(self, number: int) -> Path:
        return self._path(f"{number}.worker")

    def _piece(self, name: str, number: int) -> Path:
        return self._pieces / f"{name}.{number}"


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


def remove_left(folder: Path, other: SerError) -> None:
    """Remove what dead workers have left, for a process that works alone; raises `other` while one of them lives.

    How long a worker may give no sign, it says itself. Raises OSError if the folder cannot be used.
    """
    if folder.exists():
        with Claims(folder, _PATIENCE).on("alone", other) as claims:
            claims.remove()


def _create(path: Path, content: str) -> bool:
    """Make a file that exactly one worker can make; false if somebody else did."""
    with _while_there(path.parent):
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(content)
        except FileExistsError:
            return False
    return True


@contextmanager
def _while_there(folder: Path) -> Iterator[None]:
    """Raise FolderGoneError if the folder is not there any more."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        raise FolderGoneError(
            f"{folder} was removed while this worker used it, so that the others took it for dead, or are done: "
            "run the same command again."
        ) from None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return None


def _id_in(content: str) -> str:
    return content.partition("\n")[0]


def _pieces_in(content: str) -> str:
    """The folder that a worker noted when it came, "" without one; what another version noted is none of this one."""
    return content.partition("\n")[2] if "\n" in content else content


def _is_done(content: str) -> bool:
    return "\n" in content


def _timeout_in(sign: str) -> float:
    """Seconds after which a worker is dead by its own settings: it may have been started with others than this one."""
    try:
        return float(sign.partition(" ")[2] or 0)
    except ValueError:
        return 0.0
