"""Strategies: how a stage of training treats the corpora of earlier stages."""

from __future__ import annotations

from ser_memory.train.strategies.a_gem import AveragedGEM
from ser_memory.train.strategies.base import Kept, Stage, Strategy, StrategySettings
from ser_memory.train.strategies.der import DarkExperienceReplay
from ser_memory.train.strategies.ewc import ElasticWeightConsolidation
from ser_memory.train.strategies.experience_replay import ExperienceReplay
from ser_memory.train.strategies.finetune import FineTune
from ser_memory.train.strategies.gem import GEM
from ser_memory.train.strategies.joint import Joint
from ser_memory.train.strategies.lwf import LearningWithoutForgetting

STRATEGIES: dict[str, type[Strategy]] = {
    "finetune": FineTune,
    "experience-replay": ExperienceReplay,
    "gem": GEM,
    "a-gem": AveragedGEM,
    "der++": DarkExperienceReplay,
    "ewc": ElasticWeightConsolidation,
    "lwf": LearningWithoutForgetting,
    "joint": Joint,
}

__all__ = ["STRATEGIES", "Kept", "Stage", "Strategy", "StrategySettings"]
