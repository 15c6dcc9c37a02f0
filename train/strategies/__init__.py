"""Strategies: what a stage does about the corpora before it."""

from __future__ import annotations

from train.strategies.base import Strategy, StrategySettings
from train.strategies.experience_replay import ExperienceReplay
from train.strategies.finetune import FineTune
from train.strategies.gem import GEM
from train.strategies.joint import Joint

STRATEGIES: dict[str, type[Strategy]] = {
    "finetune": FineTune,
    "experience-replay": ExperienceReplay,
    "gem": GEM,
    "joint": Joint,
}

__all__ = ["STRATEGIES", "Strategy", "StrategySettings"]
