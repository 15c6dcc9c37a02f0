"""The options of a prediction. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ser_memory.common.errors import UsageError
from ser_memory.common.options import Options, option
from ser_memory.extract.settings import DeviceSettings, EngineSettings

ENGINES = ("whisper", "faster-whisper", "azure")
TABLE, MSP = "table", "msp"
FORMATS = (TABLE, "jsonl", "csv", MSP, "audformat")
PLOTS = (".svg", ".png", ".pdf")
MOST_DRAWN = 12  # recordings: each has a panel
_MSP_SCALE = (1.0, 7.0)


@dataclass(frozen=True)
class ModelSettings(DeviceSettings):
    """Where the encoders of the bundle are, and where they run."""

    acoustic_encoder: str | None = option(
        None,
        unset="the bundle's own",
        help="Where the acoustic encoder of the bundle is: its Hugging Face name or its folder on this machine.",
    )
    text_encoder: str | None = option(
        None, unset="the bundle's own", help="Where the text encoder of the bundle is, in the same way."
    )


@dataclass(frozen=True)
class TextSettings(Options):
    """Where texts come from."""

    title = "Transcripts"
    transcriber: str | None = option(
        None,
        choices=ENGINES,
        unset="none; the bundle's neutral text takes its place",
        help="Transcribe recordings that have no text yet.",
    )


@dataclass(frozen=True)
class TranscriptFile(Options):
    """Texts in a file."""

    title = "Transcripts"
    transcripts: Path | None = option(
        None,
        help="CSV, TSV or JSON Lines of id and text; an id is that of a table, else a recording's name without its suffix.",
    )


@dataclass(frozen=True)
class OutputSettings(Options):
    """What is printed or written."""

    title = "Output"
    format: str | None = option(
        None,
        choices=FORMATS,
        unset="by the suffix of --output, else table",
        help="msp is FileName, EmoAct, EmoVal, EmoDom from 1 to 7, without ids and flags; audformat is a CSV for "
        "audformat.utils.read_csv.",
    )
    output: Path | None = option(None, help="File to write, whole or not at all; else standard output.")
    scale: str | None = option(
        None,
        unset="-1:1; 1:7 for msp",
        help="Ends of the rating scale, such as 1:7. A prediction beyond an end is reported as it is.",
    )
    track: bool = option(False, help="A row per window of a long recording in place of one per recording.")
    plot: Path | None = option(None, help="Draw the ratings over time into this .svg, .png or .pdf file.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.plot is not None and self.plot.suffix.lower() not in PLOTS:
            raise UsageError(f"--plot {self.plot} must end in .svg, .png or .pdf.")
        if self.output is not None and self.kind == TABLE:
            raise UsageError(
                f"--output {self.output} needs a --format: jsonl, csv, msp or audformat. A name that ends in .jsonl or "
                ".csv is enough for the first two."
            )
        ends = self.ends  # refuses what is no scale
        if self.kind == MSP and (self.track or ends != _MSP_SCALE):
            raise UsageError(
                "--format msp has one row per recording on the scale 1 to 7: leave out --track and --scale."
            )

    @property
    def kind(self) -> str:
        """The format, of FORMATS."""
        suffix = self.output.suffix.lower().removeprefix(".") if self.output is not None else ""
        return self.format or (suffix if suffix in ("jsonl", "csv") else TABLE)

    @property
    def ends(self) -> tuple[float, float]:
        """The ends of the rating scale. Raises UsageError if they are no rising numbers."""
        if self.scale is None:
            return _MSP_SCALE if self.kind == MSP else (-1.0, 1.0)
        low, _, high = self.scale.partition(":")
        try:
            ends = float(low), float(high)
        except ValueError:
            ends = (0.0, 0.0)
        if not float("-inf") < ends[0] < ends[1] < float("inf"):
            raise UsageError(f"--scale {self.scale!r} must be two rising numbers, such as 0:1 or 1:7.")
        return ends


@dataclass(frozen=True)
class PredictSettings(ModelSettings, TextSettings, EngineSettings):
    """The options of a Predictor."""


PREDICTOR = cast("tuple[type[Options], ...]", PredictSettings.__bases__)
GROUPS = (OutputSettings, TextSettings, TranscriptFile, EngineSettings, ModelSettings)  # as in --help
