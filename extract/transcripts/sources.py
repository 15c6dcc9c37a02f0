"""Where the transcripts of a corpus come from: the value of --transcriber, such as `release,whisper`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.reporting import progress
from ser_memory.extract.corpora import Utterance
from ser_memory.extract.corpora.names import by_id
from ser_memory.extract.settings import EngineSettings
from ser_memory.extract.transcripts.cost import Spending
from ser_memory.extract.transcripts.engines import TRANSCRIBERS, VERSIONS, TranscriberOptions
from ser_memory.extract.transcripts.store import (
    Transcript,
    TranscriptStore,
    read_store,
    refuse_other_version,
    store_path,
    stored_transcribers,
)

RELEASE = "release"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Sources:
    """The sources of a corpus's transcripts: the release, stores, and an engine for the utterances they lack.

    The text of an utterance comes from the first of `stored` that has one.
    """

    cache: Path  # folder of the stores
    corpus: str
    stored: tuple[str, ...] = (RELEASE,)
    engine: str | None = None  # a key of TRANSCRIBERS
    options: TranscriberOptions = field(default_factory=TranscriberOptions)
    spending: Spending = field(default_factory=Spending)

    @classmethod
    def of(
        cls,
        transcriber: str,
        settings: EngineSettings,
        corpus: str,
        cache: Path,
        device: str,
        file: Path | None = None,
    ) -> Sources:
        """The sources that a list such as `release,whisper` names; `file` replaces the release's transcripts.

        Raises UsageError as `parse` does.
        """
        stored, engine = parse(transcriber, cache, corpus, file)
        options = TranscriberOptions(
            settings.whisper_model, settings.language, device, concurrency=settings.concurrency,
            retry_for=settings.retry_for,
        )  # fmt: skip
        spending = Spending(settings.price_per_hour, settings.max_cost, settings.yes)
        return cls(cache, corpus, stored, engine, options, spending)

    def settle(self, utterances: list[Utterance]) -> list[Utterance]:
        """The utterances with their stored texts; None for those without one.

        Raises UsageError if a store does not exist, and SerError if it is damaged.
        """
        ids = [utterance.id for utterance in utterances]
        tables = [None if name == RELEASE else self._texts(name, ids) for name in self.stored]

        def text(utterance: Utterance) -> str | None:
            given = (utterance.transcript if table is None else table.get(utterance.id) for table in tables)
            return next((each for each in given if each is not None), None)

        return [replace(utterance, transcript=text(utterance)) for utterance in utterances]

    def fill(
        self, chosen: list[tuple[Utterance, float]], only_stored: bool = False
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Transcribe those of the (utterance, seconds) pairs that have no text and are not in the engine's store.

        Returns id -> text for all without a text, and id -> reason for those that the engine refused; recordings
        that cannot be decoded are in neither. Raises SerError as `transcribe.transcribe` and `Spending.agree` do,
        if the store is of another version of the engine, or, with `only_stored`, if there is something to transcribe.
        """
        lacking = [(each, seconds) for each, seconds in chosen if each.transcript is None]
        if self.engine is None or not lacking:
            return {}, {}
        path = store_path(self.cache, self.corpus, self.engine)
        records = read_store(path) if path.exists() else {}
        # An earlier version made ids of Windows paths in another way: their transcripts are paid for.
        earlier, _ = by_id(records, [each.id for each, _ in lacking if each.id not in records], path)
        records |= earlier
        missing = [(each, seconds) for each, seconds in lacking if each.id not in records]
        refused: dict[str, str] = {}
        if only_stored:
            self._refuse_work([each for each, _ in missing])
        if missing and not only_stored:
            made, refused = self._transcribe(missing, path, records)
            records |= made
        else:
            # Nothing to transcribe, but the stored texts must still be those of this model.
            refuse_other_version(path, records, VERSIONS[self.engine](self.options))
        return {each.id: records[each.id].text for each, _ in lacking if each.id in records}, refused

    def _refuse_work(self, missing: Sequence[Utterance]) -> None:
        """Raise SerError if one of these recordings can be transcribed."""
        from ser_memory.extract import audio

        ids = [each.id for each in missing if audio.reason_against(each.audio) is None]
        if ids:
            raise SerError(
                f"{len(ids)} recordings have no transcript of {self.engine} yet ({listing(ids, most=3)}), and workers "
                f"cannot transcribe together: run ser-transcribe --corpus {self.corpus} --transcriber {self.engine} first."
            )

    def description(self, file: str | None = None) -> str:
        """The text for the cache, such as `release, whisper (whisper-base.en ...)`; `file` replaces the release."""
        names = [f"file {file}" if file and name == RELEASE else name for name in self.stored]
        if self.engine is not None:
            names.append(f"{self.engine}{self._version()}")
        return ", ".join(names)

    def _transcribe(
        self, missing: list[tuple[Utterance, float]], path: Path, records: dict[str, Transcript]
    ) -> tuple[dict[str, Transcript], dict[str, str]]:
        """Transcribe these; returns the store's records afterwards, and id -> reason for those refused.

        The store is created last, when only the transcription itself can still fail.
        """
        from ser_memory.extract.transcripts.retries import Retries
        from ser_memory.extract.transcripts.transcribe import Recording, report, transcribe

        assert self.engine is not None
        recordings = [Recording(each.id, each.audio, seconds) for each, seconds in missing if each.audio]
        total = sum(recording.seconds for recording in recordings)
        with closing(TRANSCRIBERS[self.engine](self.options)) as transcriber:
            refuse_other_version(path, records, transcriber.version)
            if transcriber.paid:
                self.spending.agree(self.engine, len(recordings), total)
            with TranscriptStore.open(path) as store:
                refuse_other_version(
                    path, store.records, transcriber.version
                )  # another run may have written it
                with progress(f"{self.corpus}: {self.engine}", total, "s of audio") as advance:
                    retries = Retries(self.options.retry_for)
                    outcome = transcribe(recordings, transcriber, store, retries, advance)
        report(outcome, self.engine)
        return store.records, outcome.refused

    def _texts(self, name: str, ids: list[str]) -> dict[str, str]:
        path = store_path(self.cache, self.corpus, name)
        return by_id({each: record.text for each, record in read_store(path).items()}, ids, path)[0]

    def _version(self) -> str:
        assert self.engine is not None
        path = store_path(self.cache, self.corpus, self.engine)
        versions = {record.version for record in read_store(path).values()} if path.exists() else set()
        return f" ({listing(sorted(versions))})" if versions else ""


