"""Models to take away: written from a run, described, continued from."""
