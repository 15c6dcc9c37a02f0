"""A small vocabulary, and sentences whose choice of words depends on valence."""

from __future__ import annotations

import numpy as np

from ser_memory.extract.simulation.voice import syllables


def _words(text: str) -> list[str]:
    return text.split()


FUNCTION = _words(
    "i you we they it the a this that is was and but so to of in with really just now then not very"
)

# Polarity -> words; the common ones occur in all corpora, the others belong to the topics of one corpus.
COMMON = {
    -1: _words("bad sad angry hate terrible lost never wrong hurt afraid"),
    0: _words("time people day thing place think know going said house"),
    1: _words("good happy love great wonderful hope best thank smile glad"),
}
FLAVOURS = {
    "podcast": {
        -1: _words("crisis scandal failure problem"),
        0: _words("episode listener market history"),
        1: _words("success amazing favorite exciting"),
    },
    "improv": {
        -1: _words("cheating missed sick awful"),
        0: _words("class office dinner school"),
        1: _words("birthday vacation promotion beautiful"),
    },
    "iemocap": {
        -1: _words("damn sorry leaving funeral"),
        0: _words("license form line airport"),
        1: _words("married baby fantastic darling"),
    },
}


def vocabulary() -> list[str]:
    """All words that can occur, in a fixed order."""
    groups = [FUNCTION, *COMMON.values(), *(words for each in FLAVOURS.values() for words in each.values())]
    return [word for group in groups for word in group]


def sentence(valence: float, rng: np.random.Generator, flavour: str, length: float) -> str:
    """Draw words of about `length` syllables whose polarity depends on valence, in [-1, 1].

    `flavour` is a key of FLAVOURS: the corpus from whose topics every third content word comes, on average.
    """
    weights = np.exp(2.0 * valence * np.array([-1.0, 0.0, 1.0]))
    weights /= weights.sum()
    words: list[str] = []
    spoken = 0
    while spoken < length:
        if len(words) % 2 == 0:
            word = str(rng.choice(FUNCTION))
        else:
            topic = FLAVOURS[flavour] if rng.random() < 1.0 / 3.0 else COMMON
            word = str(rng.choice(topic[int(rng.choice([-1, 0, 1], p=weights))]))
        words.append(word)
        spoken += len(syllables(word))
    return " ".join(words)
