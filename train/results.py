"""The folder of a run: results.csv, memory.csv and config.json."""

from __future__ import annotations

import csv
import io
import json
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, astuple, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from ser_memory.common import __version__
from ser_memory.common.errors import UsageError
from ser_memory.common.manifests import stage_name
from ser_memory.train.data import Corpus, Source
from ser_memory.train.experiment import Experiment
from ser_memory.train.memory import Held
from ser_memory.train.runs import NO_SAMPLER, Keys, Run
from ser_memory.train.store import Store

_CONFIG = "config.json"
_GROWING = ("variants", "seeds")  # what may be added to a run


@dataclass(frozen=True)
class Result:
    """One row of results.csv."""

    strategy: str
    sampler: str
    memory_size: int
    seed: int
    stage: int  # from 1
    stage_name: str  # P, P+M, ...
    corpus: str
    split: str
    dimension: str
    metric: str
    value: float
    n: int


def results(experiment: Experiment, corpora: Sequence[Corpus], store: Store, keys: Keys) -> Iterator[Result]:
    """All figures that are there, by variant, seed, stage, corpus and split."""
    for variant in experiment.variants:
        for seed in experiment.seeds:
            for number in range(1, len(corpora) + 1):
                record = store.record(keys.of(Run(variant, seed), number))
                if record is not None and record.evaluated == keys.evaluated:
                    name = stage_name(experiment.stages[:number])
                    for figure in record.figures:
                        yield Result(
                            **vars(variant), seed=seed, stage=number, stage_name=name, **vars(figure)
                        )


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder: two runs at once would take each other's rows away.

    Raises UsageError when another run holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            yield
    except Timeout:
        raise UsageError(
            f"Another ser-train is writing to {folder}: wait for it, or give another --output."
        ) from None


def prepare_folder(folder: Path, experiment: Experiment, source: Source, corpora: Sequence[Corpus]) -> None:
    """Make the folder and write its config.json, everything needed to run it again.

    A folder that holds a run already is gone on with if the experiment is that run, or more of it. Raises
    UsageError when it is another: no result is ever overwritten.
    """
    config: dict[str, Any] = {
        "experiment": asdict(experiment),
        "label_scale": source.label_scale,
        "layer": source.layer,
        "streamed": source.streamed,
        "device": source.device,
        "digests": {corpus.name: corpus.digest for corpus in corpora},
        "cache": str(source.folder),
        "versions": {
            "ser-memory": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    config = json.loads(json.dumps(config))  # as it will be read again
    old = _read(folder)
    if old is None and (folder / "results.csv").exists():
        raise UsageError(f"{folder} already holds results of another program: give another --output.")
    if old is not None and not _is_part(old, config):
        if _is_part(config, old):
            raise UsageError(
                f"{folder} already holds more than this: ask for all of it, or give another --output."
            )
        raise UsageError(f"{folder} already holds another experiment: give another --output, or remove it.")
    _write(folder / _CONFIG, json.dumps(config, indent=2) + "\n")


def _read(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _is_part(old: dict[str, Any], new: dict[str, Any]) -> bool:
    """Whether everything of the old run is in the new one, and nothing else about them differs."""
    try:
        grown = all(item in new["experiment"][name] for name in _GROWING for item in old["experiment"][name])
        return grown and _rest(old) == _rest(new)
    except (KeyError, TypeError):
        return False


def _rest(config: dict[str, Any]) -> dict[str, Any]:
    experiment = {name: value for name, value in config["experiment"].items() if name not in _GROWING}
    return {**config, "experiment": experiment, "cache": None}  # the digests tell what is in the caches


def write_results(path: Path, results: Iterable[Result]) -> None:
    """results.csv, one figure a row."""
    _write_table(path, [item.name for item in fields(Result)], (astuple(result) for result in results))


def write_memory(
    path: Path, experiment: Experiment, corpora: Sequence[Corpus], store: Store, keys: Keys
) -> None:
    """memory.csv: how many samples of each cell and speaker every memory of the last stage holds.

    A memory is the same under all strategies with its sampler and size, so it is listed once.
    """
    columns = ["sampler", "memory_size", "seed", *(item.name for item in fields(Held))]
    rows: dict[tuple[object, ...], None] = {}
    for variant in experiment.variants:
        for seed in experiment.seeds if variant.sampler != NO_SAMPLER else ():
            record = store.record(keys.of(Run(variant, seed), len(corpora)))
            for held in record.memory if record else []:
                rows[(variant.sampler, variant.memory_size, seed, *astuple(held))] = None
    _write_table(path, columns, rows)


def _write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    _write(path, text.getvalue())


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    aside = path.with_name(path.name + ".partial")
    with aside.open("w", newline="", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
