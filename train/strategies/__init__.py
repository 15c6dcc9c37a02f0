"""Strategies: how a stage of training treats the corpora of earlier stages. Importing them does not import torch."""

from __future__ import annotations

from ser_memory.common.options import Options
from ser_memory.train.strategies.a_gem import AveragedGEM
from ser_memory.train.strategies.analytic import Analytic
from ser_memory.train.strategies.base import ClosedFormStrategy, GradientStrategy, Kept, Stage, Strategy
from ser_memory.train.strategies.der import DarkExperienceReplay
from ser_memory.train.strategies.ewc import ElasticWeightConsolidation
from ser_memory.train.strategies.experience_replay import ExperienceReplay
from ser_memory.train.strategies.finetune import FineTune
from ser_memory.train.strategies.gem import GEM
from ser_memory.train.strategies.joint import Joint
from ser_memory.train.strategies.lwf import LearningWithoutForgetting
from ser_memory.train.strategies.prototype_replay import PrototypeReplay

STRATEGIES: dict[str, type[Strategy]] = {
    "finetune": FineTune,
    "experience-replay": ExperienceReplay,
    "gem": GEM,
    "a-gem": AveragedGEM,
    "der++": DarkExperienceReplay,
    "ewc": ElasticWeightConsolidation,
    "lwf": LearningWithoutForgetting,
    "prototype-replay": PrototypeReplay,
    "analytic": Analytic,
    "joint": Joint,
}


def option_classes() -> tuple[type[Options], ...]:
    """The classes of all strategies' options, each once."""
    return tuple(dict.fromkeys(cls for each in STRATEGIES.values() for cls in each.options))


__all__ = [
    "STRATEGIES",
    "ClosedFormStrategy",
    "GradientStrategy",
    "Kept",
    "Stage",
    "Strategy",
    "option_classes",
]
