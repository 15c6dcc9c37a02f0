"""Adaptation to another channel on real speech: a model of clean speech meets telephone calls in noise.

    .venv/bin/python -m tests.benchmarks.adaptation --speech DIR --output DIR --acoustic-encoder E --text-encoder E

DIR has recordings of RAVDESS, actors 1 to 6, as in real_speech.py, which makes the corpora. A model is trained on two
actors, clean. Its bundle is all that is left of them: it continues on two other actors, who speak by telephone in noise
of 10 dB. It is tested on the last two actors, whom no stage has heard, both clean and by telephone. The pairs of actors
change places, so that each is learned from, adapted to and tested on once; each pair is a man and a woman. The table
has the CCC before and after adaptation: means over the three ways and the seeds, with the standard deviation over the
seeds of the mean over the ways.

The ratings are a stand-in, see real_speech.py: good for comparing strategies only. The text is one of two
sentences, the same for all emotions, so that it tells nothing.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ser_memory.common.cache import FeatureCache, cache_path
from ser_memory.common.conventions import DIMENSIONS
from ser_memory.common.labels import to_unit
from ser_memory.common.metrics import ccc
from ser_memory.common.reporting import Silent
from ser_memory.extract.api import extract
from ser_memory.train.api import train
from ser_memory.train.bundle_files import bundles_in, read_bundle
from tests.benchmarks.real_speech import BOOTH, RealCorpus, write_releases

PAIRS = ("12", "34", "56")  # actors: a man and a woman each
CHANNELS = ("clean", "calls")
STRATEGIES = ("finetune", "experience-replay", "gem", "analytic")
SNR = 10.0  # dB
OPTIONS: dict[str, Any] = {"batch_size": 16, "epochs": 100}
MEMORY = 20  # utterances of the 72 that are trained on

Figures = npt.NDArray[np.float64]  # (2, C, K): before and after, by channel of the test and dimension


def corpora() -> list[RealCorpus]:
    """Each pair of actors clean, and by telephone in noise."""
    return [
        RealCorpus(
            f"{channel}{pair}", BOOTH, channel == "calls", tuple(f"0{actor}" for actor in pair), ("01", "02"),
            (1.0, 5.0), 1, (SNR, SNR),
        )
        for channel in CHANNELS
        for pair in PAIRS
    ]  # fmt: skip


def prepare(speech: Path, output: Path, **encoders: Any) -> Path:
    """The folder of the caches of all corpora; nothing is done if all are there."""
    caches = output / "cache"
    if not all(cache_path(caches, corpus.name).exists() for corpus in corpora()):
        for manifest in write_releases(speech, output / "releases", corpora()):
            extract(manifest, root=manifest.with_suffix(""), cache=caches, **encoders)
    return caches


def adapted(caches: Path, strategy: str, ways: Sequence[str], seeds: int, output: Path) -> Iterator[Figures]:
    """For each seed the figures before and after adaptation: learn from ways[0], adapt to ways[1], test ways[2]."""
    learned, met, tested = ways
    memory = {} if strategy in ("finetune", "analytic") else {"memory_size": MEMORY}
    own = {} if strategy == "analytic" else OPTIONS
    first = alone(caches, f"clean{learned}", output / "first-cache")
    train(
        cache=first, stages=f"clean{learned}", strategy=strategy, seeds=seeds, bundles=True, output=output / "first",
        predictions="none", reporter=Silent(), **own, **memory,
    )  # fmt: skip
    (before,) = (output / "first/bundles").glob("*/")
    second = alone(caches, f"calls{met}", output / "second-cache")
    shutil.rmtree(first)  # the bundle is all that is left
    train(
        cache=second, stages=f"calls{met}", from_=before, bundles=True, output=output / "second", predictions="none",
        reporter=Silent(),
    )  # fmt: skip
    (after,) = (output / "second/bundles").glob("*/")
    tests = [FeatureCache(cache_path(caches, f"{channel}{tested}")) for channel in CHANNELS]
    for seed in range(seeds):
        models = [read_bundle(*bundles_in(folder / f"seed-{seed}")) for folder in (before, after)]
        made = [[figures(test, model.predict) for test in tests] for model in models]
        yield np.array(made)


def alone(caches: Path, corpus: str, folder: Path) -> Path:
    """A folder with the cache of one corpus."""
    folder.mkdir(parents=True)
    shutil.copyfile(cache_path(caches, corpus), cache_path(folder, corpus))
    return folder


def figures(test: FeatureCache, predict: Any) -> list[float]:
    """The CCC of each dimension over all utterances of a cache."""
    predicted = predict(test.read("acoustic"), test.read("text"))
    scale = test.info.scale_min, test.info.scale_max
    return [ccc(to_unit(test.read(name), *scale), predicted[:, k]) for k, name in enumerate(DIMENSIONS)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--speech", type=Path, required=True, help="folder of the RAVDESS recordings")
    parser.add_argument("--output", type=Path, required=True, help="folder of the releases, caches and runs")
    parser.add_argument("--acoustic-encoder", required=True, help="as ser-extract takes it")
    parser.add_argument("--text-encoder", required=True, help="as ser-extract takes it")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--strategy", action="append", choices=STRATEGIES, help="repeatable; all if left out")
    given = parser.parse_args()
    encoders = {"acoustic_encoder": given.acoustic_encoder, "text_encoder": given.text_encoder}
    caches = prepare(given.speech, given.output, **encoders)
    turns = [PAIRS[place:] + PAIRS[:place] for place in range(len(PAIRS))]
    print("CCC, before -> after adaptation to calls; mean ± standard deviation over seeds")
    print(f"{'strategy':18} " + " ".join(f"{f'{c} {d}':>31}" for c in CHANNELS for d in DIMENSIONS))
    for strategy in given.strategy or STRATEGIES:
        shutil.rmtree(given.output / "runs" / strategy, ignore_errors=True)
        found = np.array(
            [
                list(
                    adapted(
                        caches, strategy, ways, given.seeds, given.output / "runs" / strategy / "-".join(ways)
                    )
                )
                for ways in turns
            ]
        )  # (ways, seeds, 2, channels, dimensions)
        by_seed = found.mean(axis=0)
        mean, spread = by_seed.mean(axis=0), by_seed.std(axis=0, ddof=1)
        cells = [
            f"{mean[0, c, k]:6.3f} ± {spread[0, c, k]:.3f} -> {mean[1, c, k]:6.3f} ± {spread[1, c, k]:.3f}"
            for c in range(len(CHANNELS))
            for k in range(len(DIMENSIONS))
        ]
        print(f"{strategy:18} " + " ".join(cells), flush=True)


if __name__ == "__main__":
    main()
