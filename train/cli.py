"""ser-train: feature caches -> a model per strategy and seed, and the table of results."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
from collections.abc import Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click
from click.core import ParameterSource

from ser_memory.common import __version__
from ser_memory.common.cache import EMBEDDINGS
from ser_memory.common.console import Command, Number, clock, say, table
from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.interruption import InterruptedRunError
from ser_memory.common.machine import cores, memory
from ser_memory.common.reporting import notice, progress
from ser_memory.train import recipes
from ser_memory.train.samplers import SAMPLERS

if TYPE_CHECKING:
    from ser_memory.common.cache import FeatureCache
    from ser_memory.train.data import Corpus, Source
    from ser_memory.train.experiment import Experiment, Failure

_T = TypeVar("_T")
STRATEGIES = ("finetune", "experience-replay", "gem", "a-gem", "der++", "ewc", "lwf", "joint")


EXAMPLES = """
\b
Examples:
  ser-train
  ser-train --preset paper --dry-run
  ser-train --strategy finetune --strategy gem --seeds 3
  ser-train --strategy experience-replay --sampler random --sampler speaker --sampler coverage
  ser-train --stages msp-podcast,iemocap --strategy experience-replay --memory-size 500 --seed 7
"""


@click.command("ser-train", cls=Command, epilog=EXAMPLES)
@click.option(
    "--preset",
    type=click.Choice(recipes.presets()),
    callback=recipes.use_preset,
    is_eager=True,
    expose_value=False,
    help="An experiment that comes with the program; paper is Tables 2 and 3 of the paper. Other options change it.",
)
@click.option(
    "--experiment",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    callback=recipes.use_file,
    is_eager=True,
    expose_value=False,
    help='A TOML file of these options by their names, such as strategy = ["finetune", "gem:speaker"].',
)
@click.option(
    "--dry-run", is_flag=True, help="Say what would be trained and about how long it takes, and stop."
)
@click.option(
    "--strategy",
    "strategies",
    multiple=True,
    default=("finetune", "experience-replay", "gem"),
    show_default=True,
    help=f"{', '.join(STRATEGIES[:-1])} or {STRATEGIES[-1]}; repeatable. gem:speaker names its own sampler.",
)
@click.option(
    "--sampler",
    "samplers",
    multiple=True,
    default=("random",),
    show_default=True,
    help=f"Who gets into memory: {', '.join(SAMPLERS)}; repeatable.",
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
    "--trained",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of finished stages, which no later run trains again.  [default: <cache>/trained]",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    help="Processes that train side by side on a CPU.  [default: one per core]",
)
@click.option(
    "--memory-share",
    type=Number(min=0, max=1),
    default=0.5,
    show_default=True,
    help="Share of this machine's memory that embeddings may fill; more are read from the disk in shuffled blocks.",
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
    help="gem, a-gem: lower bound of the dual variables; 0 projects exactly.",
)
@click.option(
    "--gem-batch",
    type=recipes.AllOrNumber(),
    default="all",
    show_default=True,
    help="gem, a-gem: remembered samples per gradient, all or a number drawn anew at every step.",
)
@click.option(
    "--der-alpha", type=Number(min=0), default=0.5, show_default=True, help="der++: weight of old answers."
)
@click.option(
    "--der-beta", type=Number(min=0), default=0.5, show_default=True, help="der++: weight of old targets."
)
@click.option(
    "--ewc-strength", type=Number(min=0), default=100.0, show_default=True, help="ewc: weight of the penalty."
)
@click.option(
    "--lwf-strength",
    type=Number(min=0),
    default=1.0,
    show_default=True,
    help="lwf: weight of the old model's answers.",
)
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
def main(
    dry_run: bool, strategies: tuple[str, ...], samplers: tuple[str, ...], memory_size: int, stages: str,
    seeds: int | None, seed_list: tuple[int, ...], cache: Path | None, output: Path | None, trained: Path | None,
    jobs: int | None, memory_share: float, device: str, layer: str | None, label_scale: str, loss: str, learning_rate: float,
    batch_size: int, epochs: int, patience: int, replay_share: float | None, gem_margin: float, gem_batch: int | None,
    der_alpha: float, der_beta: float, ewc_strength: float, lwf_strength: float,
) -> None:  # fmt: skip
    """Train emotion heads through a sequence of corpora, and show what each strategy forgets.

    Reads <cache>/<corpus>.h5 for every stage, trains every strategy with every seed, evaluates all corpora
    after all stages, writes results.csv, memory.csv and config.json, and prints the closing tables. Every finished
    stage is kept: the same command goes on where it was stopped, and a further seed or strategy costs only itself.
    """
    stage_names = tuple(name.strip() for name in stages.split(","))
    if len(set(stage_names)) != len(stage_names) or not all(stage_names):
        raise UsageError(f"--stages {stages!r} must name different caches, separated by commas.")
    for item in strategies:
        _check_strategy(item)
    _known("sampler", samplers, SAMPLERS)
    chosen_seeds = _seeds(seeds, seed_list)
    jobs = _jobs(jobs)

    # Everything from here on needs torch, which --help and wrong usage should not wait for.
    from ser_memory.common.machine import resolve_device
    from ser_memory.train import data
    from ser_memory.train import experiment as experiments
    from ser_memory.train.loop import LoopSettings
    from ser_memory.train.strategies import StrategySettings

    plan = experiments.Experiment(
        variants=experiments.variants(_once(strategies), _once(samplers), memory_size),
        stages=stage_names,
        seeds=chosen_seeds,
        loop=LoopSettings(loss, learning_rate, batch_size, epochs, patience),
        strategy=StrategySettings(
            replay_share, gem_margin, gem_batch, der_alpha, der_beta, ewc_strength, lwf_strength
        ),
    )
    _refuse_single_samples(plan)
    folder = cache or Path(os.environ.get("SER_CACHE") or "cache")
    source = data.Source(folder, stage_names, label_scale, layer, str(resolve_device(device)))
    source = _streamed_if_large(source, data.open_caches(source), memory_share)
    corpora = data.load_corpora(source)
    _note_whole_memories(plan, corpora[:-1])
    if dry_run:
        _estimate(plan, source, corpora, trained or folder / "trained", jobs)
    else:
        _train(plan, source, corpora, trained or folder / "trained", jobs, output, strategies)


def _train(
    plan: Experiment, source: Source, corpora: Sequence[Corpus], trained: Path, jobs: int, output: Path | None,
    strategies: Sequence[str],
) -> None:  # fmt: skip
    import torch

    from ser_memory.train import schedule
    from ser_memory.train.experiment import network_for
    from ser_memory.train.report import print_tables
    from ser_memory.train.results import alone_in, prepare_folder, results, write_memory, write_results
    from ser_memory.train.runs import Keys
    from ser_memory.train.store import Store

    store, keys = Store(trained), Keys(plan.loop, plan.strategy, corpora, torch.device(source.device))
    source = dataclasses.replace(source, digests=tuple(corpus.digest for corpus in corpora))
    todo = schedule.plan(plan, corpora, store, torch.device(source.device))
    target = output or Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{_name(strategies)}"
    with alone_in(target):
        prepare_folder(target, plan, source, corpora)
        if todo.finished:
            notice(f"{todo.finished} of {todo.finished + len(todo.untrained)} stages are finished already.")
        if todo.untrained:
            store.prepare(4 * network_for(corpora).size * len(todo.untrained))

        def keep() -> None:
            write_results(target / "results.csv", results(plan, corpora, store, keys))
            write_memory(target / "memory.csv", plan, corpora, store, keys)

        try:
            with progress("training", len(todo.untrained) * plan.loop.epochs, "epochs") as advance:
                failures = schedule.carry_out(plan, source, corpora, store, todo, jobs, advance, keep)
        except KeyboardInterrupt:
            raise InterruptedRunError(
                f"Stopped as asked: finished stages are kept in {trained}; run the same command again to go on.",
                signal.SIGINT,
            ) from None
        keep()
    measured = list(results(plan, corpora, store, keys))
    if measured:
        print_tables(measured)
        say(f"All figures: {target / 'results.csv'}")
    if failures:
        raise SerError(_told(failures, plan))


def _told(failures: Sequence[Failure], plan: Experiment) -> str:
    """One sentence on the runs that diverged."""
    from ser_memory.common.manifests import stage_name

    ordered = sorted(failures, key=lambda failure: (failure.stage, failure.run.seed, failure.run.strategy))
    places = [
        f"{'all strategies' if failure.run.variant is None else failure.run.strategy} with seed {failure.run.seed} "
        f"at stage {stage_name(plan.stages[: failure.stage])}"
        for failure in ordered
    ]
    return (
        f"The predictions stopped being finite, of {listing(places)}: lower --learning-rate. "
        "All other runs were finished."
    )


def _estimate(plan: Experiment, source: Source, corpora: Sequence[Corpus], trained: Path, jobs: int) -> None:
    """Print what is left to train and how long it takes at most, from a few steps of each kind."""
    import torch

    from ser_memory.train import schedule
    from ser_memory.train.estimate import estimate
    from ser_memory.train.store import Store

    device = torch.device(source.device)
    store = Store(trained)
    todo = schedule.plan(plan, corpora, store, device)
    if not todo.untrained:
        say("Everything is finished already: without --dry-run the tables are printed at once.")
        return
    lines = estimate(plan, corpora, store, todo, device)
    rows = []
    for line in lines:
        numbers = [str(line.runs), str(line.steps), f"{1e3 * line.step:.1f}", clock(line.seconds / jobs)]
        rows.append([line.stage, line.strategy, *numbers])
    where = f"{jobs} cores" if device.type == "cpu" else str(device)
    table(
        f"To train, on {where}",
        ["stage", "strategy", "runs", "steps an epoch", "ms a step", "at most"],
        rows,
        left=2,
    )
    say(
        f"At most {clock(sum(line.seconds for line in lines) / jobs)}, if every stage takes all of its "
        f"{plan.loop.epochs} epochs."
    )


def _streamed_if_large(source: Source, caches: Sequence[FeatureCache], share: float) -> Source:
    """Say how the embeddings are read: in any order while they fit into memory, else in blocks."""
    size = sum(4 * math.prod(cache.shapes[name]) for cache in caches for name in EMBEDDINGS)
    if size <= share * memory():
        notice(f"The embeddings, {_gigabytes(size)}, are shuffled freely in memory.")
        return source
    notice(
        f"The embeddings, {_gigabytes(size)}, are more than {share:.0%} of this machine's {_gigabytes(memory())} of memory: "
        "they are read from the disk in shuffled blocks."
    )
    return dataclasses.replace(source, streamed=True)


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def _seeds(number: int | None, listed: tuple[int, ...]) -> tuple[int, ...]:
    """Seeds 0 to N - 1, or those listed; what is typed goes before what a file says."""
    if number is not None and listed:
        source = click.get_current_context().get_parameter_source
        typed = {name for name in ("seeds", "seed_list") if source(name) is ParameterSource.COMMANDLINE}
        if len(typed) != 1:
            raise UsageError("Give --seeds N or --seed S, not both.")
        number, listed = (number, ()) if typed == {"seeds"} else (None, listed)
    return _once(listed) or tuple(range(number or 5))


def _refuse_single_samples(plan: Experiment) -> None:
    """The CCC of one utterance is nothing to learn from."""
    for variant in plan.variants if plan.loop.loss == "ccc" else ():
        if variant.memory_size == 1:
            raise UsageError(
                "--memory-size 1 teaches nothing with --loss ccc, the CCC of one utterance: keep 2 or more."
            )
        if plan.strategy.gem_batch == 1 and variant.strategy in ("gem", "a-gem"):
            raise UsageError(
                "--gem-batch 1 tells nothing with --loss ccc, the CCC of one utterance: take 2 or more."
            )


def _jobs(wanted: int | None) -> int:
    """Worker processes: as asked for, but never more than there are cores."""
    if wanted is not None and wanted > cores():
        notice(f"--jobs {wanted} would only crowd the {cores()} cores of this machine: {cores()} are used.")
    return min(wanted or cores(), cores())


def _check_strategy(item: str) -> None:
    """Raise UsageError unless it is a strategy, or one with a memory and its sampler, such as gem:speaker."""
    strategy, colon, sampler = item.partition(":")
    _known("strategy", [strategy], STRATEGIES)
    if colon:
        _known("sampler", [sampler], SAMPLERS)


def _known(kind: str, names: Sequence[str], registry: Collection[str]) -> None:
    for name in names:
        if name not in registry:
            raise UsageError(f"There is no {kind} {name!r}: choose among {listing(registry)}.")


def _once(values: tuple[_T, ...]) -> tuple[_T, ...]:
    return tuple(dict.fromkeys(values))


def _name(strategies: Sequence[str]) -> str:
    """Of a folder of results: the strategies in it."""
    return "-".join(dict.fromkeys(item.partition(":")[0] for item in strategies))


def _note_whole_memories(plan: Experiment, earlier: Sequence[Corpus]) -> None:
    """Say which memories are as large as their corpus, since they then forget nothing and hide nothing."""
    size = max(variant.memory_size for variant in plan.variants)
    for corpus in earlier:
        held = len(corpus.splits["train"])
        if size >= held:
            notice(f"The memory of {corpus.name} holds all of its {held} training utterances.")


if __name__ == "__main__":
    main()
