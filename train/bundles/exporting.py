"""The bundles of a run that is finished, from its config.json: nothing is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ser_memory.common.cache import FeatureCache, cache_path
from ser_memory.common.errors import SerError, UsageError
from ser_memory.train.bundles.origin import settings_of
from ser_memory.train.bundles.writing import write_bundles
from ser_memory.train.experiment import load, work_on
from ser_memory.train.runs import NO_SAMPLER
from ser_memory.train.settings import OWN_TRANSCRIPTS


def export_run(run: Path, estimate_size: int = 0, language: str = "en") -> list[Path]:
    """Write the bundles of all stages of a run to RUN/bundles; returns their folders.

    Args:
        run: the folder of a finished run of ser-train. Its caches and finished stages must be where they were.
        estimate_size: test utterances of each corpus that a bundle also holds.
        language: of the speech, for the model card.

    Raises SerError if it is no such folder, or a stage or cache is no longer there or was changed.
    """
    try:
        config = json.loads((run / "config.json").read_text(encoding="utf-8"))
        values = _values(config)
    except OSError as error:
        raise SerError(
            f"{run} is no run of ser-train: config.json cannot be read ({error.strerror})."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SerError(f"{run / 'config.json'} is not that of a run of this version of ser-train.") from None
    bundles = {"bundles": True, "estimate_size": estimate_size, "language": language}
    settings = settings_of({**values, **bundles}, ["stages", "seed", *bundles])
    experiment, source, corpora = load(settings)
    work = work_on(settings, experiment, source, corpora)
    if work.todo.untrained or work.todo.tasks:
        raise UsageError(
            f"{run} has stages that are not finished in {settings.trained}, or its caches have changed: run its command "
            "again with --bundles."
        )
    return write_bundles(run, settings.bundles, work.trainer, source, work.todo.finished)


def _own_protocol(config: dict[str, Any], corpus: str) -> str:
    """The protocol of a corpus's cache: a run that did not choose another one did not name it."""
    return FeatureCache(cache_path(Path(config["cache"]), corpus)).info.protocol


def _values(config: dict[str, Any]) -> dict[str, Any]:
    """The options of a run by their names."""
    experiment = config["experiment"]
    variants = experiment["variants"]
    strategies = [
        each["strategy"] if each["sampler"] == NO_SAMPLER else f"{each['strategy']}:{each['sampler']}"
        for each in variants
    ]
    options = {name: value for own in experiment["options"].values() for name, value in own.items()}
    transcripts = config["transcripts"]
    begun = len(experiment["stages"]) - len(config["digests"])
    return {
        **experiment["training"],
        **options,
        "strategy": list(dict.fromkeys(strategies)),
        "memory_size": list(dict.fromkeys(each["memory_size"] for each in variants if each["memory_size"]))
        or [1000],
        "stages": experiment["stages"][begun:],
        "seed": experiment["seeds"],
        "cache": config["cache"],
        "trained": config["trained"],
        "from_": config.get("from"),
        "layer": config["layer"],
        "label_scale": config["label_scale"],
        "transcripts": None if transcripts == OWN_TRANSCRIPTS else transcripts,
        "protocol": [
            f"{corpus}={name}"
            for corpus, name in config["protocols"].items()
            if name and name != _own_protocol(config, corpus)
        ],
        "device": config["device"],
    }
