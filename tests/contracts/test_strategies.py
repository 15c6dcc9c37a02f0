"""What every strategy and every sampler must keep to; a new registry entry is covered without an edit."""

from __future__ import annotations

import copy

import pytest
import torch

from tests.train.worlds import ACOUSTIC_WIDTH, TEXT_WIDTH, corpora, samples
from train.experiment import Experiment, run, variants
from train.loop import LoopSettings, train_stage
from train.model import Architecture, EmotionModel
from train.objective import ccc_loss
from train.samplers import SAMPLERS
from train.strategies import STRATEGIES, StrategySettings

QUICK = LoopSettings(batch_size=16, epochs=3, patience=3, learning_rate=1e-3)


def model() -> EmotionModel:
    torch.manual_seed(0)
    return EmotionModel(Architecture(ACOUSTIC_WIDTH, TEXT_WIDTH, 16, 8))


def trained(strategy: str, with_earlier: bool) -> EmotionModel:
    net = model()
    earlier = [samples(20, 1), samples(30, 2)] if with_earlier else []
    policy = STRATEGIES[strategy](samples(50, 0), earlier, StrategySettings())
    torch.manual_seed(1)
    train_stage(net, policy, samples(20, 3), QUICK, torch.Generator().manual_seed(2))
    return net


@pytest.mark.parametrize("name", STRATEGIES)
class TestStrategy:
    def test_without_earlier_corpora_all_are_plain_training(self, name: str) -> None:
        """The first stage is trained once for all strategies; that is only right if they agree on it."""
        ours, plain = trained(name, with_earlier=False), trained("finetune", with_earlier=False)
        for key, value in plain.state_dict().items():
            assert torch.equal(ours.state_dict()[key], value), key

    def test_same_seed_same_model(self, name: str) -> None:
        one, other = trained(name, with_earlier=True), trained(name, with_earlier=True)
        assert all(
            torch.equal(a, b)
            for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True)
        )

    def test_what_is_seen_of_earlier_corpora_matters(self, name: str) -> None:
        differs = not torch.equal(
            torch.nn.utils.parameters_to_vector(trained(name, with_earlier=True).parameters()),
            torch.nn.utils.parameters_to_vector(trained(name, with_earlier=False).parameters()),
        )
        assert differs == (STRATEGIES[name].earlier != "nothing")

    def test_an_epoch_goes_once_through_the_new_corpus(self, name: str) -> None:
        current = samples(50, 0)
        policy = STRATEGIES[name](current, [samples(20, 1)], StrategySettings())
        rows = torch.cat(list(policy.batches(16, torch.Generator().manual_seed(0))))
        assert sorted(row for row in rows.tolist() if row < 50) == list(range(50))
        assert torch.equal(policy.samples.acoustic[:50], current.acoustic)

    def test_data_and_finite_gradients_are_left_alone(self, name: str) -> None:
        current, earlier = samples(50, 0), [samples(20, 1)]
        before = copy.deepcopy((current, earlier))
        policy = STRATEGIES[name](current, earlier, StrategySettings())
        net = model()
        ccc_loss(net(current.acoustic, current.text), current.targets).backward()
        policy.adjust_gradients(net, ccc_loss)
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
        for was, now in zip([before[0], *before[1]], [current, *earlier], strict=True):
            assert torch.equal(was.acoustic, now.acoustic)
            assert torch.equal(was.targets, now.targets)

    def test_a_whole_experiment(self, name: str) -> None:
        plan = Experiment(
            variants([name], ["random"], 10), ("msp-podcast", "msp-improv", "iemocap"), (0,), QUICK
        )
        results = run(plan, corpora())
        assert {result.stage_name for result in results} == {"P", "P+M", "P+M+I"}
        # stages x corpora x evaluated splits x dimensions x measures
        assert len(results) == 3 * 3 * 2 * 2 * 2
        assert {result.memory_size for result in results} == {
            10 if STRATEGIES[name].earlier == "memory" else 0
        }


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("n", "size"), [(100, 10), (100, 100), (7, 50), (1, 1), (5, 0)])
def test_a_sampler_gives_that_many_different_rows(name: str, n: int, size: int) -> None:
    made = samples(n, 0)
    bins = torch.randint(0, 3, (n, 2), generator=torch.Generator().manual_seed(4))

    def choose(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return SAMPLERS[name](bins, made.speakers, made.acoustic, size, generator)

    chosen = choose(5)
    assert chosen.dtype == torch.int64
    assert len(set(chosen.tolist())) == len(chosen) == min(n, size)
    assert all(0 <= row < n for row in chosen.tolist())
    assert chosen.tolist() == sorted(chosen.tolist())
    assert torch.equal(chosen, choose(5))
