"""How much a strategy keeps of earlier corpora. Free of torch."""

from __future__ import annotations

from typing import NamedTuple


class KeptBytes(NamedTuple):
    """Bytes that are kept from one stage, or from several, for later ones."""

    memory: int = 0  # remembered utterances (features, targets, speaker codes), or statistics in their place
    parameters: int = 0  # and whatever there is one of for each of them
    other: int = 0

    def plus(self, other: KeptBytes) -> KeptBytes:
        """Both together."""
        return KeptBytes(*(one + more for one, more in zip(self, other, strict=True)))
