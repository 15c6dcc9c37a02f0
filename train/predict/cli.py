"""ser-predict: a bundle and recordings -> ratings on the terminal or in a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from ser_memory.common import __version__
from ser_memory.common.console import Command, say, table
from ser_memory.common.errors import SerError, UsageError
from ser_memory.common.files import write_whole
from ser_memory.common.options import flag, names_of, options_of
from ser_memory.common.reporting import notice
from ser_memory.extract.settings import EngineSettings
from ser_memory.train.predict.formats import WRITERS, table_rows
from ser_memory.train.predict.inputs import find_inputs, with_texts
from ser_memory.train.predict.ratings import Rating
from ser_memory.train.predict.settings import (
    GROUPS,
    MOST_DRAWN,
    TABLE,
    OutputSettings,
    PredictSettings,
    TranscriptFile,
)

EXAMPLES = """
\b
Examples:
  ser-predict model interview.wav
  ser-predict model calls/ --format csv --output ratings.csv
  ser-predict model interview.wav --transcriber whisper --track --plot interview.svg
  ser-predict model test.csv --format msp --output submission.csv
  ser-predict model - --scale 1:7 < paths.txt
"""


@click.command("ser-predict", cls=Command, epilog=EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("audio", nargs=-1, required=True)
@options_of(*GROUPS)
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
def main(bundle: Path, audio: Sequence[str], **options: Any) -> None:
    """Rate recordings with a BUNDLE of ser-train, or with a folder of several seeds' bundles.

    AUDIO are files, folders, tables (CSV, TSV, JSON Lines) with the column file and perhaps text and id, or - for a list
    of paths on standard input. Where a table has ids, so has the output. A recording longer than those of the
    training is cut where it is quiet; its rating is the mean of its windows, weighted by their durations. With several
    seeds, a rating is their mean, and its spread their standard deviation.

    Flags: short (below the durations of the training), silent (no 0.1 s above -60 dB), clipped, and far (farther
    from the training data than 99 % of them).
    """
    _refuse_unused(options)
    output = OutputSettings.take(options)
    texts = TranscriptFile.take(options)
    inputs = find_inputs(audio, sys.stdin)
    if texts.transcripts is not None:
        inputs = with_texts(inputs, texts.transcripts)
    _refuse_in_vain(output, len(inputs))
    named = [Path(each) for each in audio]
    _refuse_to_replace(
        [*named, *(each.path for each in inputs), texts.transcripts, *bundle.rglob("*")], output
    )
    # Needs torch, which --help and wrong usage should not wait for.
    from ser_memory.train.predict.predictor import Predictor

    predictor = Predictor(bundle, PredictSettings.take(options))
    made = predictor.predict([each.path for each in inputs], [each.text for each in inputs])
    rated = [
        replace(rating.on_scale(*output.ends), id=each.id)
        for each, rating in zip(inputs, made, strict=True)
        if not rating.error
    ]
    if rated:
        _give(rated, predictor.dimensions, output, len(made))
    _report_failures([rating.error for rating in made if rating.error], len(made))


def _refuse_unused(options: Mapping[str, Any]) -> None:
    """Raise UsageError for options of engines that transcribe, where none does."""
    source = click.get_current_context().get_parameter_source
    for name in names_of(EngineSettings) if options["transcriber"] is None else ():
        if source(name) is ParameterSource.COMMANDLINE:
            raise UsageError(f"{flag(name)} has no effect without --transcriber: add it, or leave this out.")


def _refuse_in_vain(output: OutputSettings, number: int) -> None:
    """Raise UsageError for what could not be written, before the work; OSError if a folder cannot be made."""
    if output.plot is not None and number > MOST_DRAWN:
        raise UsageError(f"--plot draws {MOST_DRAWN} recordings at most, and there are {number}: name fewer.")
    for path in (output.output, output.plot):
        if path is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() or not os.access(path.parent, os.W_OK):
            raise UsageError(
                f"{path} cannot be written: give the name of a file in a folder where you may write."
            )


def _refuse_to_replace(read: Iterable[Path | None], output: OutputSettings) -> None:
    """Raise UsageError if a file to be written is one that is read, or if both are the same."""
    there = {path.resolve() for path in read if path is not None}
    for path in filter(None, (output.output, output.plot)):
        if path.resolve() in there:
            raise UsageError(f"{path} is read here and would be lost: give the ratings another name.")
        there.add(path.resolve())


def _give(rated: Sequence[Rating], dimensions: Sequence[str], output: OutputSettings, number: int) -> None:
    """Print or write the ratings, of so many recordings, and draw them."""
    if output.kind == TABLE:
        headers, *rows = table_rows(rated, dimensions, output.track)
        low, high = output.ends
        table(f"Ratings from {low:g} to {high:g}", headers, rows, left=headers.index("seconds"))
    else:
        text = WRITERS[output.kind](rated, dimensions, output.track)
        if output.output is None:
            say(text.rstrip("\n"))
        else:
            write_whole(output.output, text)
            say(f"{output.output}: ratings of {len(rated)} of {number} recordings.")
    if output.plot is not None:
        from ser_memory.train.predict.plot import write_plot

        write_plot(output.plot, rated, dimensions, output.ends)
        say(str(output.plot))


def _report_failures(errors: Sequence[str], number: int) -> None:
    """Raise SerError if recordings could not be rated."""
    if len(errors) == 1 == number:
        raise SerError(errors[0])
    for error in errors:
        notice(error)
    if errors:
        raise SerError(f"{len(errors)} of {number} recordings could not be rated.")


if __name__ == "__main__":
    main()
