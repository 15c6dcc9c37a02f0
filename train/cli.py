"""ser-train: feature caches -> a model per strategy and seed, and the table of results."""

from __future__ import annotations

import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ser_memory.common import __version__
from ser_memory.common.console import TYPED, Command, say
from ser_memory.common.errors import UsageError
from ser_memory.common.options import flag, names_of, options_of
from ser_memory.train import recipes
from ser_memory.train.configuration import Settings
from ser_memory.train.search_space import SearchSettings, search_of
from ser_memory.train.settings import GROUPS, STUDIES

EXAMPLES = """
\b
Several workers, as an array job of Slurm (sbatch FILE):
  #!/bin/bash
  #SBATCH --array=1-20 --requeue
  ser-train --preset paper --cache /shared/cache --output /shared/paper --worker

\b
Examples:
  ser-train
  ser-train --preset paper --dry-run
  ser-train --strategy finetune --strategy gem --seeds 3
  ser-train --strategy experience-replay --sampler random --sampler speaker --sampler coverage
  ser-train --stages msp-podcast,iemocap --strategy experience-replay --memory-size 500 --seed 7
  ser-train --from runs/first/bundles/gem-random-1000 --stages my-clinic --output runs/clinic
  ser-train --worker --cache shared/cache --output shared/first
  ser-train --search learning-rate=1e-5..1e-3 --search replay-share=0.1..0.9 --seeds 2
"""


@click.command("ser-train", cls=Command, epilog=EXAMPLES)
@options_of(*GROUPS, SearchSettings)
@click.option(
    "--preset",
    type=click.Choice(recipes.presets()),
    callback=recipes.use_preset,
    is_eager=True,
    expose_value=False,
    help="An experiment that comes with the program: paper is Tables 2 and 3 of the paper. Other options change it.",
)
@click.option(
    "--experiment",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    callback=recipes.use_file,
    is_eager=True,
    expose_value=False,
    help='A TOML file with these options by their names, such as strategy = ["finetune", "gem:speaker"].',
)
@click.option(
    "--study",
    type=click.Choice(STUDIES),
    help="Train the experiment several times, with one thing changed: heads trains all dimensions in one network and "
    "then each alone; transcripts uses the caches' own and all others that ser-extract --text-only made. Each is a run in "
    "a folder below --output; ser-report takes that folder.",
)
@click.option(
    "--dry-run", is_flag=True, help="Report what would be trained and about how long it takes, and stop."
)
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
def main(dry_run: bool, study: str | None, **options: Any) -> None:
    """Train emotion heads through a sequence of corpora, and show what each strategy forgets.

    Reads <cache>/<corpus>.h5 for every stage, trains every strategy with every seed, evaluates all corpora
    after every stage, writes results.csv and the other files of a run, and prints the closing tables. Every
    finished stage is kept: the same command continues after an interruption, and a further seed or strategy costs
    only itself. With --worker, any number of processes share the runs of one --output: each trains one run at a time,
    on one core or one GPU, and one of them writes the results.
    """
    context = click.get_current_context()
    source = context.get_parameter_source
    # What a preset says is not asked for: its memory size is no mistake where no strategy has a memory.
    asked = [ParameterSource.COMMANDLINE] + [ParameterSource.DEFAULT_MAP] * context.meta.get(
        recipes.FROM_FILE, False
    )
    given = [name for name in options if source(name) in asked]
    searching = SearchSettings.take({name: options.pop(name) for name in names_of(SearchSettings)})
    options = _typed_seeds(options)
    if searching.search:
        if options["from_"] is not None:
            raise UsageError("--search does not go with --from: leave one of them out.")
        _search(searching, options, given, dry_run, study, context.meta[TYPED])
        return
    for name in names_of(SearchSettings):
        if name in given:
            raise UsageError(f"{flag(name)} has no effect without --search: leave it out.")
    settings = _settings(options, given)
    if settings.origin is not None and study:
        raise UsageError("--study does not go with --from: leave one of them out.")
    if dry_run:
        from ser_memory.train.estimate import print_estimate

        print_estimate(settings)
        return
    if study:
        _carry_out(study, settings, context.meta[TYPED])
        return
    # Needs torch, which --help and wrong usage should not wait for.
    from ser_memory.train.experiment import train
    from ser_memory.train.report.terminal import print_estimates, print_tables
    from ser_memory.train.results import CONDITIONS

    run = train(settings, context.meta[TYPED])
    if run.results:
        print_tables(run.results)
        print_estimates(run.folder)
        say(f"All figures: {run.folder / 'results.csv'}")
    if (run.folder / CONDITIONS).exists():
        say(f"In other acoustic conditions: {run.folder / CONDITIONS}")
    run.refuse_failures(settings.experiment)


def _settings(options: dict[str, Any], given: list[str]) -> Settings:
    """The settings of what was typed; with --from, the bundle says what the other options are."""
    if options["from_"] is None:
        return Settings.take(options, given)
    from ser_memory.train.bundles.origin import settings_of

    return settings_of(options, given)


def _carry_out(study: str, settings: Settings, command: str) -> None:
    """All runs of a study; the report compares them."""
    from ser_memory.train.experiment import train
    from ser_memory.train.study import runs_of

    output = settings.machine.output or Path("runs") / f"{datetime.now():%Y%m%d-%H%M%S}-{study}"
    for each in runs_of(study, settings, output):
        say(f"{each.machine.output}")
        train(each, command).refuse_failures(each.experiment)
    say(f"Compare them with: ser-report {shlex.quote(str(output))}")


def _search(
    searching: SearchSettings,
    options: dict[str, Any],
    given: list[str],
    dry_run: bool,
    study: str | None,
    command: str,
) -> None:
    """A search from its first trial, or from where it was interrupted, to the closing table."""
    if dry_run or study:
        raise UsageError(
            f"--search does not go with {'--dry-run' if dry_run else '--study'}: leave one of them out."
        )
    wanted = search_of(searching, options, [name for name in given if name in options])
    from ser_memory.train.search import print_search, search

    found = search(wanted, command)
    print_search(found, wanted.settings(found.best.chosen))


def _typed_seeds(options: dict[str, Any]) -> dict[str, Any]:
    """Of --seeds and --seed the one that was typed, if a file or preset gives the other."""
    source = click.get_current_context().get_parameter_source
    typed = {name for name in ("seeds", "seed") if source(name) is ParameterSource.COMMANDLINE}
    if len(typed) != 1:
        return options
    return {name: value for name, value in options.items() if name not in {"seeds", "seed"} - typed}


if __name__ == "__main__":
    main()
