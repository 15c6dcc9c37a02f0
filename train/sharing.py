"""ser-train --worker: the folder of a run that several processes fill, and what one of them does for all."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from ser_memory.common import __version__
from ser_memory.common.claims import Claims, claimed, remove_left
from ser_memory.common.errors import UsageError
from ser_memory.common.files import write_whole
from ser_memory.train.run_folder import RunFolder

if TYPE_CHECKING:
    from ser_memory.train.configuration import Settings

_CLAIMS = ".claims"  # in the folder of the run
_MARK = ".workers"
_LATEST = 5.0  # seconds until a shared folder shows a new file whose name nobody has looked for

Once = Callable[[str], Iterator[None]]  # `for _ in once("results")`: do this if no other worker does it


def claims_of(settings: Settings) -> Claims | None:
    """The claims of this worker on the runs of an experiment; None if it has them all to itself."""
    output = settings.machine.output
    if not settings.workers.worker or output is None:
        return None
    return Claims(output / _CLAIMS, settings.workers.claim_timeout)


@contextmanager
def held(
    folder: RunFolder, settings: Settings, claims: Claims | None, stopped: Callable[[], bool]
) -> Iterator[Once]:
    """Hold the folder alone or, with claims, together with other workers, who remove the claims at the end.

    What `once` names is done by one of them; the others wait until it is done, or until `stopped`. Raises UsageError if
    the folder is in use for something else.
    """
    if claims is None:
        with folder.alone():
            remove_left(
                folder.path / _CLAIMS,
                UsageError(f"Workers share {folder.path}: wait for them, or give another --output."),
            )
            yield lambda _: iter((None,))
        return

    def once(name: str) -> Iterator[None]:
        for _ in claimed(claims, [name], str, stopped=stopped):
            yield
            if not stopped():
                claims.finish(name)

    with folder.together():
        folder.refuse_other()
        with claims.on(*_work(folder, settings)):
            mark = _mark(settings, claims)
            yield once
        if claims.is_last():
            claims.remove()  # first: claims without the mark would be refused
            mark.unlink(missing_ok=True)


def _mark(settings: Settings, claims: Claims) -> Path:
    """A file that the first worker leaves among the finished stages. Raises UsageError if it is not in this --trained."""
    for name in claimed(claims, ["store"], str):
        write_whole(settings.trained / f"{claims.id}{_MARK}", "")
        claims.finish(name, claims.id)
    mark = settings.trained / f"{claims.word('store')}{_MARK}"
    until = time.monotonic() + min(_LATEST, settings.workers.claim_timeout)
    while not mark.exists():
        if time.monotonic() > until:
            raise UsageError(
                f"--trained {settings.trained} is not the folder in which the other workers keep finished stages: give all "
                f"of them the same one; if it was emptied, remove {claims.folder} too."
            )
        claims.wait()
    return mark


def _work(folder: RunFolder, settings: Settings) -> tuple[str, UsageError]:
    """What the workers of the folder train and write, and the error for one with something else."""
    bundles = {**asdict(settings.bundles), "from_": None}  # its content is in the identity
    written = [settings.machine.predictions, settings.machine.tracker, bundles]
    what = json.dumps([__version__, folder.identity, written], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest(), UsageError(
        f"Workers with other options or another version share {folder.path}: give all of them the same options, or "
        "wait until they have ended."
    )
