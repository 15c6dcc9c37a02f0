"""The files of a search: search.json says which search it is, trials.csv what came out, best.toml repeats the best.

Free of torch.
"""

from __future__ import annotations

import csv
import json
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ser_memory.common import __version__
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.files import write_whole
from ser_memory.common.options import names_of, spelled
from ser_memory.train.configuration import Settings
from ser_memory.train.results import RESULTS, write_rows
from ser_memory.train.search_space import Search

BEST, BEST_FILE = "best", "best.toml"
FINISHED, DIVERGED = "finished", "diverged"

_TRIALS, _SEARCH = "trials.csv", "search.json"
_FREE = ("trials", "cache", "command", "versions", "complete", "best")  # no trial depends on them


@dataclass(frozen=True)
class Trial:
    """One trial that is over."""

    number: int  # from 1
    chosen: dict[str, Any]  # a value for each searched option, by names with underscores
    objective: float | None  # in [-1, 1]; None if a run diverged
    seconds: float  # that it took; little if its stages were there

    @property
    def state(self) -> str:
        return DIVERGED if self.objective is None else FINISHED


class SearchFolder:
    """A folder that this process alone writes to."""

    def __init__(self, path: Path, search: Search, facts: Mapping[str, Any]) -> None:
        """`facts` are what determines the results besides the options: digests, device and so on."""
        self.path = path
        self._search = search
        searched = {each.name: str(each) for each in search.space}
        config = {
            "search": searched,
            "objective": search.objective,
            "oracle": search.is_oracle,
            "trials": search.trials,
            "options": _options(search),
            **facts,
            "versions": {
                "ser-memory": __version__, "optuna": version("optuna"), "python": platform.python_version()
            },
            "complete": False,
            "best": None,
        }  # fmt: skip
        self._config: dict[str, Any] = json.loads(json.dumps(config, default=str))  # as it will be read again
        self._columns = [
            "number",
            "oracle_objective" if search.is_oracle else "objective",
            *searched,
            "seconds",
            "state",
        ]

    def begin(self) -> list[Trial]:
        """Write search.json; returns the trials that are over, if the folder holds this search already.

        Raises UsageError, which names what differs, if it holds another search or a run, and SerError for files that
        cannot be read.
        """
        old = self._read_config()
        if old is None and any((self.path / name).exists() for name in (RESULTS, _TRIALS)):
            raise UsageError(f"{self.path} already holds other results: give another --output.")
        if old is not None:
            differing = _differing(old, self._config)
            if differing:
                raise UsageError(
                    f"{self.path} already holds another search (different: {listing(differing)}): give another --output, "
                    "or remove it."
                )
        self._write_config()
        return self._read_trials()

    def write(self, trials: Sequence[Trial]) -> None:
        """Write trials.csv."""
        rows = [
            [
                trial.number,
                trial.objective,
                *(each.text_of(trial.chosen[each.name]) for each in self._search.space),
                round(trial.seconds, 3),
                trial.state,
            ]
            for trial in trials
        ]
        write_rows(self.path / _TRIALS, self._columns, rows)

    def complete(self, best: Trial) -> None:
        """Note which trial is the best, and that the search is complete."""
        self._config |= {"complete": True, "best": best.number}
        self._write_config()

    def _write_config(self) -> None:
        write_whole(self.path / _SEARCH, json.dumps(self._config, indent=2, ensure_ascii=False) + "\n")

    def _read_config(self) -> dict[str, Any] | None:
        """What is in search.json; None if there is none, {} if it is damaged."""
        try:
            content = json.loads((self.path / _SEARCH).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            return {}
        return content if isinstance(content, dict) else {}

    def _read_trials(self) -> list[Trial]:
        path = self.path / _TRIALS
        try:
            with path.open(newline="", encoding="utf-8") as file:
                header, *rows = csv.reader(file)
                if header != self._columns:
                    raise ValueError("its columns")
                return [self._trial(number, row) for number, row in enumerate(rows, start=1)]
        except FileNotFoundError:
            return []
        except (ValueError, csv.Error) as error:
            raise SerError(
                f"{path} is not as the search wrote it ({error}): restore it, or give another --output."
            ) from None

    def _trial(self, expected: int, row: Sequence[str]) -> Trial:
        """The trial of a row. Raises ValueError."""
        number, objective, *texts, seconds, state = row
        chosen = {each.name: each.read(text) for each, text in zip(self._search.space, texts, strict=True)}
        trial = Trial(expected, chosen, float(objective) if objective else None, float(seconds))
        if (number, state) != (str(expected), trial.state):
            raise ValueError(f"trial {number}")
        return trial


def experiment_file(settings: Settings, named: Collection[str], heading: str) -> str:
    """A file for --experiment: the options `named`, and all others that are not at their defaults and have an effect.

    The folder of the results is left out. `heading` becomes a comment.
    """
    lines = [f"# {heading}"]
    unused = settings.unused | {"output"}
    for group in (*_groups(settings), settings.machine):
        plain = type(group)()
        for name in names_of(type(group)):
            value = getattr(group, name)
            if name not in unused and (name in named or value != getattr(plain, name)):
                content = json.dumps(spelled(type(group), name, value), ensure_ascii=False)
                lines.append(f"{name.replace('_', '-')} = {content}")
    return "\n".join(lines) + "\n"


def _groups(settings: Settings) -> tuple[Any, ...]:
    """All options that say what is trained."""
    return (
        settings.data,
        settings.strategies,
        settings.training,
        settings.later,
        settings.memory,
        *settings.options,
    )


def _options(search: Search) -> dict[str, Any]:
    """The options that all trials have in common and that have an effect."""
    corners = search.corners
    left_out = set.intersection(*(corner.unused for corner in corners)) | {each.name for each in search.space}
    values = {name: value for group in _groups(corners[0]) for name, value in asdict(group).items()}
    return {name: value for name, value in values.items() if name not in {*left_out, *_FREE}}


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Names of what trials depend on and is not the same."""
    try:
        flat = [
            {f"search {name}": text for name, text in config["search"].items()}
            | config["options"]
            | {
                name: value
                for name, value in config.items()
                if name not in (*_FREE, "search", "options", "oracle")
            }
            for config in (old, new)
        ]
    except (AttributeError, KeyError, TypeError):
        return [_SEARCH]  # damaged
    names = [*flat[1], *(name for name in flat[0] if name not in flat[1])]
    return [name.replace("_", "-") for name in names if flat[0].get(name) != flat[1].get(name)]
