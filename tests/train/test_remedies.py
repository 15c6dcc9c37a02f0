"""What is done to a memory's rows: exact in 8 bits, noise as asked for, the same in every stack."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ser_memory.common.errors import UsageError
from ser_memory.train.configuration import Settings
from ser_memory.train.engines.inline import Inline
from ser_memory.train.experiment import plan
from ser_memory.train.fingerprints import Fingerprints
from ser_memory.train.gradient import GradientStack
from ser_memory.train.memory.remedies import Deviations, from_bytes, protected, saved_bytes, to_bytes
from ser_memory.train.plan import Experiment
from ser_memory.train.runs import Run, Variant
from ser_memory.train.samples import UNKNOWN_SPEAKER
from ser_memory.train.settings import MemorySettings, TrainingSettings
from ser_memory.train.store import Store
from ser_memory.train.trainer import Trainer
from tests.train.worlds import STAGES, corpora, network, part, samples

QUICK = TrainingSettings(batch_size=16, epochs=2, patience=2, learning_rate=1e-3)
REMEMBERING = Variant("experience-replay", "random", 10)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 40),
    centre=st.sampled_from([0.0, 1.0, -1000.0, 3e7]),
    spread=st.sampled_from([0.0, 1e-40, 1e-6, 1.0, 1e6, 1e30]),
)
def test_bytes_of_what_was_decoded_lose_nothing(seed: int, n: int, centre: float, spread: float) -> None:
    """A bundle encodes the values that were trained on, or a part of the rows: they come back bit by bit."""
    random = np.random.default_rng(seed)
    values = (centre + spread * random.standard_normal((n, 3))).astype(np.float32)
    codes, first, step = to_bytes(values)
    decoded = from_bytes(codes, first, step)
    finest = 1.2e-7 * np.abs(values).max(axis=0) + 1e-37  # of float32
    step_at_most = np.maximum((values.max(axis=0) - values.min(axis=0)) / 127, finest)
    assert (np.abs(decoded - values) <= step_at_most).all()
    some = decoded[random.permutation(n)[: random.integers(1, n + 1)]]
    for again in (decoded, some):
        assert from_bytes(*to_bytes(again)).tobytes() == again.tobytes()


def test_at_least_half_of_the_codes_are_used() -> None:
    codes, _, _ = to_bytes(np.random.default_rng(0).uniform(-1, 1, (5000, 2, 7)).astype(np.float32))
    assert codes.shape == (5000, 2, 7)
    assert (codes.min(axis=0) == 0).all()
    assert (codes.max(axis=0) >= 127).all()


def test_noise_is_in_units_of_the_training_split() -> None:
    whole = samples(4000, 0)
    train = part(whole, torch.arange(2000) * 2)
    train.acoustic[:, 1] *= 50
    train.text[:, 2] = 7
    noisy = protected(train, MemorySettings(memory_noise=0.5), Deviations(train), np.random.default_rng(0))
    rows = train.rows.numpy()
    for name in ("acoustic", "text"):
        clean, found = getattr(train, name).numpy(), getattr(noisy, name).numpy()
        np.testing.assert_allclose(
            (found - clean)[rows].std(axis=0), 0.5 * clean[rows].std(axis=0), rtol=0.08, atol=1e-6
        )
    assert torch.equal(noisy.targets, train.targets)


def test_nothing_is_done_by_default() -> None:
    memory = samples(5, 0)
    kept = protected(memory, MemorySettings(), Deviations(memory), np.random.default_rng(0))
    assert all(torch.equal(getattr(kept, name), getattr(memory, name)) for name in ("acoustic", "speakers"))
    kept = protected(
        memory, MemorySettings(no_speaker_codes=True), Deviations(memory), np.random.default_rng(0)
    )
    assert (kept.speakers == UNKNOWN_SPEAKER).all()


def trained(folder: Path, seeds: tuple[int, ...], memory: MemorySettings) -> dict[int, torch.Tensor]:
    """The last parameters of each seed."""
    experiment = Experiment((REMEMBERING,), STAGES, seeds, QUICK, memory=memory)
    store = Store(folder)
    trainer = Trainer(experiment, corpora(), store, torch.device("cpu"))
    assert list(Inline(trainer).run(plan(experiment, trainer, store).tasks, lambda _: None))
    keys = {seed: trainer.keys.of(Run(REMEMBERING, seed), 3) for seed in seeds}
    return {seed: store.parameters([key])[0] for seed, key in keys.items()}


def test_a_run_does_not_depend_on_its_stack(tmp_path: Path) -> None:
    memory = MemorySettings(memory_noise=0.3, memory_bits="8")
    together = trained(tmp_path / "together", (0, 1), memory)
    plain = trained(tmp_path / "plain", (1,), MemorySettings())
    assert torch.equal(together[1], trained(tmp_path / "alone", (1,), memory)[1])
    assert not torch.equal(together[1], plain[1])


def key(variant: Variant, **memory: Any) -> str:
    experiment = Experiment((variant,), STAGES, (0,), QUICK, memory=MemorySettings(**memory))
    keys = Fingerprints(experiment, corpora(), network().architecture, torch.device("cpu"))
    return keys.of(Run(variant, 0), 2)


def test_fingerprints_tell_what_was_trained_on() -> None:
    usual = key(REMEMBERING)
    assert len({usual, key(REMEMBERING, memory_noise=0.1), key(REMEMBERING, memory_bits="8")}) == 3
    assert key(REMEMBERING, no_speaker_codes=True) == usual  # it has none in a bundle
    by_speaker = replace(REMEMBERING, sampler="speaker")
    assert key(by_speaker, no_speaker_codes=True) != key(by_speaker)  # a smaller memory is chosen by them
    assert key(Variant("finetune"), memory_noise=0.1) == key(Variant("finetune"))


@pytest.mark.parametrize(
    "chosen", [{"strategy": "finetune"}, {"strategy": "gem", "stages": "iemocap"}, {"strategy": "joint"}]
)
@pytest.mark.parametrize("option", [{"memory_noise": 0.1}, {"memory_bits": "8"}, {"no_speaker_codes": True}])
def test_without_a_memory_they_are_refused(chosen: dict[str, Any], option: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="no effect"):
        Settings.take({**chosen, **option}, option)
    Settings.take({"strategy": ["finetune", "gem:speaker"], **option}, option)


def test_codes_that_no_bundle_has_cannot_be_left_out() -> None:
    with pytest.raises(
        UsageError, match="--no-speaker-codes has no effect: only a memory that is chosen by speaker"
    ):
        Settings.take({"strategy": "gem", "no_speaker_codes": True}, ["no_speaker_codes"])


def test_bytes_that_are_saved(tmp_path: Path) -> None:
    memory = samples(30, 0)
    whole = memory.size
    in_bytes = sum(
        values.nbytes for part in ("acoustic", "text") for values in to_bytes(getattr(memory, part).numpy())
    )
    as_floats = memory.acoustic.nbytes + memory.text.nbytes
    assert saved_bytes(memory, MemorySettings(memory_bits="8")) == as_floats - in_bytes
    assert saved_bytes(memory, MemorySettings(no_speaker_codes=True)) == memory.speakers.nbytes
    variant = replace(REMEMBERING, sampler="speaker")
    experiment = Experiment((variant,), STAGES, (0,), QUICK, memory=MemorySettings(no_speaker_codes=True))
    trainer = Trainer(experiment, corpora(), Store(tmp_path), torch.device("cpu"))
    stack = trainer.stack([Run(variant, 0)])
    assert isinstance(stack, GradientStack)
    assert stack.kept_bytes(1, 1).memory == 10 * (whole // 30 - 8)
