"""One thread that rates uploads, one after the other."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

from ser_memory.common.errors import SerError
from ser_memory.common.reporting import Silent, notice, reporting_to
from ser_memory.extract.recordings import Recording, stated_seconds
from ser_memory.train.predict.predictor import Predictor
from ser_memory.train.predict.ratings import Rating
from ser_memory.train.serve.limits import Places, RefusedError


class Rater:
    """Gives uploads to a predictor. The event loop goes on meanwhile."""

    def __init__(self, predictor: Predictor, places: Places, max_minutes: float) -> None:
        self._predictor, self._places, self._max_minutes = predictor, places, max_minutes
        self._thread = ThreadPoolExecutor(1, "rater")

    async def rate(self, upload: BinaryIO, text: str | None) -> Rating:
        """The rating of an open file with the bytes of a recording, in the order of the calls.

        Raises RefusedError if it cannot be read as a recording, or is too long.
        """
        # The thread has a handle of its own: the upload may be closed before its turn comes.
        handle = os.dup(upload.fileno())
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._rate, handle, text)

    def close(self) -> None:
        """Rate what waits, and end the thread."""
        self._thread.shutdown()

    def _rate(self, handle: int, text: str | None) -> Rating:
        start = time.monotonic()
        try:
            with reporting_to(Silent()):
                return self._rating(Path(f"/dev/fd/{handle}"), text)
        except SerError as error:
            notice(str(error))
            raise RefusedError(
                500, "The recording cannot be rated; the server's own messages say why."
            ) from error
        finally:
            os.close(handle)
            self._places.took(time.monotonic() - start)

    def _rating(self, path: Path, text: str | None) -> Rating:
        seconds = stated_seconds(Recording(str(path), path))
        if not isinstance(seconds, str) and seconds > 60 * self._max_minutes:
            raise RefusedError(
                413,
                f"The recording is {seconds / 60:.1f} minutes long, and {self._max_minutes:g} are allowed: cut it.",
            )
        (rating,) = self._predictor.predict([path], [text])
        if rating.error:
            raise RefusedError(422, rating.error.replace(str(path), "The recording", 1))
        return rating
