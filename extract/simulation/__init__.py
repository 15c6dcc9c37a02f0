"""Simulated speech corpora: voices, rooms and words, in the layouts of the true releases.

Nothing here was recorded, rated or said by anybody: it lets the whole path be seen to work with no licensed
data and no downloads.
"""

from ser_memory.extract.simulation.encoders import write_encoders
from ser_memory.extract.simulation.releases import Release, plan, write_releases

__all__ = ["Release", "plan", "write_encoders", "write_releases"]