def parse(
    given: str, cache: Path, corpus: str, file: Path | None = None
) -> tuple[tuple[str, ...], str | None]:
    """Split `release,whisper` into the stored sources and the engine, None without an engine.

    With a `file` of transcripts, `release` stands for the file and must be in the list. Raises UsageError for an
    unknown name, a name given twice, or an engine that is not last.
    """
    names = split_names(given)
    stores = stored_transcribers(cache, corpus)
    for place, name in enumerate(names):
        if name != RELEASE and name not in TRANSCRIBERS and name not in stores:
            raise UsageError(
                f"There is no transcriber {name!r}: give {RELEASE}, {listing(TRANSCRIBERS)}, or one that has a "
                f"store for {corpus} in {cache} ({listing(stores)})."
            )
        if name in TRANSCRIBERS and place < len(names) - 1:
            raise UsageError(
                f"{name} transcribes every utterance that has no text, so {names[place + 1]} would never be used: "
                f"put {name} last."
            )
    if file is not None and RELEASE not in names:
        raise UsageError(
            f"{file} replaces the release's transcripts, but --transcriber {given} does not use them: "
            f"give --transcriber {RELEASE},{given}, or leave out --transcripts."
        )
    engine = names[-1] if names[-1] in TRANSCRIBERS else None
    return tuple(names[:-1] if engine else names), engine


def split_names(given: str) -> list[str]:
    """The names of transcribers in a list such as `release,whisper`.

    Raises UsageError if the list is empty, a name has other characters than letters, digits, ".", "_" and "-", or a
    name comes twice.
    """
    names = [name.strip() for name in given.split(",") if name.strip()]
    bad = [name for name in names if not _NAME.fullmatch(name)]
    if bad or not names or len(set(names)) < len(names):
        raise UsageError(
            f"{given!r} is not a list of transcribers: give each name once, separated by commas, as in "
            "release,whisper."
        )
    return names
