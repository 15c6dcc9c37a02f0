"""The options of an extraction, declared once: the command line and the Python API derive from them. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ser_memory.common.claims import TIMEOUT, WorkerSettings
from ser_memory.common.errors import UsageError
from ser_memory.common.manifests import Manifest
from ser_memory.common.options import Options, option
from ser_memory.extract.conditions import Condition, parse_condition

if TYPE_CHECKING:
    from ser_memory.extract.neutral import NeutralText
    from ser_memory.extract.transcripts.sources import Sources

LAST = "last"
WHISPER_MODEL = "openai/whisper-base.en"
POOLINGS = ("mean", "mean+std")
PRECISIONS = ("float32", "bfloat16")
_KINDS = ("auto", "cpu", "cuda")  # of devices, for Ray
TRANSCRIBER_HELP = (
    "Where transcripts come from: release, whisper, faster-whisper, azure, the name of a store in the cache, or a "
    "list such as release,whisper: each name provides the texts that the names before it lack."
)


@dataclass(frozen=True)
class ReleaseSettings(Options):
    """Where the release is."""

    title = "Release"
    root: Path | None = option(
        None, unset="$SER_DATA/<corpus>, else data/<corpus>", help="Folder of the release."
    )


@dataclass(frozen=True)
class ProtocolSettings(Options):
    """Which utterances are in which split."""

    title = "Release"
    protocol: str | None = option(
        None, unset="the manifest's first choice", help="Split protocol of the corpus's manifest."
    )


@dataclass(frozen=True)
class TranscriptSettings(Options):
    """Where transcripts come from."""

    title = "Transcripts"
    transcriber: str = option("release", help=TRANSCRIBER_HELP)
    transcripts: Path | None = option(
        None, help="CSV, TSV or JSON Lines of id and text, in place of the release's own transcripts."
    )
    text_only: bool = option(
        False,
        help="Encode transcripts only, with the acoustic rows of <cache>/<corpus>.h5, and write "
        "<cache>/<corpus>.<transcriber>.h5, for ser-train --transcripts and --study transcripts.",
    )


@dataclass(frozen=True)
class UtteranceSettings(Options):
    """Which utterances are used; durations in seconds, both ends included."""

    title = "Utterances"
    min_duration: float = option(3.0, minimum=0, help="Shorter utterances are left out; seconds.")
    max_duration: float = option(30.0, minimum=0, help="Longer utterances are left out; seconds.")
    limit: int | None = option(
        None, minimum=1, help="Only this many utterances, spread over the release, for a trial."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_duration > self.max_duration:
            raise UsageError(
                f"--min-duration {self.min_duration:g} exceeds --max-duration {self.max_duration:g}."
            )


@dataclass(frozen=True)
class ConditionSettings(Options):
    """Test recordings in another acoustic condition."""

    title = "Utterances"
    condition: str | None = option(
        None,
        help="Encode the test splits only, with each recording heard by telephone (telephone), in noise (noise:10, a "
        "signal-to-noise ratio in dB) or in a room that reverberates (room), and write <cache>/<corpus>.telephone.h5, "
        "noise-10.h5 or room.h5.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.condition is not None:
            parse_condition(self.condition)


@dataclass(frozen=True)
class DeviceSettings(Options):
    """Where encoders run."""

    title = "Encoders"
    device: str = option(
        "auto", help="Where the encoders run: auto, cpu, mps, cuda, or several cards such as cuda:0,cuda:1."
    )
    workers: int | None = option(
        None, minimum=1, unset="one per core", help="Encoders that run at the same time on a CPU."
    )


@dataclass(frozen=True)
class EncoderSettings(DeviceSettings):
    """Which encoders, which of their states, and where they run."""

    acoustic_encoder: str = option(
        "facebook/wav2vec2-base",
        help="Hugging Face name or local folder of a wav2vec2-family or Whisper model, or log-mel.",
    )
    text_encoder: str = option(
        "google-bert/bert-base-uncased", help="Hugging Face name or local folder of a BERT-class model."
    )
    layers: str = option(
        LAST,
        help="Hidden states to keep: last, all, or numbers such as 7,9,11 for ser-train --layer to choose from.",
    )
    pooling: str | None = option(
        None, choices=POOLINGS, unset="mean; mean+std for log-mel", help="Over time."
    )
    precision: str = option(
        "float32",
        choices=PRECISIONS,
        help="In which the encoders compute; bfloat16 is faster on a GPU and not exact.",
    )


@dataclass(frozen=True)
class ClusterSettings(Options):
    """Who encodes."""

    title = "Encoders"
    engine: str = option(
        "local",
        choices=("local", "ray"),
        help="Who encodes: local is this machine; ray gives the parts to Ray, whose nodes see the same --root and --cache.",
    )
    address: str | None = option(
        None,
        unset="a Ray on this machine alone",
        help="With --engine ray: the address of a cluster, such as auto or 10.0.0.1:6379.",
    )
    collect: bool = option(
        False,
        help="With --engine ray: rows come back to this process, which writes them; the nodes need not see --cache.",
    )


@dataclass(frozen=True)
class EngineSettings(Options):
    """What the engines that transcribe need."""

    title = "Transcripts"
    whisper_model: str = option(
        WHISPER_MODEL,
        help="Hugging Face name or local folder; for faster-whisper a size or the folder of a converted model.",
    )
    language: str | None = option(
        None,
        unset="the engine detects it",
        help="Spoken language, such as en; for Azure with the region, en-US.",
    )
    concurrency: int = option(4, minimum=1, maximum=64, help="Azure: number of simultaneous requests.")
    retry_for: float = option(600.0, minimum=0, help="Azure: stop after this many seconds without an answer.")
    price_per_hour: float | None = option(
        None,
        minimum=0,
        variable="SER_PRICE_PER_HOUR",
        unset="$SER_PRICE_PER_HOUR",
        help="Azure: your price for an hour of audio, for the estimate.",
    )
    max_cost: float | None = option(None, minimum=0, help="Azure: do not start if the estimate is higher.")
    yes: bool = option(False, help="Azure: agree to the cost without a question.")


@dataclass(frozen=True)
class OutputSettings(Options):
    """Where the cache goes."""

    title = "Output"
    cache: Path | None = option(
        None,
        folder=True,
        unset="$SER_CACHE, else cache",
        help="Folder of the caches; writes <cache>/<corpus>.h5.",
    )
    overwrite: bool = option(
        False,
        help="Replace an existing cache. Its rows are used again where the recording, the transcript and the encoders "
        "are the same; only the others are computed.",
    )
    fresh: bool = option(False, help="Replace an existing cache, and compute every row again.")

    @property
    def replaces(self) -> bool:
        """Whether an existing cache may be replaced."""
        return self.overwrite or self.fresh


@dataclass(frozen=True)
class ExtractionSettings(
    ReleaseSettings,
    ProtocolSettings,
    TranscriptSettings,
    EngineSettings,
    EncoderSettings,
    ClusterSettings,
    UtteranceSettings,
    ConditionSettings,
    OutputSettings,
    WorkerSettings,
):
    """All options of an extraction. Raises UsageError for a value that is not allowed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.condition is not None and self.text_only:
            raise UsageError(
                f"--text-only encodes no recording, so that --condition {self.condition} would have no effect: leave "
                "one of them out."
            )
        if self.worker and self.fresh:
            raise UsageError(
                "--fresh computes every row again, and a --worker that starts after the others have ended would do so "
                "once more: leave out --worker, or remove the cache in place of --fresh."
            )
        if self.engine == "ray" and self.device not in _KINDS:
            raise UsageError(
                f"--engine ray chooses the cards itself, not {self.device}: give --device auto, cpu or cuda."
            )
        if self.worker and self.engine == "ray":
            raise UsageError("Ray shares the work by itself: leave out --worker or --engine ray.")
        if self.engine != "ray" and (self.address is not None or self.collect):
            name = "--collect" if self.collect else f"--address {self.address}"
            raise UsageError(f"{name} has no effect without --engine ray: add it, or leave this out.")
        if self.claim_timeout != TIMEOUT and not self.worker:
            raise UsageError(
                f"--claim-timeout {self.claim_timeout:g} has no effect without --worker: add it, or leave this out."
            )


