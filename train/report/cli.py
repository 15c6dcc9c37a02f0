"""ser-report: the folders of runs -> tables, tests, figures and one page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ser_memory.common import __version__
from ser_memory.common.console import Command, say
from ser_memory.common.errors import SerError, listing
from ser_memory.common.options import options_of
from ser_memory.train.report.settings import ReportSettings

EXAMPLES = """
\b
Examples:
  ser-report runs/20260101-120000-finetune-gem
  ser-report runs/small-memory runs/large-memory --output comparison
  ser-report runs/first adapted
  ser-report runs/mine --against published.csv
  ser-report runs/mine --figure stages --output figures
"""


@click.command("ser-report", cls=Command, epilog=EXAMPLES)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@options_of(ReportSettings)
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
def main(runs: Sequence[Path], **options: Any) -> None:
    """Report one or several runs of ser-train: what is forgotten, what holds, and at what cost.

    RUNS are folders that ser-train wrote, also of studies. Prints the main tables, and writes index.html, a page
    that needs no network, tables/ (Markdown, LaTeX, CSV) and figures/ (SVG, PDF). Several runs are labelled by the
    options in which they differ. A run and one that continues it from its bundles, such as with ser-adapt, are labelled
    by their folders.
    """
    settings = ReportSettings.take(options)
    # These load SciPy and more, which --help and wrong usage should not wait for.
    from ser_memory.train.report.data import folders_of, load_run
    from ser_memory.train.report.published import read_published
    from ser_memory.train.report.report import print_tables, write_figures, write_report
    from ser_memory.train.report.together import labelled

    against = read_published(settings.against) if settings.against else []
    found = labelled([load_run(each) for folder in runs for each in folders_of(folder)])
    splits = dict.fromkeys(row.split for run in found.values() for row in run.results)
    if settings.split not in splits:
        raise SerError(
            f"There are no figures of the split {settings.split!r}: there are those of {listing(splits)}."
        )
    output = settings.output or runs[0] / "report"
    if settings.figure:
        drawn = dict(write_figures(found, output, settings.split, settings.figure))
        if not drawn:
            raise SerError(f"These runs have no data for the figure {listing(settings.figure)}.")
        for name in drawn:
            say(f"{output / name}.svg and .pdf")
        return
    report = write_report(found, output, settings.split, against, _command(runs, options))
    if not settings.quiet:
        print_tables(report.content)
    say(
        f"Page: {report.page} (with {len(report.tables)} files of tables and {len(report.figures)} of figures beside it)"
    )


def _command(runs: Sequence[Path], options: dict[str, Any]) -> str:
    typed = [f"--{name} {shlex.quote(str(value))}" for name, value in options.items()
             if (value is not None and name in ("against", "output")) or (name == "split" and value != "test")]  # fmt: skip
    return " ".join(["ser-report", *(shlex.quote(str(run)) for run in runs), *typed])


if __name__ == "__main__":
    main()
