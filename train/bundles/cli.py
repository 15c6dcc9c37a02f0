"""ser-bundle: look at bundles, write those of a run that is finished, and publish one."""

from __future__ import annotations

import itertools
from pathlib import Path

import click

from ser_memory.common import __version__
from ser_memory.common.console import Command, say, table
from ser_memory.train.audit.cli import audit
from ser_memory.train.bundles.export_cli import export
from ser_memory.train.bundles.push_cli import push

_EXAMPLES = """
\b
Examples:
  ser-bundle describe runs/first/bundles/gem-random-1000/seed-0/stage-3
  ser-bundle export runs/first
  ser-bundle export runs/first/bundles/gem-random-1000/seed-0/stage-3 --onnx --output exported
  ser-bundle audit runs/first/bundles/gem-random-1000/seed-0/stage-3 cache/iemocap.h5 --members runs/first/members.csv
  ser-bundle push runs/first/bundles/gem-random-1000/seed-0/stage-3 me/emotion
"""


@click.group("ser-bundle", epilog=_EXAMPLES)
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
def main() -> None:
    """Models to take away: what a bundle is and reveals, and bundles of a finished run."""


main.add_command(audit)
main.add_command(export)
main.add_command(push)


@main.command("describe", cls=Command)
@click.argument("bundle", type=click.Path(path_type=Path))
def describe(bundle: Path) -> None:
    """Check a bundle, and print what it is, what it keeps and how large that is."""
    from ser_memory.train.bundle_files import MEMORY, MODEL, bundles_in, read_bundle

    for folder in bundles_in(bundle):
        whole = read_bundle(folder)
        info = whole.info
        say(f"{folder}: {info.title}, {info.created_by}")
        say(f"predicts: {', '.join(info.dimensions)}")
        for kind in ("acoustic", "text"):
            say(
                f"{kind} encoder: {info.encoders[f'{kind}_encoder']}, revision {info.encoders[f'{kind}_revision']}, "
                f"{info.encoders[f'{kind}_pooling']}"
            )
        table(
            "Learned from",
            ["corpus", "training utterances", "scale", "texts", "kept utterances", "for estimates"],
            [
                [
                    seen.name,
                    str(seen.n),
                    f"{seen.scale_min:g} to {seen.scale_max:g}",
                    seen.transcriber if seen.has_texts else "none",
                    str(0 if kept is None else kept.rows),
                    str(0 if rows is None else len(rows)),
                ]
                for seen, kept, rows in itertools.zip_longest(info.seen, whole.kept, whole.estimates)
            ],
        )
        for name in (MODEL, MEMORY):
            say(f"{name}: {(folder / name).stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
