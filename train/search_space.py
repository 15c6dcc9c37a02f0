"""What a search of ser-train tries: ranges and choices of options, and the settings that follow. Free of torch."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from ser_memory.common.errors import UsageError, listing
from ser_memory.common.options import Options, flag, kind_of, names_of, option, refuse_unknown, typed
from ser_memory.train.configuration import Settings
from ser_memory.train.settings import (
    GROUPS,
    DataSettings,
    LaterStageSettings,
    StrategySettings,
    TrainingSettings,
)
from ser_memory.train.strategies import STRATEGIES, option_classes

HELD_OUT, ALL_SEEN = "held-out", "all-seen"
_DEFAULT_STRATEGY = "experience-replay"
_WIDE = 10  # upper end by lower end from which a range is searched on a logarithmic scale


@dataclass(frozen=True)
class SearchSettings(Options):
    """Which options are searched, and how. They are no part of what a run is."""

    title = "Search"

    search: tuple[str, ...] = option(
        (),
        help="Search an option of the training or of the memory for its best value, with Optuna: learning-rate=1e-5..1e-3 "
        "is a range, batch-size=32,64,128 are choices; repeatable. A range whose ends are a factor of "
        f"{_WIDE} or more apart is searched on a logarithmic scale. A search has one --strategy (default "
        f"{_DEFAULT_STRATEGY}). Use --seeds 1 or 2, and train the best settings with more. The same command with the same "
        "--output continues.",
    )
    trials: int = option(30, minimum=1, help="How many settings a search tries.")
    search_objective: str = option(
        HELD_OUT,
        choices=(HELD_OUT, ALL_SEEN),
        help="What a search maximises, as a mean over stages and seeds: held-out is the validation CCC of the current "
        "corpus and of a fifth of each memory, which --stop-on memory holds out; all-seen is the validation CCC of all "
        "corpora so far, an oracle, since it looks at corpora that are gone.",
    )


@dataclass(frozen=True)
class Range:
    """An option that takes the numbers between two ends, both included."""

    name: str  # with underscores
    low: float  # of type int, as `high`, if the option takes whole numbers
    high: float

    @property
    def is_logarithmic(self) -> bool:
        """Whether factors count, not differences."""
        return self.low > 0 and self.high / self.low >= _WIDE

    @property
    def ends(self) -> tuple[Any, Any]:
        return self.low, self.high

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"

    def text_of(self, value: float) -> str:
        """A value as `read` reads it."""
        return str(value)

    def read(self, text: str) -> float:
        """A value from its text. Raises ValueError."""
        value = type(self.low)(text)
        if not self.low <= value <= self.high:
            raise ValueError(text)
        return value


@dataclass(frozen=True)
class Choice:
    """An option that takes one of several values."""

    name: str  # with underscores
    values: tuple[Any, ...]
    texts: tuple[str, ...]  # how each value was typed

    @property
    def is_of_words(self) -> bool:
        return any(isinstance(value, str) for value in self.values)

    @property
    def ends(self) -> tuple[Any, Any]:
        """The smallest and the largest number."""
        numbers = [value for value in self.values if value is not None]
        return min(numbers), max(numbers)

    def __str__(self) -> str:
        return ",".join(self.texts)

    def text_of(self, value: Any) -> str:
        """A value as `read` reads it."""
        return self.texts[self.values.index(value)]

    def read(self, text: str) -> Any:
        """A value from its text. Raises ValueError."""
        return self.values[self.texts.index(text)]


@dataclass(frozen=True)
class Search:
    """A search that can be carried out."""

    space: tuple[Range | Choice, ...]
    trials: int
    objective: str  # HELD_OUT or ALL_SEEN
    values: Mapping[str, Any]  # of the other options of ser-train, by their names with underscores

    def settings(self, chosen: Mapping[str, Any]) -> Settings:
        """The settings of a trial, from a value for each searched option.

        Raises UsageError if they do not fit together.
        """
        return Settings.take({**self.values, **chosen}, given=())

    @property
    def corners(self) -> list[Settings]:
        """Settings with every combination of words, with all numbers at their lower ends and all at their upper."""
        words = [each for each in self.space if isinstance(each, Choice) and each.is_of_words]
        numbers = [each for each in self.space if each not in words]
        return [
            self.settings(
                {each.name: value for each, value in zip(words, combination, strict=True)}
                | {each.name: each.ends[end] for each in numbers}
            )
            for combination in itertools.product(*(each.values for each in words))
            for end in (0, 1)
        ]

    @property
    def is_oracle(self) -> bool:
        """Whether the objective looks at corpora that a user would not have any more."""
        return self.objective == ALL_SEEN


def search_of(searching: SearchSettings, values: Mapping[str, Any], given: Collection[str]) -> Search:
    """The search that was asked for.

    Args:
        searching: what is searched.
        values: of the other options of ser-train, by their names with underscores.
        given: the names of those that were asked for.

    Raises UsageError, which names the option, for one that cannot be searched, for a range or choices that are not
    allowed, and for options that do not fit together.
    """
    refuse_unknown(values, *GROUPS)
    if not searching.search:
        raise UsageError("There is nothing to search: give --search OPTION=LOW..HIGH or OPTION=A,B,C.")
    if values.get("worker"):
        raise UsageError(
            "--search does not go with --worker, since each trial depends on those before: leave one out."
        )
    space = tuple(_parsed(text) for text in searching.search)
    names = [each.name for each in space]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--search gives {_dashed(name)} twice: give it once.")
        if name in given:
            raise UsageError(f"{flag(name)} is given and also searched: leave one of them out.")
    values = {**values}
    if "strategy" not in given and values.get("strategy") in (None, StrategySettings.strategy):
        alone = len(DataSettings.take(values).stages) == 1  # with nothing to remember
        values["strategy"] = ("finetune" if alone else _DEFAULT_STRATEGY,)
    search = Search(space, searching.trials, searching.search_objective, values)
    _refuse_several(search)
    if searching.search_objective == HELD_OUT and _remembers(search):
        _refuse_other_stop(names, values, given)
        values["stop_on"] = "memory"
    corners = search.corners
    never = set[str].intersection(*(corner.unused for corner in corners))
    corners[0].refuse_unused(name for name in [*names, *given] if name in never)
    return search


def _searchable() -> dict[str, type[Options]]:
    """The options that can be searched, and the classes that they belong to."""
    classes = (TrainingSettings, LaterStageSettings, *option_classes())
    found: dict[str, type[Options]] = {name: cls for cls in classes for name in names_of(cls)}
    del found["dimensions"]  # what is predicted, not how well
    return found | {"memory_size": StrategySettings, "sampler": StrategySettings}


def _parsed(text: str) -> Range | Choice:
    """`learning-rate=1e-5..1e-3` or `batch-size=32,64`. Raises UsageError."""
    key, _, content = text.partition("=")
    name, searchable = key.strip().removeprefix("--").replace("-", "_"), _searchable()
    if not (name and content.strip()):
        raise UsageError(
            f"--search {text!r} must be OPTION=LOW..HIGH or OPTION=A,B,C, such as learning-rate=1e-5..1e-3."
        )
    if name not in searchable:
        why = "cannot be searched" if name in names_of(*GROUPS) else "is no option of ser-train"
        raise UsageError(
            f"--search {text}: {_dashed(name)} {why}; what can be is {listing(map(_dashed, searchable), 60)}."
        )
    cls = searchable[name]
    is_range = ".." in content and kind_of(cls, name) in (int, float)
    parts = [part.strip() for part in (content.split("..", 1) if is_range else content.split(","))]
    try:
        values = [typed(cls, name, part) for part in parts]
    except UsageError as error:
        raise UsageError(f"--search {text}: {error}") from None
    if is_range:
        low, high = values
        if None in values or low >= high:
            raise UsageError(f"--search {text}: the first end must be a number below the second.")
        return Range(name, low, high)
    if len(values) == 1 or len(set(values)) < len(values):
        raise UsageError(
            f"--search {text} must name different values, two or more"
            f"{', or a range such as 1..5' if kind_of(cls, name) in (int, float) else ''}."
        )
    return Choice(name, tuple(values), tuple(parts))


def _refuse_several(search: Search) -> None:
    """Raise UsageError if a trial would train more than one strategy with one memory."""
    for settings in search.corners:
        variants = settings.strategies.variants
        if len(variants) > 1:
            told = dict.fromkeys(
                f"{each.strategy}:{each.sampler} of {each.memory_size}" if each.memory_size else each.strategy
                for each in variants
            )
            raise UsageError(
                f"--search tunes one strategy with one memory, not {listing(told)}: give one --strategy, and at most one "
                "--sampler and --memory-size."
            )


def _remembers(search: Search) -> bool:
    (variant,) = search.corners[0].strategies.variants
    return STRATEGIES[variant.strategy].earlier == "memory"


def _refuse_other_stop(names: Collection[str], values: Mapping[str, Any], given: Collection[str]) -> None:
    """Raise UsageError if stages would not be stopped by what the objective looks at."""
    other = "stop_on" in given and values["stop_on"] != "memory"
    if "stop_on" in names or other:
        asked = f"--stop-on {values['stop_on']}" if other else "--search stop-on"
        raise UsageError(
            f"{asked} does not go with --search-objective {HELD_OUT}, for which every trial has --stop-on memory: leave it "
            f"out, or use --search-objective {ALL_SEEN}."
        )


def _dashed(name: str) -> str:
    return name.replace("_", "-")
