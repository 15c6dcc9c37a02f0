"""The folder of a run: its lock, its config.json, and whether it may be continued."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ser_memory.common import __version__
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.files import write_whole
from ser_memory.common.locks import is_held, shared_access, sole_access
from ser_memory.train.plan import Experiment
from ser_memory.train.results import (
    EPOCHS,
    MEMORY,
    RESULTS,
    Outcomes,
    tabulate,
    write_epochs,
    write_memory,
    write_results,
)
from ser_memory.train.runs import NO_SAMPLER
from ser_memory.train.settings import MemorySettings

_CONFIG, _LOCK = "config.json", ".lock"
_GROWING = ("variants", "seeds")  # may be added to a run, as may conditions
_FREE = (
    "cache",
    "command",
    "from",
    "trained",
    "versions",
    "complete",
)  # no figure depends on them: digests tell what is in the caches


class RunFolder:
    """A folder for the results of one experiment, which one process writes at a time."""

    def __init__(
        self, path: Path, experiment: Experiment, facts: Mapping[str, Any], torch_version: str
    ) -> None:
        """`facts` are what determines the results besides the experiment: digests, device, scale and so on."""
        self.path = path
        self._experiment = experiment
        config = {
            "experiment": _described(experiment),
            **facts,
            "torch": torch_version,
            "versions": {"ser-memory": __version__, "python": platform.python_version()},
            "complete": False,
        }
        self._config: dict[str, Any] = json.loads(json.dumps(config, default=str))  # as it will be read again

    def interrupted(self, runs: Path) -> Path | None:
        """The latest folder in `runs` with this same experiment, begun and not complete; None if there is none.

        A run that another process is working on does not count.
        """
        for config in sorted(runs.glob(f"*/{_CONFIG}"), reverse=True):
            try:
                found = _read(config.parent)
                if not self._is_same(found or {}) or is_held(config.with_name(_LOCK)):
                    continue
            except (OSError, SerError):
                continue  # somebody else's
            return config.parent
        return None

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that determines the results, as JSON can hold it."""
        return {name: value for name, value in self._config.items() if name not in _FREE}

    def _is_same(self, old: dict[str, Any]) -> bool:
        """Whether a configuration is of this experiment, neither more nor less, and not complete."""
        return old.get("complete") is False and all(
            old.get(name) == value for name, value in self.identity.items()
        )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the folder: two runs at once would remove each other's rows.

        Raises UsageError if another run holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with sole_access(self.path / _LOCK, self._busy, "--output"):
            yield

    @contextmanager
    def together(self) -> Iterator[None]:
        """Keep the folder from a run that wants it alone, where the disk has locks.

        Raises UsageError if there is one.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with shared_access(self.path / _LOCK, self._busy):
            yield

    def begin(self) -> None:
        """Write config.json, which has everything that is needed to run it again; raises as `refuse_other`."""
        self.refuse_other()
        self._write_config()

    def refuse_other(self) -> None:
        """Raise UsageError, which names what differs, for a folder with another run: no result is ever overwritten.

        A run is continued if the experiment is that run, or more of it.
        """
        old = _read(self.path)
        if old is None and (self.path / RESULTS).exists():
            raise UsageError(f"{self.path} already holds results of another program: give another --output.")
        if old is not None:
            self._refuse_differing(old)

    def write(self, outcomes: Outcomes) -> None:
        """Write what is there so far."""
        write_results(self.path / RESULTS, tabulate(self._experiment, outcomes))
        write_memory(self.path / MEMORY, self._experiment, outcomes)
        write_epochs(self.path / EPOCHS, self._experiment, outcomes)

    def complete(self) -> None:
        """Note that the run is complete."""
        self._config["complete"] = True
        self._write_config()

    @property
    def _busy(self) -> UsageError:
        return UsageError(
            f"Another ser-train is writing to {self.path}: wait for it, or give another --output."
        )

    def _write_config(self) -> None:
        write_whole(self.path / _CONFIG, json.dumps(self._config, indent=2) + "\n")

    def _refuse_differing(self, old: dict[str, Any]) -> None:
        differing = _differing(old, self._config)
        if differing:
            raise UsageError(
                f"{self.path} already holds another experiment (different: {listing(differing)}): "
                "give another --output, or remove it."
            )
        lacking = [
            _short(item)
            for name in _GROWING
            for item in old["experiment"][name]
            if item not in self._config["experiment"][name]
        ] + [name for name in _in_conditions(old) if name not in _in_conditions(self._config)]
        if lacking:
            raise UsageError(
                f"{self.path} already holds more than this ({listing(lacking)}): ask for all of it, with what is "
                "to be added, or give another --output."
            )


def _described(experiment: Experiment) -> dict[str, Any]:
    strategies = dict.fromkeys(variant.strategy for variant in experiment.variants)
    origin = {"origin": dict(experiment.origin.checksums)} if experiment.origin else {}
    return {
        **origin,
        "stages": experiment.stages,
        "variants": [asdict(variant) for variant in experiment.variants],
        "seeds": experiment.seeds,
        "training": {
            **asdict(experiment.training),
            **experiment.later.described,
            **experiment.memory.described,
        },
        "options": {
            strategy: {
                name: value
                for each in experiment.options_of(strategy)
                for name, value in asdict(each).items()
            }
            for strategy in strategies
        },
    }


def _read(folder: Path) -> dict[str, Any] | None:
    """The configuration in a folder; None if there is none, {} if it is damaged. Raises SerError."""
    try:
        content = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SerError(
            f"{folder / _CONFIG} cannot be read ({error.strerror}): solve that, or give another --output."
        ) from None
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _differing(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Names of what determines the results and is not the same, options by their names.

    Variants and seeds may be more or fewer; the options of a strategy count if both have that strategy.
    """
    try:
        flat = [_flat(config) for config in (old, new)]
    except (AttributeError, KeyError, TypeError):
        return [_CONFIG]  # written by another version or damaged
    apart = set(flat[0]) ^ set(flat[1])
    if any(not name.startswith("option ") for name in apart):
        return [_CONFIG]
    return [
        name.rpartition(" ")[2]
        for name, value in flat[1].items()
        if name in flat[0] and flat[0][name] != value
    ]


def _short(item: dict[str, Any] | int) -> str:
    """A variant or a seed, for a message."""
    if not isinstance(item, dict):
        return f"seed {item}"
    with_memory = item["sampler"] != NO_SAMPLER
    return (
        f"{item['strategy']}:{item['sampler']} of {item['memory_size']}" if with_memory else item["strategy"]
    )


def _in_conditions(config: dict[str, Any]) -> dict[str, str]:
    """The digest of each corpus in each other acoustic condition, by names such as iemocap.noise:10."""
    return {
        f"{corpus}.{condition}": digest
        for corpus, digests in config.get("conditions", {}).items()
        for condition, digest in digests.items()
    }


def _flat(config: dict[str, Any]) -> dict[str, Any]:
    experiment = config["experiment"]
    aside = (*_FREE, "experiment", "conditions")
    told = {name: value for name, value in config.items() if name not in aside}
    told |= {
        "stages": experiment["stages"],
        "from (bundle)": experiment.get("origin"),
        **asdict(MemorySettings()),  # without names where they are not used
        **experiment["training"],
    }
    told |= {f"option {name}": digest for name, digest in _in_conditions(config).items()}
    for strategy, options in experiment["options"].items():
        told |= {f"option {strategy} {name}": value for name, value in options.items()}
    return told
