"""Trackers of experiments: the figures of a run in the form of another program. Off unless asked for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from ser_memory.common.errors import SerError
from ser_memory.train.plan import Experiment
from ser_memory.train.results import Outcomes, stages_of
from ser_memory.train.runs import NO_SAMPLER, Run

FOLDER = "tensorboard"  # in the folder of a run


def refuse_absent(tracker: str | None) -> None:
    """Raise SerError if the package of a tracker is not installed, before anything is trained."""
    if tracker is not None and find_spec("tensorboard") is None:
        raise SerError(
            "--tracker tensorboard needs the package tensorboard: pip install 'ser-memory[tensorboard]'"
        )


def track(tracker: str | None, folder: Path, experiment: Experiment, outcomes: Outcomes) -> None:
    """Write what is finished of an experiment for a tracker: a line for each run.

    `validation CCC/<stage>` by epoch (the mean over the dimensions), and `<measure> of <dimension>/<corpus> <split>` by
    stage, from 1. What an earlier call wrote to the folder is replaced.
    """
    if tracker is None:
        return
    from torch.utils.tensorboard.writer import SummaryWriter

    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    for run in experiment.runs:
        with closing(SummaryWriter(str(folder / FOLDER / _name(run, experiment)))) as writer:
            for tag, value, step in _scalars(experiment, outcomes, run):
                writer.add_scalar(tag, value, step)


def _scalars(experiment: Experiment, outcomes: Outcomes, run: Run) -> Iterator[tuple[str, float, int]]:
    """Tag, value and step of every epoch and figure of a run."""
    for number, name, result in stages_of(experiment, outcomes, run):
        for epoch, score in enumerate(result.scores, start=1):
            yield f"validation CCC/{name}", score, epoch
        for figure in (figure for figure in result.figures if figure.fold == run.fold):
            tag = f"{figure.metric.upper()} of {figure.dimension}/{figure.corpus} {figure.split}"
            yield tag, figure.value, number


def _name(run: Run, experiment: Experiment) -> str:
    """Such as `gem-random-1000/seed-0`, or `finetune/seed-0/fold-2`."""
    assert run.variant is not None  # of the runs of an experiment
    parts = [run.variant.strategy]
    if run.variant.sampler != NO_SAMPLER:
        parts += [run.variant.sampler, str(run.variant.memory_size)]
    fold = f"/fold-{run.fold}" if experiment.has_folds else ""
    return f"{'-'.join(parts)}/seed-{run.seed}{fold}"
