"""A small run whose numbers are written down: who changes what training gives must raise METHOD.

Finished stages of earlier versions would otherwise be used although the same run now gives something else. After such
a change, raise METHOD in train/fingerprints.py and write the numbers down again:

    python -m tests.train.test_golden
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import torch

from ser_memory.train.engines.inline import Inline
from ser_memory.train.experiment import plan
from ser_memory.train.fingerprints import METHOD
from ser_memory.train.plan import Experiment
from ser_memory.train.settings import StrategySettings, TrainingSettings
from ser_memory.train.store import Store
from ser_memory.train.strategies import STRATEGIES
from ser_memory.train.trainer import Trainer
from tests.train.worlds import STAGES, corpora

GOLDEN = Path(__file__).with_name("golden.json")
CLOSE = 2e-3  # processors round differently: by up to 5e-4 here, and by 0.07 with three epochs of ten times the rate


def measured(folder: Path) -> dict[str, list[float]]:
    """Of every strategy's last stage: validation CCC after each epoch, and the length of the parameter vector."""
    chosen = StrategySettings(strategy=tuple(STRATEGIES), sampler=("speaker-emotion",), memory_size=(12,))
    training = TrainingSettings(epochs=1, patience=1, batch_size=16, learning_rate=1e-4)
    experiment = Experiment(chosen.variants, STAGES, (7,), training)
    store = Store(folder)
    trainer = Trainer(experiment, corpora(), store, torch.device("cpu"))
    found = {}
    for run, outcome in Inline(trainer).run(plan(experiment, trainer, store).tasks, lambda _: None):
        last = max(outcome.stages)
        parameters = store.parameters([trainer.keys.of(run, last)])
        name = run.strategy if run.variant else "first stage"
        found[name] = [*outcome.stages[last].scores, float(parameters.norm())]
    return found


def test_the_method_is_the_one_that_was_written_down(tmp_path: Path) -> None:
    written = json.loads(GOLDEN.read_text())
    assert written["method"] == METHOD, "METHOD was raised: write the numbers down again"
    found = measured(tmp_path)
    assert found.keys() == written["numbers"].keys()
    for name, numbers in found.items():
        assert numbers == pytest.approx(written["numbers"][name], abs=CLOSE), (
            f"{name} gives other numbers than version {METHOD} of the method: if that is meant, raise METHOD"
        )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        content = {"method": METHOD, "numbers": measured(Path(folder))}
    GOLDEN.write_text(json.dumps(content, indent=2) + "\n")
