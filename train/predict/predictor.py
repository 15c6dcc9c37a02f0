"""A bundle, or one per seed, with its encoders: recordings in, ratings out."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ser_memory.common.conventions import SAMPLING_RATE, cache_folder
from ser_memory.common.errors import SerError, UsageError, listing, system_errors
from ser_memory.common.reporting import Reporter, notice, progress, reporting_to
from ser_memory.extract.encoding import AcousticWorker
from ser_memory.extract.recordings import (
    Bounds,
    Encoded,
    Recording,
    encode_each,
    encode_windows,
    stated_seconds,
)
from ser_memory.extract.transcripts.recordings import WindowTranscriber
from ser_memory.extract.transcripts.sources import Sources
from ser_memory.extract.workers import Encoders
from ser_memory.train.bundle_files import read_seeds
from ser_memory.train.bundles.encoders import encoder_settings, refuse_other_encoder
from ser_memory.train.predict.ratings import Floats, Heard, Rating, rating_of
from ser_memory.train.predict.settings import PredictSettings

if TYPE_CHECKING:
    from ser_memory.extract.encoders import TextEncoder

Sound = str | Path | npt.NDArray[np.floating]
Texts = Mapping[int, Sequence[str | None]]  # place of a recording -> text of each of its windows

_TOGETHER = 512  # recordings whose windows the models see at once
_WHY_NOT = {
    "missing": "{} does not exist: check its path.",
    "unreadable": "{} has no audio track that can be read; it is empty, cut off, or of a format that libsndfile does not "
    "know: convert it to WAV or FLAC.",
    "not finite": "{} has samples that are not finite numbers: export it again.",
    "too short": "{} is too short for the acoustic encoder to make a single frame of it: give a longer recording.",
}


class Predictor:
    """Rates recordings with a bundle, or with one per seed. The models are loaded once, for the first recording.

    Calls from several threads are safe, and run one after the other: each uses all workers.
    """

    def __init__(self, path: Path, settings: PredictSettings) -> None:
        """`path` is a bundle, or a folder with a bundle per seed.

        Raises SerError if they cannot be read or do not belong together, or if an encoder is not the one that the model
        was trained on; UsageError for a transcriber that the model has no use for.
        """
        self.bundles = read_seeds(path)
        self.info = self.bundles[0].info
        self.dimensions = self.info.architecture.dimensions
        self.bounds = Bounds(self.info.min_duration, self.info.max_duration)
        encoders = settings.acoustic_encoder, settings.text_encoder
        self._encoders = Encoders(
            encoder_settings(self.bundles[0], *encoders, settings.device, settings.workers)
        )
        refuse_other_encoder(self.info, "acoustic", self._encoders.acoustic_identity.attributes())
        if settings.transcriber is not None and not self.info.architecture.reads_text:
            raise UsageError(f"--transcriber has no effect: {path} reads no text. Leave it out.")
        self._transcriber = _transcriber(settings)
        self._alone = threading.Lock()

    @property
    def title(self) -> str:
        """What the model is, such as `gem of seeds 0, 1 after P+M`."""
        seeds = [bundle.info.seed for bundle in self.bundles]
        if len(seeds) == 1:
            return self.info.title
        return f"{self.info.strategy} of seeds {listing(seeds)} after {self.info.stage_name}"

    def predict(
        self,
        recordings: Iterable[Sound] | str | Path,
        texts: Sequence[str | None] | None = None,
        *,
        reporter: Reporter | None = None,
    ) -> list[Rating]:
        """Rate recordings; those longer than the bundle's `max_duration` window by window.

        Args:
            recordings: one path, or paths of files of any format, rate and number of channels; or (samples,) arrays at
                16 kHz, of full scale 1.
            texts: what is said in each, None where that is not known; a text stands for the whole recording.
            reporter: where progress and notices go; standard error if None, `common.reporting.Silent()` for nowhere.

        Returns:
            One rating per recording, in the same order. `error` says why one could not be rated.

        Raises:
            SerError: an encoder or the transcriber cannot be loaded or fails; or an array is none of sound.
            InterruptedRunError: SIGINT or SIGTERM, in the main thread.
        """
        several = [recordings] if isinstance(recordings, (str, Path)) else recordings
        sounds = [_recording(place, sound) for place, sound in enumerate(several)]
        given = [None] * len(sounds) if texts is None else list(texts)
        if len(given) != len(sounds):
            raise SerError(
                f"There are {len(given)} texts for {len(sounds)} recordings: give one or None for each."
            )
        with self._alone, reporting_to(reporter), system_errors():
            return self._predict(sounds, given)

    def _predict(self, recordings: Sequence[Recording], given: Sequence[str | None]) -> list[Rating]:
        seconds = [stated_seconds(recording) for recording in recordings]
        spoken = self._transcribed(recordings, given, seconds)
        made = self._encoded(recordings, seconds)
        texts = {
            place: [given[place]] * len(each.windows) if place not in spoken else spoken[place]
            for place, each in enumerate(made)
            if isinstance(each, Encoded)
        }
        rated = self._ratings([recording.name for recording in recordings], made, texts)
        return [
            Rating(recording.name, error=_WHY_NOT[each].format(recording.name))
            if isinstance(each, str)
            else rated[place]
            for place, (recording, each) in enumerate(zip(recordings, made, strict=True))
        ]

    def _transcribed(
        self, recordings: Sequence[Recording], given: Sequence[str | None], seconds: Sequence[float | str]
    ) -> Texts:
        """The texts of the windows of recordings without a text, if there is a transcriber."""
        if self._transcriber is None:
            return {}
        length = {
            place: each
            for place, each in enumerate(seconds)
            if given[place] is None and not isinstance(each, str)
        }
        lacking = {place: recordings[place] for place in length}
        return self._transcriber.transcribe(lacking, sum(length.values()), self.bounds) if lacking else {}

    def _encoded(
        self, recordings: Sequence[Recording], seconds: Sequence[float | str]
    ) -> list[Encoded | str]:
        known = [each for each in seconds if not isinstance(each, str)]
        workers = self._acoustic if known else []
        with progress("encoding", sum(known), "s of audio") as advance:
            return encode_windows(recordings, seconds, self.bounds, workers, advance)

    def _text_rows(self, texts: Texts) -> dict[str, npt.NDArray[np.float32]]:
        """The rows of the different texts; a notice says so if windows have none."""
        if not self.info.architecture.reads_text:
            return {}
        known = [text for some in texts.values() for text in some if text is not None]
        lacking = [place for place, some in texts.items() if None in some]
        last = self.info.seen[-1]
        if lacking:
            remedy = " Give texts with --transcriber or --transcripts." if last.has_texts else ""
            notice(
                f"There is no text for {len(lacking)} of {len(texts)} recordings: the bundle's neutral text, the mean of "
                f"its training texts, takes its place.{remedy}"
            )
        if known and not last.has_texts:
            notice(
                f"The model learned from {last.name} without texts, so that its ratings with texts are not tested there: "
                "compare them with those without."
            )
        if not known:
            return {}
        workers = self._text
        with progress("encoding texts", len(set(known)), "texts") as advance:
            return encode_each(known, workers, advance)

    def _ratings(
        self, names: Sequence[str], made: Sequence[Encoded | str], texts: Texts
    ) -> dict[int, Rating]:
        """The ratings of the recordings that have rows, by place; the models see the windows of many at a time."""
        rows, rated = self._text_rows(texts), {}
        encoded = [(place, each) for place, each in enumerate(made) if isinstance(each, Encoded)]
        for start in range(0, len(encoded), _TOGETHER):
            group = encoded[start : start + _TOGETHER]
            said = [text for place, _ in group for text in texts[place]]
            predictions, distances = self._asked(
                np.concatenate([each.acoustic for _, each in group]), said, rows
            )
            ends = np.cumsum([len(each.windows) for _, each in group])[:-1]
            parts = zip(np.split(predictions, ends, axis=1), np.split(distances, ends), strict=True)
            for (place, each), (values, apart) in zip(group, parts, strict=True):
                heard = Heard(
                    np.array([window.start for window in each.windows]),
                    np.array([window.end for window in each.windows]),
                    np.array([window.near_silent for window in each.windows]),
                    np.array([window.clipped for window in each.windows]),
                    apart,
                    values,
                    texts[place],
                )
                rated[place] = rating_of(names[place], self.dimensions, heard, self.info.min_duration)
        return rated

    def _asked(
        self,
        acoustic: npt.NDArray[np.float32],
        texts: Sequence[str | None],
        rows: Mapping[str, npt.NDArray[np.float32]],
    ) -> tuple[Floats, Floats]:
        """(S, n, K) predictions of the S seeds for n windows, and their (n,) distances from what was seen."""
        if self.info.layer is not None and self.info.layer.isdigit():
            acoustic = acoustic[:, 0]  # the only layer that was encoded
        predictions = []
        for bundle in self.bundles:
            neutral = bundle.neutral_text
            words = np.stack([neutral if text is None else rows.get(text, neutral) for text in texts])
            predictions.append(bundle.predict(acoustic, words))
        return np.asarray(predictions, np.float64), self.bundles[0].distances(acoustic)

    @cached_property
    def _acoustic(self) -> list[AcousticWorker]:
        return self._encoders.acoustic()

    @cached_property
    def _text(self) -> list[TextEncoder]:
        refuse_other_encoder(self.info, "text", self._encoders.text_identity.attributes())
        return self._encoders.text()


def _transcriber(settings: PredictSettings) -> WindowTranscriber | None:
    if settings.transcriber is None:
        return None
    cache = cache_folder(None)
    return WindowTranscriber(
        Sources.of(settings.transcriber, settings, "ser-predict", cache, settings.device)
    )


def _recording(place: int, sound: Sound) -> Recording:
    """Raises SerError for an array that is not (samples,) of finite numbers."""
    if isinstance(sound, (str, Path)):
        return Recording(str(sound), Path(sound))
    waveform = np.ascontiguousarray(sound, np.float32)
    if waveform.ndim != 1 or not np.isfinite(np.square(waveform, dtype=np.float64).sum()):
        raise SerError(
            f"Recording {place} is an array of the shape {waveform.shape}: give finite samples at {SAMPLING_RATE} Hz of "
            "one channel, or a file."
        )
    return Recording(f"recording {place}", waveform)