GROUPS = cast("tuple[type[Options], ...]", ExtractionSettings.__bases__)  # in the order of --help


@dataclass(frozen=True)
class TranscribeSettings(Options):
    """What ser-transcribe does."""

    title = "What to do"
    transcriber: str | None = option(None, help=TRANSCRIBER_HELP)
    compare: str | None = option(
        None, help="Print the word error rates of B (and C, ...) against the reference A, given as A,B."
    )
    degrade: str | None = option(
        None, help="Write stores of --transcriber's texts with these word error rates, such as 0.1,0.2,0.4."
    )
    seed: int = option(0, help="Random seed of --degrade.")
    cache: Path | None = option(
        None,
        folder=True,
        unset="$SER_CACHE, else cache",
        help="Folder of the stores, <cache>/<corpus>.<transcriber>.transcripts.jsonl.",
    )
    device: str = option("auto", help="Device for Whisper: auto, cpu, mps, cuda or cuda:1.")


@dataclass(frozen=True)
class Extraction:
    """One extraction: the settings, and the corpus, folders and transcribers that they name."""

    manifest: Manifest
    root: Path  # folder of the release
    cache: Path  # folder of the caches
    settings: ExtractionSettings
    sources: Sources | None = None  # of transcripts; None is the release, or the file in its place
    part_seconds: float | None = None  # of audio per part; None depends on the corpus
    neutral: NeutralText | None = None  # in place of all transcripts

    @property
    def needs_texts(self) -> bool:
        """Whether an utterance without a transcript in the release, or a file in its place, has no row."""
        return self.neutral is None and not self.transcribes

    @property
    def transcribes(self) -> bool:
        """Whether a transcriber will supply texts that are missing."""
        return self.sources is not None and self.sources.engine is not None

    @property
    def condition(self) -> Condition | None:
        """The condition in which recordings are encoded; None for recordings as they are."""
        return None if self.settings.condition is None else parse_condition(self.settings.condition)

    @property
    def cache_name(self) -> str:
        """The name of the cache to be written; the condition, or with --text-only the transcripts, is a part of it."""
        settings = self.settings
        if self.condition is not None:
            return f"{self.manifest.name}.{self.condition.in_file_names}"
        if not settings.text_only:
            return self.manifest.name
        texts = settings.transcripts.stem if settings.transcripts else settings.transcriber.replace(",", "+")
        return f"{self.manifest.name}.{texts}"

    @property
    def transcriber(self) -> str:
        """Where transcripts come from, as the cache names it."""
        if self.neutral is not None:
            return self.neutral.name
        file = self.settings.transcripts.name if self.settings.transcripts else None
        if self.sources is not None:
            return self.sources.description(file)
        return f"file {file}" if file else "release"
