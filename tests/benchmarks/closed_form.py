"""All stages of `analytic` beside one epoch of fine-tuning, at the sizes of the real corpora.

    .venv/bin/python -m tests.benchmarks.closed_form [--rows 84000,5000,6000] [--rounds 3]

Made-up features of 768 + 768 in float32. Both on one core, in turns. The epoch is one of several of the first stage, so
without starting; the closed form is whole: sums, solving, validation and results of three stages.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from ser_memory.common.console import say, table
from ser_memory.train.corpora import Source, load_corpora
from ser_memory.train.engines.inline import Inline
from ser_memory.train.experiment import plan
from ser_memory.train.plan import Experiment
from ser_memory.train.settings import StrategySettings
from ser_memory.train.store import Store
from ser_memory.train.trainer import Trainer
from tests.benchmarks.training import NAMES, fine_tuning, write_caches


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="84000,5000,6000", help="training utterances of the three corpora")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_caches(Path(folder), [int(n) for n in arguments.rows.split(",")])
        closed_form(Path(folder))  # reads the files into memory
        rounds = [
            (fine_tuning(Path(folder), 128, 1)[0], closed_form(Path(folder))) for _ in range(arguments.rounds)
        ]
    lines = [[f"{epoch:.2f}", f"{whole:.2f}", f"{whole / epoch:.2f}"] for epoch, whole in rounds]
    table(
        "Seconds on one core", ["an epoch of fine-tuning", "analytic, three stages", "ratio"], lines, left=0
    )
    say(f"Median ratio: {median(whole / epoch for epoch, whole in rounds):.2f}")


def closed_form(folder: Path) -> float:
    """Seconds of all stages, with the results."""
    experiment = Experiment(StrategySettings(strategy=("analytic",)).variants, NAMES, (0,))
    with tempfile.TemporaryDirectory() as trained:
        store = Store(Path(trained))
        trainer = Trainer(experiment, load_corpora(Source(folder, NAMES)), store, torch.device("cpu"))
        tasks = plan(experiment, trainer, store).tasks
        start = time.perf_counter()
        for _ in Inline(trainer).run(tasks, lambda _: None):
            pass
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
