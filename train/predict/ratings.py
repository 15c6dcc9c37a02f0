"""What a prediction gives: ratings of recordings, over time and as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ser_memory.common.labels import from_unit

Floats = npt.NDArray[np.float64]

FLAGS = SHORT, SILENT, CLIPPED, FAR = "short", "silent", "clipped", "far"


@dataclass(frozen=True)
class Moment:
    """The rating of one window of a recording."""

    start: float  # seconds
    end: float  # seconds
    values: dict[str, float]  # by dimension
    spread: dict[str, float]  # standard deviation over the bundle's seeds; {} for one seed
    distance: (
        float  # from what the model has seen: above 1 it is farther than 99 % of the training utterances
    )
    flags: tuple[str, ...]  # of FLAGS; short is about the whole recording
    text: str | None  # None: without a text


@dataclass(frozen=True)
class Rating:
    """The rating of a recording, or why it has none.

    Values are in about [-1, 1] unless they were rescaled; a prediction may leave the scale. Those of a recording are the
    means of its windows, weighted by their durations.
    """

    file: str
    duration: float = 0.0  # seconds
    values: dict[str, float] | None = None  # by dimension; None if there is no rating
    spread: dict[str, float] | None = None  # as in Moment
    distance: float = 0.0  # as in Moment
    # Of FLAGS. short: below the durations of the training; silent: no 0.1 s above -60 dB; clipped: some window; far:
    # distance > 1.
    flags: tuple[str, ...] = ()
    text: str | None = None
    track: tuple[Moment, ...] = ()  # the windows, in order
    error: str = ""  # one sentence, if there is no rating
    id: str | None = None  # what the user's table calls the recording; None without one

    def on_scale(self, low: float, high: float) -> Rating:
        """The same rating on a scale from `low` to `high` in place of -1 to 1."""
        if self.values is None:
            return self

        def scaled(values: dict[str, float]) -> dict[str, float]:
            return {name: float(from_unit(value, low, high)) for name, value in values.items()}

        def stretched(spread: dict[str, float] | None) -> dict[str, float]:
            return {name: value * (high - low) / 2 for name, value in (spread or {}).items()}

        track = tuple(
            replace(moment, values=scaled(moment.values), spread=stretched(moment.spread))
            for moment in self.track
        )
        return replace(self, values=scaled(self.values), spread=stretched(self.spread), track=track)


@dataclass(frozen=True)
class Heard:
    """The windows of a recording and what the models say of them."""

    starts: Floats  # (n,) seconds
    ends: Floats  # (n,) seconds
    silent: npt.NDArray[np.bool_]  # (n,)
    clipped: npt.NDArray[np.bool_]  # (n,)
    distances: Floats  # (n,)
    predictions: Floats  # (S, n, K) of S seeds
    texts: Sequence[str | None]  # n


def rating_of(file: str, dimensions: Sequence[str], heard: Heard, min_duration: float) -> Rating:
    """The rating of a recording from its windows; shorter than `min_duration` seconds, it is flagged."""
    weights = (heard.ends - heard.starts) / (heard.ends - heard.starts).sum()
    whole = np.einsum("snk,n->sk", heard.predictions, weights)
    distance, duration = float(heard.distances @ weights), float(heard.ends[-1])
    short = duration < min_duration
    track = tuple(
        Moment(
            float(heard.starts[i]),
            float(heard.ends[i]),
            *_mean_and_spread(dimensions, heard.predictions[:, i]),
            float(heard.distances[i]),
            _flags(short, bool(heard.silent[i]), bool(heard.clipped[i]), heard.distances[i]),
            heard.texts[i],
        )
        for i in range(len(weights))
    )
    told = [text for text in heard.texts if text is not None]
    texts = told[:1] if len(set(told)) == 1 else told  # a text of the whole recording stands at every window
    return Rating(
        file,
        duration,
        *_mean_and_spread(dimensions, whole),
        distance,
        _flags(short, bool(heard.silent.all()), bool(heard.clipped.any()), distance),
        " ".join(texts) if texts else None,
        track,
    )


def _flags(short: bool, silent: bool, clipped: bool, distance: float) -> tuple[str, ...]:
    return tuple(
        name for name, is_so in zip(FLAGS, (short, silent, clipped, distance > 1), strict=True) if is_so
    )


def _mean_and_spread(
    dimensions: Sequence[str], of_seeds: Floats
) -> tuple[dict[str, float], dict[str, float]]:
    """(S, K) predictions -> mean and sample standard deviation over the seeds, by dimension."""
    means = dict(zip(dimensions, map(float, of_seeds.mean(axis=0)), strict=True))
    if len(of_seeds) == 1:
        return means, {}
    return means, dict(zip(dimensions, map(float, of_seeds.std(axis=0, ddof=1)), strict=True))
