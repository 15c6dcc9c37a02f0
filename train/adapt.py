"""ser-adapt: a bundle and the recordings of a new place -> an adapted bundle; both stages in one command."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ser_memory.common import __version__
from ser_memory.common.console import TYPED, Command, say
from ser_memory.common.errors import SerError, UsageError
from ser_memory.common.options import Options, names_of, option, options_of
from ser_memory.extract.settings import EngineSettings, ProtocolSettings, ReleaseSettings

if TYPE_CHECKING:
    from ser_memory.common.cache import FeatureCache
    from ser_memory.train.bundle import Bundle
    from ser_memory.train.experiment import TrainedRun

EXAMPLES = """
\b
Examples:
  ser-adapt model --corpus clinic.toml --root recordings --output adapted
  ser-adapt model --corpus clinic.toml --root recordings --output adapted --transcriber whisper --language en
  ser-adapt model --corpus clinic.toml --root recordings --output adapted --transcriber none
  ser-adapt runs/first/bundles/gem-random-1000 --corpus clinic.toml --output adapted --memory-budget 2000
"""


NO_TEXTS = "none"  # --transcriber
_OF_EXTRACTION = (ReleaseSettings, ProtocolSettings, EngineSettings)


@dataclass(frozen=True)
class AdaptSettings(Options):
    """What may differ from the bundle, and where things are."""

    title = "Adaptation"

    strategy: str | None = option(
        None, unset="that of the bundle", help="How to treat the earlier corpora; see ser-train."
    )
    memory_size: int | None = option(
        None, minimum=1, unset="that of the bundle", help="Utterances kept of the new corpus."
    )
    memory_budget: int | None = option(
        None, minimum=1, unset="that of the bundle", help="Utterances in all memories together."
    )
    learning_rate: float | None = option(
        None, minimum=0, above=True, unset="that of the bundle", help="Learning rate of Adam."
    )
    epochs: int | None = option(None, minimum=1, unset="that of the bundle", help="At most this many.")
    estimate_size: int | None = option(
        None,
        minimum=0,
        unset="as many as the bundle has of others",
        help="Test utterances of the new corpus that the new bundle also holds, see ser-train.",
    )
    seed: tuple[int, ...] = option(
        (), minimum=0, unset="all that the bundles have", help="Adapt the bundle of this seed; repeatable."
    )


@dataclass(frozen=True)
class SourceSettings(Options):
    """Texts and encoders of the new recordings."""

    title = "Recordings"

    transcriber: str = option(
        "release",
        help="Where texts come from: release, whisper, faster-whisper, azure or a list, see ser-extract; or none: no texts "
        "are needed, the bundle's neutral text stands for all, and the model learns from voices alone.",
    )
    transcripts: Path | None = option(None, help="CSV, TSV or JSON Lines of id and text.")
    acoustic_encoder: str | None = option(
        None, unset="that of the bundle", help="Where the acoustic encoder of the bundle is on this machine."
    )
    text_encoder: str | None = option(
        None,
        unset="that of the bundle",
        help="Where the text encoder of the bundle is on this machine; not needed with --transcriber none.",
    )
    device: str = option("auto", help="Where the encoders run: auto, cpu, mps, cuda or cuda:1.")
    jobs: int | None = option(
        None, minimum=1, unset="one per core", help="Encoders, and runs, side by side on a CPU."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.transcriber != NO_TEXTS and NO_TEXTS in self.transcriber.split(","):
            raise UsageError(
                f"--transcriber {self.transcriber}: {NO_TEXTS} stands alone, without other transcribers."
            )
        if self.transcriber == NO_TEXTS and self.text_encoder is not None:
            raise UsageError(
                f"--transcriber {NO_TEXTS} encodes no text, so that --text-encoder {self.text_encoder} would have no "
                "effect: leave it out."
            )


@click.command("ser-adapt", cls=Command, epilog=EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--corpus", required=True, help="The new corpus: a manifest (.toml) of your own, or a name.")
@click.option(
    "--output", required=True, type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the cache, the figures and the adapted bundles.",
)  # fmt: skip
@options_of(ReleaseSettings, ProtocolSettings, SourceSettings, EngineSettings, AdaptSettings)
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
def main(bundle: Path, corpus: str, output: Path, **options: Any) -> None:
    """Adapt a BUNDLE of ser-train, or those of several seeds, to new recordings, without the earlier corpora.

    Extracts the recordings with the encoders of the bundle to OUTPUT/cache, trains one stage more, and writes the
    figures to OUTPUT and the adapted models to OUTPUT/bundles. After a stop, the same command continues.

    Recordings without transcripts are transcribed with --transcriber whisper, or adapt the model by voice alone with
    --transcriber none: as in ser-predict, the mean of the texts that the model learned from takes the place of each text.
    """
    from ser_memory.extract.cli import report_kept
    from ser_memory.train.report.terminal import print_estimates, print_tables

    # What is wrong with its splits is reported by the training, for the dimensions that it trains.
    typed = click.get_current_context().meta[TYPED]
    adapted = adapt(bundle, corpus, output, on_cache=report_kept, command=typed, **options)
    if adapted.results:
        print_tables(adapted.results)
        print_estimates(adapted.folder)
    say(f"The adapted models: {output / 'bundles'}")


def adapt(
    bundle: Path,
    corpus: str,
    output: Path,
    on_cache: Callable[[FeatureCache], None] = lambda _: None,
    command: str | None = None,
    **options: Any,
) -> TrainedRun:
    """What ser-adapt does; `options` are those of the command, `on_cache` receives the cache.

    Returns the run, as `ser_memory.train.api.train` does. Raises SerError or UsageError; a contradiction with the bundle
    is found before a recording is encoded.
    """
    from ser_memory.common import manifests
    from ser_memory.train.bundle_files import read_seeds
    from ser_memory.train.bundles.origin import settings_of
    from ser_memory.train.experiment import train

    source, wanted = SourceSettings.take(options), AdaptSettings.take(options)
    bundles = read_seeds(bundle)
    changed = {name: value for name, value in asdict(wanted).items() if value not in (None, ())}
    settings = settings_of(
        {
            **changed,
            "from_": bundle,
            "stages": [manifests.load(corpus, options.get("protocol")).name],
            "cache": output / "cache",
            "output": output,
            "bundles": True,
            "device": source.device,
            "jobs": source.jobs,
        }
    )
    _refuse_other_output(output, settings.experiment.stages)
    adapted = [each for each in bundles if each.info.seed in settings.experiment.seeds]
    told = {name: options[name] for name in names_of(*_OF_EXTRACTION) if name in options}
    on_cache(_extracted(adapted, corpus, source, cache=output / "cache", **told))
    return train(settings, command)


def _extracted(
    bundles: Sequence[Bundle], corpus: str, source: SourceSettings, **options: Any
) -> FeatureCache:
    """The cache of the new recordings, for the bundles of several seeds; `options` are further ones of ser-extract.

    Raises SerError as `extract` does; if most recordings have no text, it also names what only an adaptation can do.
    """
    from ser_memory.extract.api import extract
    from ser_memory.extract.reuse import OtherContentError
    from ser_memory.extract.screening import NoTextsError
    from ser_memory.extract.transcripts.sources import RELEASE
    from ser_memory.extract.workers import Encoders
    from ser_memory.train.bundles.encoders import encoder_settings, neutral_text, refuse_other_encoder

    info = bundles[0].info
    neutral = neutral_text(bundles) if source.transcriber == NO_TEXTS else None
    encoders = encoder_settings(
        bundles[0], source.acoustic_encoder, source.text_encoder, source.device, source.jobs
    )
    found = Encoders(encoders, neutral.encoder if neutral else None).attributes()
    for kind in ("acoustic", "text"):
        refuse_other_encoder(info, kind, found)
    try:
        return extract(
            corpus,
            neutral=neutral,
            transcriber=RELEASE if neutral else source.transcriber,
            transcripts=source.transcripts,
            min_duration=info.min_duration,
            max_duration=info.max_duration,
            **{**asdict(encoders), "layers": info.encoders["acoustic_layers"]},
            **options,
        )
    except NoTextsError as error:
        raise SerError(f"{error} To adapt the model by voice alone, add --transcriber {NO_TEXTS}.") from None
    except OtherContentError as error:
        raise SerError(f"{error.fault}: give another --output.") from None


def _refuse_other_output(output: Path, stages: Sequence[str]) -> None:
    """Raise UsageError, before anything is encoded, if a folder has the run of other corpora."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        there = json.loads((output / "config.json").read_text(encoding="utf-8"))["experiment"]["stages"]
        if list(there) != list(stages):
            raise UsageError(f"{output} has the adaptation to {there[-1]} already: give another --output.")


if __name__ == "__main__":
    main()
