"""Simulated speech corpora: voices, rooms and words, in the layouts of the real releases.

No person spoke or rated any of it. It shows the whole program at work without licensed data and without downloads.
"""

from ser_memory.extract.simulation.encoders import write_encoders
from ser_memory.extract.simulation.releases import Release, plan, write_releases

__all__ = ["Release", "plan", "write_encoders", "write_releases"]
