"""Strategies: how a stage of training treats the corpora of earlier stages. Importing them does not import torch."""

from __future__ import annotations

from ser_memory.common.options import Options
from ser_memory.train.strategies.a_gem import AveragedGEM
from ser_memory.train.strategies.base import Kept, Stage, Strategy
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
    "joint": Joint,
}


def option_classes() -> tuple[type[Options], ...]:
    """The classes of all strategies' options, each once."""
    return tuple(dict.fromkeys(each.options for each in STRATEGIES.values() if each.options is not Options))


__all__ = ["STRATEGIES", "Kept", "Stage", "Strategy", "option_classes"]
