"""What both stages share: the cache, labels, measures, manifests, errors and the console."""

__version__ = "0.1.0"
