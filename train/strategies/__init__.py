"""Strategies: what a stage does about the corpora before it."""

from __future__ import annotations

from train.strategies.a_gem import AveragedGEM
from train.strategies.base import Kept, Stage, Strategy, StrategySettings
from train.strategies.der import DarkExperienceReplay
from train.strategies.ewc import ElasticWeightConsolidation
from train.strategies.experience_replay import ExperienceReplay
from train.strategies.finetune import FineTune
from train.strategies.gem import GEM
from train.strategies.joint import Joint
from train.strategies.lwf import LearningWithoutForgetting

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
