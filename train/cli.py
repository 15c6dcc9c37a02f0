"""ser-train: feature caches -> a model per strategy and seed, and the table of results."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from common import __version__
from common.console import Command, Number, notice, progress, say
from common.errors import UsageError, listing

if TYPE_CHECKING:
    from train.data import Corpus
    from train.experiment import Experiment

_T = TypeVar("_T")

EXAMPLES = """
\b
Examples:
  ser-train
  ser-train --strategy finetune --strategy gem --seeds 3
  ser-train --stages msp-podcast,iemocap --strategy experience-replay --memory-size 500 --seed 7
"""


@click.command("ser-train", cls=Command, epilog=EXAMPLES)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    default=("finetune", "experience-replay", "gem"),
    show_default=True,
    help="finetune, experience-replay, gem or joint; repeatable.",
)
@click.option(
    "--sampler",
    "samplers",
    multiple=True,
    default=("random",),
    show_default=True,
    help="Who gets into memory: random; repeatable.",
)
@click.option(
    "--memory-size",
    type=click.IntRange(min=1),
    default=1000,
    show_default=True,
    help="Training samples kept of each earlier corpus.",
)
@click.option(
    "--stages",
    default="msp-podcast,msp-improv,iemocap",
    show_default=True,
    help="Caches to train on, one after the other.",
)
@click.option("--seeds", type=click.IntRange(min=1), help="Train seeds 0 to N - 1.  [default: 5]")
@click.option(
    "--seed",
    "seed_list",
    type=click.IntRange(min=0),
    multiple=True,
    help="Train this seed; repeatable, in place of --seeds.",
)
@click.option(
    "--cache",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the caches.  [default: $SER_CACHE, else cache]",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the results.  [default: runs/<time>-<strategies>]",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    help="Where the training runs: auto, cpu, mps, cuda or cuda:1.",
)
@click.option(
    "--layer",
    help="Of caches with several layers: the number of one, or weighted for a learned mixture of all.",
)
@click.option(
    "--label-scale",
    type=click.Choice(("declared", "observed")),
    default="declared",
    show_default=True,
    help="What becomes -1 and 1: the ends of the rating scale, or the smallest and largest label found in the corpus.",
)
@click.option(
    "--loss",
    type=click.Choice(("ccc", "mse")),
    default="ccc",
    show_default=True,
    help="Summed over activation and valence: 1 - CCC on the batch, or the squared error.",
)
@click.option(
    "--learning-rate",
    type=Number(min=0, min_open=True),
    default=1e-4,
    show_default=True,
    help="Of Adam.",
)
@click.option(
    "--batch-size", type=click.IntRange(min=2), default=128, show_default=True, help="Utterances per step."
)
@click.option(
    "--epochs", type=click.IntRange(min=1), default=50, show_default=True, help="At most this many per stage."
)
@click.option(
    "--patience",
    type=click.IntRange(min=1),
    default=10,
    show_default=True,
    help="Epochs without a better validation CCC before a stage stops.",
)
@click.option(
    "--replay-share",
    type=Number(0, 1, min_open=True, max_open=True),
    help="experience-replay: share of each batch from memory.  [default: as shuffling falls]",
)
@click.option(
    "--gem-margin",
    type=Number(min=0),
    default=0.0,
    show_default=True,
    help="gem: lower bound of the dual variables; 0 projects exactly.",
)
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
def main(
    strategies: tuple[str, ...], samplers: tuple[str, ...], memory_size: int, stages: str, seeds: int | None,
    seed_list: tuple[int, ...], cache: Path | None, output: Path | None, device: str, layer: str | None, label_scale: str,
    loss: str, learning_rate: float, batch_size: int, epochs: int, patience: int, replay_share: float | None,
    gem_margin: float,
) -> None:  # fmt: skip
    """Train emotion heads through a sequence of corpora, and show what each strategy forgets.

    Reads <cache>/<corpus>.h5 for every stage, trains every strategy with every seed, evaluates all corpora
    after all stages, writes results.csv and config.json, and prints the closing tables.
    """
    stage_names = tuple(name.strip() for name in stages.split(","))
    if len(set(stage_names)) != len(stage_names) or not all(stage_names):
        raise UsageError(f"--stages {stages!r} must name different caches, separated by commas.")
    if memory_size == 1 and loss == "ccc":
        raise UsageError(
            "--memory-size 1 teaches nothing with --loss ccc, the CCC of one utterance: keep 2 or more."
        )
    if seeds is not None and seed_list:
        raise UsageError("Give --seeds N or --seed S, not both.")

    # Everything from here on needs torch, which --help and wrong usage should not wait for.
    import torch

    from common.devices import resolve_device
    from train import experiment as experiments
    from train.data import load_corpora
    from train.loop import LoopSettings
    from train.report import print_tables, write_results
    from train.samplers import SAMPLERS
    from train.strategies import STRATEGIES, StrategySettings

    _known("strategy", strategies, STRATEGIES)
    _known("sampler", samplers, SAMPLERS)
    plan = experiments.Experiment(
        variants=experiments.variants(_once(strategies), _once(samplers), memory_size),
        stages=stage_names,
        seeds=_once(seed_list) or tuple(range(seeds or 5)),
        loop=LoopSettings(loss, learning_rate, batch_size, epochs, patience),
        strategy=StrategySettings(replay_share, gem_margin),
    )
    folder = cache or Path(os.environ.get("SER_CACHE") or "cache")
    corpora, fingerprints = load_corpora(folder, stage_names, label_scale, layer, resolve_device(device))
    _note_whole_memories(plan, corpora[:-1])
    target = _output(output, strategies)
    config = {
        "experiment": dataclasses.asdict(plan),
        "label_scale": label_scale,
        "layer": layer,
        "cache": str(folder),
        "fingerprints": fingerprints,
        "versions": {
            "ser-memory": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    with progress("training", experiments.epochs(plan), "epochs") as advance:
        results = experiments.run(
            plan, corpora, advance, lambda rows: write_results(target / "results.csv", rows)
        )
    print_tables(results)
    say(f"All figures: {target / 'results.csv'}")


def _known(kind: str, names: tuple[str, ...], registry: Collection[str]) -> None:
    for name in names:
        if name not in registry:
            raise UsageError(f"There is no {kind} {name!r}: choose among {listing(registry)}.")


def _once(values: tuple[_T, ...]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(values))


def _note_whole_memories(plan: Experiment, earlier: Sequence[Corpus]) -> None:
    """Say which memories are as large as their corpus, since they then forget nothing and hide nothing."""
    size = max(variant.memory_size for variant in plan.variants)
    for corpus in earlier:
        held = len(corpus.splits["train"])
        if size >= held:
            notice(f"The memory of {corpus.name} holds all of its {held} training utterances.")


def _output(folder: Path | None, strategies: Sequence[str]) -> Path:
    """The folder of this run's results, made; never one that already holds results."""
    target = folder or Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{'-'.join(strategies)}"
    if (target / "results.csv").exists() or (target / "config.json").exists():
        raise UsageError(f"{target} already holds a run: give another --output, or remove it.")
    target.mkdir(parents=True, exist_ok=True)
    return target


if __name__ == "__main__":
    main()
