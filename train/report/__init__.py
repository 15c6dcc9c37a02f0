"""Reports of a run: the closing tables, and which differences hold."""
