"""Figures of a report, one module each. They load matplotlib: import them where they are used.

Each function takes plain data and returns a `Drawn`: the figure, an alternative text and a caption.
"""

from __future__ import annotations

from collections.abc import Callable

from ser_memory.train.report.figures.agreement import predicted_against_true
from ser_memory.train.report.figures.base import Drawn
from ser_memory.train.report.figures.conditions import across_conditions
from ser_memory.train.report.figures.cost import against_bytes
from ser_memory.train.report.figures.forest import forest
from ser_memory.train.report.figures.heat import stage_by_corpus
from ser_memory.train.report.figures.learning import bent_steps, learning_curves
from ser_memory.train.report.figures.memory import memory_cells
from ser_memory.train.report.figures.stages import along_stages
from ser_memory.train.report.figures.transcripts import against_word_errors

FIGURES: dict[str, Callable[..., Drawn]] = {
    "stages": along_stages,
    "heat": stage_by_corpus,
    "agreement": predicted_against_true,
    "memory": memory_cells,
    "learning": learning_curves,
    "bent": bent_steps,
    "forest": forest,
    "cost": against_bytes,
    "transcripts": against_word_errors,
    "conditions": across_conditions,
}
