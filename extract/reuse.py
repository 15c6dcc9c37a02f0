"""What an existing cache and finished parts spare an extraction, and what remains to be computed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from ser_memory.common.cache import CacheInfo, FeatureCache, cache_path
from ser_memory.common.errors import SerError, listing
from ser_memory.common.manifests import extraction_of
from ser_memory.common.reporting import notice
from ser_memory.extract.corpora import Utterance
from ser_memory.extract.encoding import Item, Text
from ser_memory.extract.identity import Glimpses, differences, earlier_fingerprint
from ser_memory.extract.rows import Known, Store, rows_of
from ser_memory.extract.screening import Chosen
from ser_memory.extract.settings import ExtractionSettings
from ser_memory.extract.transcripts.quality.word_error_rate import WordErrors, word_errors


@dataclass(frozen=True)
class Release:
    """What was read of a release."""

    turns: Sequence[Utterance]  # all, with their transcripts
    chosen: Chosen  # those that may get a row
    glimpses: Glimpses

    @cached_property
    def recordings(self) -> list[str]:
        """The digest of each chosen utterance's recording; "" if it could not be read."""
        return [self.glimpses.recording(utterance.audio) for utterance, _ in self.chosen]


@dataclass(frozen=True)
class Missing:
    """What must be computed for a cache, each recording and each text once."""

    items: list[Item]
    texts: list[Text]
    reused: int  # rows of the cache whose recording need not be encoded

    @property
    def cost(self) -> str:
        """Such as `10 recordings and 1 transcript`, or `nothing`."""
        counts = ((len(self.items), "recording"), (len(self.texts), "transcript"))
        return " and ".join(_counted(number, kind) for number, kind in counts if number) or "nothing"

    @property
    def rows(self) -> str:
        """Such as `1,024 rows`."""
        return _counted(self.reused, "row")

    def __str__(self) -> str:
        encoded = len(self.items) + len(self.texts)
        return (
            f"{self.rows} {'is' if self.reused == 1 else 'are'} reused, {self.cost} "
            f"{'are' if encoded > 1 else 'is'} encoded."
        )


def base_of(folder: Path, corpus: str, settings: ExtractionSettings) -> FeatureCache | None:
    """The corpus's own cache if another one is made beside it: --text-only needs its acoustic rows.

    With --condition, its text rows are the same. Raises SerError if there is none that is needed.
    """
    if settings.text_only:
        return heard_before(folder, corpus)
    if settings.condition is None or settings.fresh:
        return None
    return existing(cache_path(folder, corpus), replaces=True)


def missing(release: Release, known: Known, min_duration: float, max_duration: float) -> Missing:
    """What `known` lacks for the chosen utterances of a release; durations in seconds."""
    result = Missing([], [], 0)
    reused = 0
    heard: set[str] = set()
    read: set[str] = set()
    for (utterance, seconds), recording in zip(release.chosen, release.recordings, strict=True):
        if known.has_heard(recording):
            if known.reason_against(recording, min_duration, max_duration) is not None:
                continue
            reused += 1
        elif not recording:
            continue  # it could not be read
        elif recording not in heard:
            heard.add(recording)
            result.items.append(Item(utterance.id, utterance.audio, seconds, recording))
        text = utterance.transcript or ""
        if text not in read and not known.has_read(text):
            read.add(text)
            result.texts.append(Text(utterance.id, text))
    return Missing(result.items, result.texts, reused)


def existing(target: Path, replaces: bool) -> FeatureCache | None:
    """The cache at this path, if there is one. Raises SerError if it cannot be read and is not to be replaced."""
    if not target.exists():
        return None
    try:
        return FeatureCache(target)
    except SerError:
        if not replaces:
            raise
        notice(f"{target} cannot be read, so that none of its rows is reused.")
        return None


def refuse_other_encoders(base: FeatureCache, determining: Mapping[str, str]) -> None:
    """Raise SerError if a cache beside the corpus's own would be by other encoders: no model could read both."""
    for kind in ("acoustic", "text"):
        for what in ("revision", "pooling"):
            there, here = getattr(base.info, f"{kind}_{what}"), determining[f"{kind}_{what}"]
            if there != here:
                raise SerError(
                    f"{base.path} was made by another {kind} encoder ({what} {there} instead of {here}): give "
                    f"--{kind}-encoder {getattr(base.info, f'{kind}_encoder')}, which it was made by."
                )


def heard_before(folder: Path, corpus: str) -> FeatureCache:
    """The cache whose acoustic rows --text-only uses. Raises SerError if there is none."""
    path = cache_path(folder, corpus)
    if not path.exists():
        raise SerError(
            f"--text-only uses the acoustic rows of {path}, which does not exist: make it with {extraction_of(corpus)}."
        )
    return FeatureCache(path)


