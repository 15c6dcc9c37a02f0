"""The options of ser-extract and ser-transcribe that concern transcribers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ser_memory.common.console import Number
from ser_memory.extract.transcripts import Options
from ser_memory.extract.transcripts.contract import WHISPER_MODEL
from ser_memory.extract.transcripts.cost import Spending
from ser_memory.extract.transcripts.sources import Sources, parse

Function = TypeVar("Function", bound=Callable[..., Any])

TRANSCRIBER_HELP = (
    "Where transcripts come from: release, whisper, faster-whisper, azure, the name of a store in the cache, or a "
    "list such as release,whisper, in which each fills in what those before it lack."
)


def transcriber_options(default: str | None) -> Callable[[Function], Function]:
    """`--transcriber` and what the engines need; their values arrive as the keywords of `sources_of`."""
    options = (
        click.option(
            "--transcriber", default=default, show_default=default is not None, help=TRANSCRIBER_HELP
        ),
        click.option(
            "--whisper-model",
            default=WHISPER_MODEL,
            show_default=True,
            help="Hugging Face name or local folder; a size or a converted model's folder for faster-whisper.",
        ),
        click.option(
            "--language",
            help="What is spoken, such as en, for Azure with the region, en-US.  [default: the engine finds out]",
        ),
        click.option(
            "--concurrency",
            type=click.IntRange(1, 64),
            default=4,
            show_default=True,
            help="Azure: requests at a time.",
        ),
        click.option(
            "--retry-for",
            type=Number(min=0),
            default=600.0,
            show_default=True,
            help="Azure: seconds without an answer after which it is given up.",
        ),
        click.option(
            "--price-per-hour",
            type=Number(min=0),
            envvar="SER_PRICE_PER_HOUR",
            help="Azure: what an hour of audio costs you, for the estimate.  [default: $SER_PRICE_PER_HOUR]",
        ),
        click.option("--max-cost", type=Number(min=0), help="Azure: refuse to begin if it would cost more."),
        click.option("--yes", is_flag=True, help="Azure: agree to the cost without being asked."),
    )

    def decorate(function: Function) -> Function:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def sources_of(
    corpus: str,
    cache: Path,
    device: str,
    file: Path | None = None,
    *,
    transcriber: str,
    whisper_model: str,
    language: str | None,
    concurrency: int,
    retry_for: float,
    price_per_hour: float | None,
    max_cost: float | None,
    yes: bool,
) -> Sources:
    """The options as one object. Raises UsageError for transcribers that are not there."""
    stored, engine = parse(transcriber, cache, corpus, file)
    options = Options(
        model=whisper_model, language=language, device=device, concurrency=concurrency, retry_for=retry_for
    )
    return Sources(cache, corpus, stored, engine, options, Spending(price_per_hour, max_cost, yes))
