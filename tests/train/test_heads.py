"""Single-task networks beside the joint one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from ser_memory.train.corpora import Source, load_corpora
from ser_memory.train.fingerprints import Fingerprints
from ser_memory.train.plan import Experiment
from ser_memory.train.predictions import Predictions
from ser_memory.train.runs import Run
from ser_memory.train.settings import StrategySettings, TrainingSettings
from ser_memory.train.trainer import network_for
from tests.train.test_cli import caches, refused, rows, run
from tests.train.test_predictions import recomputed
from tests.train.worlds import STAGES, corpora, network

assert caches  # the fixture


@pytest.mark.parametrize("heads", ["activation", "valence"])
def test_one_dimension_alone(heads: str, caches: Path, tmp_path: Path) -> None:
    """It is trained, evaluated and told alone; the memories are those of the joint network."""
    command = [
        "--cache",
        caches,
        "--seed",
        0,
        "--strategy",
        "finetune",
        "--strategy",
        "gem",
        "--sampler",
        "emotion",
    ]
    result = run(*command, "--dimensions", heads, "--output", tmp_path / "one")
    assert result.exit_code == 0, result.output
    assert run(*command, "--output", tmp_path / "joint").exit_code == 0
    made = rows(tmp_path / "one")
    assert {row["dimension"] for row in made} == {heads}
    joint = [row for row in rows(tmp_path / "joint") if row["dimension"] == heads]
    names = [name for name in made[0] if name != "value"]
    assert [[row[name] for name in names] for row in made] == [[row[name] for name in names] for row in joint]
    assert [row["value"] for row in made] != [row["value"] for row in joint]
    other = "valence" if heads == "activation" else "activation"
    assert f"of {heads}, test split" in result.output
    assert other not in result.output
    assert (tmp_path / "one/memory.csv").read_bytes() == (tmp_path / "joint/memory.csv").read_bytes()
    assert Predictions(tmp_path / "one").dimensions == (heads,)
    assert recomputed(tmp_path / "one") == len(made)
    config = json.loads((tmp_path / "one/config.json").read_text())
    assert config["experiment"]["training"]["dimensions"] == [heads]
    says = "already holds another experiment (different: dimensions)"
    assert says in refused(run(*command, "--output", tmp_path / "one"), 2)


def test_text_belongs_to_valence(caches: Path) -> None:
    """Without it, a network has no text layer, and the trunk and the head are those of the joint network."""
    whole = network_for(load_corpora(Source(caches, STAGES)))
    parts = {
        name: network_for(load_corpora(Source(caches, STAGES, dimensions=(name,))))
        for name in ("activation", "valence")
    }
    trunk = ["trunk.0", "trunk.1", "trunk.2"]
    assert list(parts["activation"].widths) == [*trunk, "activation.hidden", "activation.out"]
    assert list(parts["valence"].widths) == [*trunk, "text", "valence.hidden", "valence.out"]
    for net in parts.values():
        assert net.widths.items() <= whole.widths.items()


def test_targets_are_those_of_the_dimension(caches: Path) -> None:
    (joint, *_), (alone, *_) = (
        load_corpora(Source(caches, STAGES, dimensions=dimensions))
        for dimensions in (("activation", "valence"), ("valence",))
    )
    for split, samples in joint.splits.items():
        torch.testing.assert_close(alone.splits[split].targets, samples.targets[:, 1:], rtol=0, atol=0)
        np.testing.assert_array_equal(alone.splits[split].labels, samples.targets)
    assert joint.digests == alone.digests


def test_a_stage_of_the_joint_network_is_known_as_before() -> None:
    """The option itself is in no fingerprint: the architecture tells what is trained."""
    keys = set()
    for heads in (("activation", "valence"), ("activation",)):
        experiment = Experiment(StrategySettings().variants, STAGES, (0,), TrainingSettings(dimensions=heads))
        keys.add(
            Fingerprints(experiment, corpora(), network().architecture, torch.device("cpu")).of(
                Run(None, 0), 1
            )
        )
    assert len(keys) == 1