def refuse_unheard(base: FeatureCache, todo: Missing) -> None:
    """Raise SerError if --text-only would have to encode a recording."""
    if todo.items:
        names = listing((item.id for item in todo.items), most=3)
        raise SerError(
            f"--text-only encodes no recording, and {base.path} has no acoustic row by the same encoder of "
            f"{_counted(len(todo.items), 'recording')} ({names}): give the encoders and layers of that cache, or bring "
            f"it up to date with {extraction_of(base.path.stem)} --overwrite."
        )


def word_errors_against(base: FeatureCache, chosen: Chosen) -> dict[str, Any]:
    """How the transcripts of the chosen utterances differ from those of another cache, as `CacheInfo.compared`."""
    reference = dict(zip(base.read("id").tolist(), base.read("transcript").tolist(), strict=True))
    texts = {utterance.id: utterance.transcript or "" for utterance, _ in chosen if utterance.id in reference}
    errors = sum(word_errors(reference, texts).values(), WordErrors())
    rate = errors.rate if errors.words else None
    return {"reference": base.info.transcriber, "word_error_rate": rate, "words": errors.words}


class OtherContentError(SerError):
    """There is a cache of another content."""

    def __init__(self, fault: str, remedy: str) -> None:
        super().__init__(f"{fault}: {remedy}.")
        self.fault = fault  # without the remedy, for commands with other options


def is_made(cache: FeatureCache, info: CacheInfo, release: Release) -> bool:
    """Whether a cache has the content to be made; reported if it has."""
    if cache.info.fingerprint == info.fingerprint:
        notice(f"{cache.path} already has this content; nothing to do (--fresh computes all of it again).")
        return True
    if _is_earlier(cache) and cache.info.fingerprint == earlier_fingerprint(
        info, release.turns, release.glimpses
    ):
        notice(
            f"{cache.path} already has this content, in the form of an earlier version; nothing to do (--overwrite adds "
            "what is new, such as sessions, and encodes nothing)."
        )
        return True
    return False


def refuse_unasked(cache: FeatureCache, info: CacheInfo, release: Release, todo: Missing) -> None:
    """Raise SerError: a cache of another content is not replaced unasked. Says what differs and what it would cost."""
    raise OtherContentError(
        f"{cache.path} exists and was made from other settings or files (it differs in "
        f"{listing(differences(cache, info, release.turns))})",
        f"add --overwrite, which encodes {todo.cost} and reuses {todo.rows}, or give another --cache",
    )


def stores_of(
    caches: Iterable[FeatureCache | None], info: CacheInfo, release: Release, trusted: bool = False
) -> list[Store]:
    """The rows of existing caches that can be reused; none of a cache whose values are not those that were written.

    With `trusted` the values are not read, which only counting allows.
    """
    stores = []
    for cache in (cache for cache in caches if cache is not None):
        try:
            if not trusted and not cache.refuse_altered():
                cache.validate()  # an old file, which does not tell
            stores.append(rows_of(cache, info, _recordings_of(cache, release)))
        except SerError:
            notice(f"{cache.path} is damaged, so that none of its rows is reused.")
    return stores


def silent_of(cache: FeatureCache) -> list[str]:
    """The ids of a cache's silent recordings, as far as it knows them."""
    if not cache.info.silent:
        return []
    silent = set(cache.info.silent)
    names = zip(cache.read("id"), cache.read("recording"), strict=True)
    return [name for name, recording in names if recording in silent]


def _recordings_of(cache: FeatureCache, release: Release) -> list[str] | None:
    """The digest of each row's recording; None if the cache does not tell, and the release was another."""
    if not _is_earlier(cache):
        recordings: list[str] = cache.read("recording").tolist()
        return recordings
    if cache.info.fingerprint != earlier_fingerprint(cache.info, release.turns, release.glimpses):
        notice(
            f"{cache.path} is of an earlier version, which did not keep what identifies a recording, and the release is "
            "not what it was then: only its transcripts' rows are reused."
        )
        return None
    notice(
        f"{cache.path} is of an earlier version, and the release is what it was then: its rows are reused. They were "
        "computed in batches, so that they may differ in the last bit from rows of this version (--fresh computes "
        "them again)."
    )
    audio = {turn.id: turn.audio for turn in release.turns}
    return [release.glimpses.recording(audio[name]) for name in cache.read("id")]


def _is_earlier(cache: FeatureCache) -> bool:
    return not cache.has("recording")


def _counted(number: int, kind: str) -> str:
    return f"{number:,} {kind}" if number == 1 else f"{number:,} {kind}s"
