"""ser-demo: simulated releases -> ser-extract -> ser-train -> ser-report. The one module that calls both stages."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from ser_memory.common import __version__
from ser_memory.common.console import Command, say
from ser_memory.common.reporting import progress

EXPLANATION = """\
This demonstration downloads nothing and uses no real recordings. Its speech is simulated, in the layouts of
the true releases; its encoders are of the real classes but small and untrained; its rooms were made different
enough for forgetting to show. The figures therefore say how the program works, and nothing about emotion."""

LEGEND = """\
How to read it: P is pre-training on MSP-Podcast, P+M adapts to MSP-Improv, P+M+I then to IEMOCAP. Follow
msp-podcast down a table: fine-tuning forgets it, and a memory of 250 utterances per corpus forgets less."""

# So small a world wants larger steps than the defaults, and a memory that is a part of it.
TRAINING = "--memory-size 250 --learning-rate 0.001 --epochs 60 --patience 15"

EXAMPLES = """
\b
Examples:
  ser-demo
  ser-demo --output /tmp/demo --seeds 2
"""


@click.command("ser-demo", cls=Command, epilog=EXAMPLES)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("demo"),
    show_default=True,
    help="Folder for the simulated releases, the caches and the results.",
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=5, show_default=True, help="Train seeds 0 to N - 1."
)
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
def main(output: Path, seeds: int) -> None:
    """Show forgetting, and what a memory changes: simulated corpora through both stages, offline.

    Runs the real ser-extract, ser-train and ser-report on simulated releases, and prints the commands it runs.
    What an earlier demonstration left in the folder is used again.
    """
    from ser_memory.extract.cli import main as ser_extract
    from ser_memory.train.cli import main as ser_train
    from ser_memory.train.report.cli import main as ser_report

    say(EXPLANATION)
    releases, (acoustic, text) = _simulated(output / "releases"), _encoders(output / "encoders")
    for corpus in ("msp-podcast", "msp-improv", "iemocap"):
        _run(
            ser_extract,
            f"--corpus {corpus} --root {_q(releases / corpus)} --cache {_q(output / 'cache')} "
            f"--acoustic-encoder {_q(acoustic)} --text-encoder {_q(text)} --device cpu",
        )
    run = _new_run(output)
    _run(
        ser_train,
        f"--cache {_q(output / 'cache')} --seeds {seeds} --output {_q(run)} --device cpu {TRAINING}",
    )
    say()
    say(LEGEND)
    say("The figures are of simulated speech and untrained encoders.")
    _run(ser_report, f"{_q(run)} --quiet")


def _simulated(folder: Path) -> Path:
    """The simulated releases, made unless they are there; a folder under its final name is whole."""
    from ser_memory.extract.simulation import plan, write_releases

    if not folder.exists():
        aside = folder.with_name(f"{folder.name}.partial")
        _remove(aside)
        with progress("simulating speech", sum(len(release.turns) for release in plan()), "turns") as advance:
            write_releases(aside, on_turn=lambda: advance(1))
        aside.rename(folder)
    return folder


def _encoders(folder: Path) -> tuple[Path, Path]:
    from ser_memory.extract.simulation import write_encoders

    return write_encoders(folder)


def _remove(folder: Path) -> None:
    import shutil

    if folder.exists():
        shutil.rmtree(folder)


def _new_run(output: Path) -> Path:
    """run-1, run-2, ...: the first that does not exist."""
    number = 1
    while (output / f"run-{number}").exists():
        number += 1
    return output / f"run-{number}"


def _run(command: click.Command, arguments: str) -> None:
    """Run one of our commands in this process, after showing it as it would be typed."""
    say(f"\n$ {command.name} {arguments}")
    command.main(shlex.split(arguments), standalone_mode=False)


def _q(path: Path) -> str:
    return shlex.quote(str(path))


if __name__ == "__main__":
    main()
