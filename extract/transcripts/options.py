"""The options of ser-extract and ser-transcribe that concern transcribers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from ser_memory.common.console import Number
from ser_memory.extract.transcripts.cost import Spending
from ser_memory.extract.transcripts.engines.contract import WHISPER_MODEL, TranscriberOptions
from ser_memory.extract.transcripts.sources import Sources, parse

Function = TypeVar("Function", bound=Callable[..., Any])

TRANSCRIBER_HELP = (
    "Where transcripts come from: release, whisper, faster-whisper, azure, the name of a store in the cache, or a "
    "list such as release,whisper: each name provides the texts that the names before it lack."
)


def transcriber_options(default: str | None) -> Callable[[Function], Function]:
    """Add --transcriber and the options of the engines; their values are the keyword arguments of `sources_of`."""
    options = (
        click.option(
            "--transcriber", default=default, show_default=default is not None, help=TRANSCRIBER_HELP
        ),
        click.option(
            "--whisper-model",
            default=WHISPER_MODEL,
            show_default=True,
            help="Hugging Face name or local folder; for faster-whisper a size or the folder of a converted model.",
        ),
        click.option(
            "--language",
            help="Spoken language, such as en; for Azure with the region, en-US.  [default: the engine detects it]",
        ),
        click.option(
            "--concurrency",
            type=click.IntRange(1, 64),
            default=4,
            show_default=True,
            help="Azure: number of simultaneous requests.",
        ),
        click.option(
            "--retry-for",
            type=Number(min=0),
            default=600.0,
            show_default=True,
            help="Azure: stop after this many seconds without an answer.",
        ),
        click.option(
            "--price-per-hour",
            type=Number(min=0),
            envvar="SER_PRICE_PER_HOUR",
            help="Azure: your price for an hour of audio, for the estimate.  [default: $SER_PRICE_PER_HOUR]",
        ),
        click.option("--max-cost", type=Number(min=0), help="Azure: do not start if the estimate is higher."),
        click.option("--yes", is_flag=True, help="Azure: agree to the cost without a question."),
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
    """The values of the options as one object. Raises UsageError for transcribers that do not exist."""
    stored, engine = parse(transcriber, cache, corpus, file)
    options = TranscriberOptions(
        model=whisper_model, language=language, device=device, concurrency=concurrency, retry_for=retry_for
    )
    return Sources(cache, corpus, stored, engine, options, Spending(price_per_hour, max_cost, yes))
