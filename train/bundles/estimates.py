"""estimates.csv: figures for corpora that are no longer there, from the few test utterances that a bundle holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import astuple, fields
from pathlib import Path

import torch

from ser_memory.common.errors import listing
from ser_memory.common.machine import one_core_each
from ser_memory.common.reporting import notice
from ser_memory.train.bundle import Bundle
from ser_memory.train.evaluation import measure
from ser_memory.train.results import Outcomes, Result, of_few, stages_of, write_rows
from ser_memory.train.trainer import Trainer


def write_estimates(path: Path, trainer: Trainer, outcomes: Outcomes) -> None:
    """Write the estimates of every finished stage, with the columns of results.csv; `n` tells on how few they are.

    Notices name corpora that nothing can be estimated for, or only from very few utterances.
    """
    seen = list(zip(bundle_of(trainer).info.seen, bundle_of(trainer).estimates, strict=True))
    unknown = [each.name for each, rows in seen if rows is None]
    if unknown:
        notice(
            f"What is forgotten of {listing(unknown)} cannot be estimated: the bundle has no test utterances of "
            f"{'it' if len(unknown) == 1 else 'them'}, see --estimate-size."
        )
    held = {f"test utterances of {each.name} in the bundle": len(rows) for each, rows in seen if rows}
    for line in of_few(held):
        notice(line)
    with one_core_each(), torch.inference_mode():
        write_rows(path, [item.name for item in fields(Result)], map(astuple, _estimates(trainer, outcomes)))


def bundle_of(trainer: Trainer) -> Bundle:
    """The bundle of the first run; those of all runs are of the same corpora."""
    return trainer.bundle(trainer.experiment.runs[0])


def _estimates(trainer: Trainer, outcomes: Outcomes) -> Iterator[Result]:
    experiment = trainer.experiment
    for run in experiment.runs:
        assert run.variant is not None
        bundle = trainer.bundle(run)
        for number, name, _ in stages_of(experiment, outcomes, run):
            predict = trainer.predictor(experiment.owner(run, number), number)
            for seen, rows in zip(bundle.info.seen, bundle.estimates, strict=True):
                if rows is None:
                    continue
                truth = rows.targets.numpy()
                for (dimension, metric), value in measure(
                    truth, predict(rows), bundle.info.dimensions
                ).items():
                    yield Result(
                        **vars(run.variant), seed=run.seed, stage=number, stage_name=name, corpus=seen.name, split="test",
                        dimension=dimension, metric=metric, value=value, n=len(rows), fold=run.fold,
                    )  # fmt: skip
