"""Options that ser-extract and ser-transcribe share: where a release lies, and which of its utterances count."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ser_memory.common.console import Number
from ser_memory.common.errors import UsageError

_F = TypeVar("_F", bound=Callable[..., Any])

root_option = click.option(
    "--root",
    type=click.Path(path_type=Path),
    help="Folder of the release.  [default: $SER_DATA/<corpus>, else data/<corpus>]",
)


def utterance_options(function: _F) -> _F:
    """Add --min-duration, --max-duration and --limit."""
    for option in (
        click.option(
            "--limit",
            type=click.IntRange(min=1),
            help="Only this many utterances, spread over the release, for a trial.",
        ),
        click.option(
            "--max-duration",
            type=Number(min=0),
            default=30.0,
            show_default=True,
            help="Longer utterances are left out; seconds.",
        ),
        click.option(
            "--min-duration",
            type=Number(min=0),
            default=3.0,
            show_default=True,
            help="Shorter utterances are left out; seconds.",
        ),
    ):
        function = option(function)
    return function


def check_durations(min_duration: float, max_duration: float) -> None:
    """Raise UsageError when no utterance could be within both bounds."""
    if min_duration > max_duration:
        raise UsageError(f"--min-duration {min_duration:g} exceeds --max-duration {max_duration:g}.")


def cache_folder(given: Path | None) -> Path:
    """The folder given, else SER_CACHE, else ./cache."""
    return given or Path(os.environ.get("SER_CACHE") or "cache")


def release_root(root: Path | None, corpus: str) -> Path:
    """The folder of a release: the one given, or where SER_DATA says. Raises UsageError if it is not there."""
    folder = root or Path(os.environ.get("SER_DATA") or "data").expanduser() / corpus
    if not folder.is_dir():
        raise UsageError(
            f"There is no folder {folder}: give the release with --root FOLDER, "
            f"or set SER_DATA to the folder that holds {corpus}/."
        )
    return folder
