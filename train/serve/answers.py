"""What the server answers, as JSON."""

from __future__ import annotations

from pydantic import BaseModel, Field

from ser_memory.train.predict.ratings import Moment, Rating


class MomentAnswer(BaseModel):
    """The rating of one window of a recording."""

    start: float = Field(description="seconds")
    end: float = Field(description="seconds")
    values: dict[str, float] = Field(description="by dimension, in about [-1, 1]")
    spread: dict[str, float] = Field(description="standard deviation over the bundle's seeds; empty for one")
    flags: list[str] = Field(description="of short, silent, clipped and far")

    @classmethod
    def of(cls, moment: Moment) -> MomentAnswer:
        return cls(
            start=moment.start,
            end=moment.end,
            values=moment.values,
            spread=moment.spread,
            flags=list(moment.flags),
        )


class RatingAnswer(BaseModel):
    """The rating of a recording: the mean of its windows, weighted by their durations."""

    seconds: float = Field(description="the duration of the recording")
    values: dict[str, float] = Field(description="by dimension, in about [-1, 1]")
    spread: dict[str, float] = Field(description="standard deviation over the bundle's seeds; empty for one")
    flags: list[str] = Field(description="of short, silent, clipped and far")
    distance: float = Field(description="above 1 it is farther from the training data than 99 % of them")
    text: str | None = Field(description="what was said, if it was given or transcribed")
    track: list[MomentAnswer] = Field(description="the windows, in order")

    @classmethod
    def of(cls, rating: Rating) -> RatingAnswer:
        return cls(
            seconds=rating.duration,
            values=rating.values or {},
            spread=rating.spread or {},
            flags=list(rating.flags),
            distance=rating.distance,
            text=rating.text,
            track=[MomentAnswer.of(moment) for moment in rating.track],
        )


class HealthAnswer(BaseModel):
    """What the server is, and how much it has to do."""

    status: str
    model: str
    dimensions: list[str]
    uploads: int = Field(description="that are received, waiting or rated now")
    max_megabytes: float
    max_minutes: float
