"""Fine-tuning: continue on the new corpus alone. The baseline that forgets."""

from __future__ import annotations

from ser_memory.train.strategies.base import GradientStrategy


class FineTune(GradientStrategy):
    """Sees nothing of earlier corpora again."""
