"""Studies: one experiment several times with one thing changed, each time as a run in a folder of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from ser_memory.common.errors import SerError, UsageError
from ser_memory.common.files import write_whole
from ser_memory.train.configuration import Settings
from ser_memory.train.corpora import transcripts_in
from ser_memory.train.results import STUDY
from ser_memory.train.settings import OWN_TRANSCRIPTS

JOINT = "joint"  # all dimensions in one network


def _transcripts(settings: Settings) -> dict[str, Settings]:
    """The caches' own transcripts, then all others for which there are caches."""
    data = settings.data
    if data.transcripts is not None:
        raise UsageError("--study transcripts uses all transcripts, so leave --transcripts out.")
    others = transcripts_in(data.folder, data.stages)
    if not others:
        raise SerError(
            f"There is no cache with other transcripts in {data.folder}, such as iemocap.whisper.h5: make some with "
            "ser-extract --corpus iemocap --text-only --transcriber whisper."
        )
    return {
        name: replace(settings, data=replace(data, transcripts=None if name == OWN_TRANSCRIPTS else name))
        for name in (OWN_TRANSCRIPTS, *others)
    }


def _heads(settings: Settings) -> dict[str, Settings]:
    """All dimensions in one network, then each in a network of its own."""
    together = settings.training.dimensions
    if len(together) == 1:
        raise UsageError("--study heads compares several --dimensions with each alone: name two or more.")
    return {
        name: replace(settings, training=replace(settings.training, dimensions=dimensions))
        for name, dimensions in ((JOINT, together), *((each, (each,)) for each in together))
    }


_VARIATIONS: dict[str, Callable[[Settings], dict[str, Settings]]] = {
    "heads": _heads,
    "transcripts": _transcripts,
}


def runs_of(study: str, settings: Settings, output: Path) -> Iterator[Settings]:
    """The settings of each run of a study, in order, with its folder in `output`.

    Writes the list of the runs, from which ser-report knows them. Raises SerError or UsageError if the study cannot be
    made.
    """
    variations = _VARIATIONS[study](settings)
    write_whole(output / STUDY, json.dumps({"study": study, "runs": list(variations)}, indent=2) + "\n")
    for name, each in variations.items():
        yield replace(each, machine=replace(each.machine, output=output / name))
