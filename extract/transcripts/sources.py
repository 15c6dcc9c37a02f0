"""Where an utterance's transcript comes from: `--transcriber release,whisper` and the like."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path

from ser_memory.common.errors import UsageError, listing
from ser_memory.common.reporting import progress
from ser_memory.extract.corpora import Utterance
from ser_memory.extract.transcripts import TRANSCRIBERS, VERSIONS
from ser_memory.extract.transcripts.contract import Options
from ser_memory.extract.transcripts.cost import Spending
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
    """The release's own transcripts, stores, and at last an engine that hears what these lack.

    An utterance takes its text from the first of `stored` that has one.
    """

    cache: Path  # folder of the stores
    corpus: str
    stored: tuple[str, ...] = (RELEASE,)
    engine: str | None = None  # a key of TRANSCRIBERS
    options: Options = field(default_factory=Options)
    spending: Spending = field(default_factory=Spending)

    def settle(self, utterances: list[Utterance]) -> list[Utterance]:
        """The utterances with what is stored; None where that tells nothing."""
        tables = [None if name == RELEASE else self._texts(name) for name in self.stored]

        def text(utterance: Utterance) -> str | None:
            given = (utterance.transcript if table is None else table.get(utterance.id) for table in tables)
            return next((each for each in given if each is not None), None)

        return [replace(utterance, transcript=text(utterance)) for utterance in utterances]

    def fill(self, chosen: list[tuple[Utterance, float]]) -> tuple[dict[str, str], dict[str, str]]:
        """Have the engine hear which of these (utterance, seconds) lack a text.

        Returns id -> text, and id -> reason for those that the engine would not take. Recordings that
        cannot be decoded are in neither. Raises SerError as `hearing.hear` and `cost.Spending.agree` do.
        """
        lacking = [(each, seconds) for each, seconds in chosen if each.transcript is None]
        if self.engine is None or not lacking:
            return {}, {}
        path = store_path(self.cache, self.corpus, self.engine)
        records = read_store(path) if path.exists() else {}
        missing = [(each, seconds) for each, seconds in lacking if each.id not in records]
        refused: dict[str, str] = {}
        if missing:
            records, refused = self._hear(missing, path, records)
        else:
            # Nothing to hear is no reason to take what another model heard for this one's.
            refuse_other_version(path, records, VERSIONS[self.engine](self.options))
        return {each.id: records[each.id].text for each, _ in lacking if each.id in records}, refused

    def description(self, file: str | None = None) -> str:
        """For the cache: `release`, `release, whisper (whisper-base.en ...)`; `file` stands in the release's place."""
        names = [f"file {file}" if file and name == RELEASE else name for name in self.stored]
        if self.engine is not None:
            names.append(f"{self.engine}{self._version()}")
        return ", ".join(names)

    def _hear(
        self, missing: list[tuple[Utterance, float]], path: Path, records: dict[str, Transcript]
    ) -> tuple[dict[str, Transcript], dict[str, str]]:
        """The store's records once these have been heard, and id -> reason for those refused.

        The store is opened once nothing but the hearing can fail: until then nothing is made.
        """
        from ser_memory.extract.transcripts.hearing import Recording, hear, tell
        from ser_memory.extract.transcripts.patience import Patience

        assert self.engine is not None
        recordings = [Recording(each.id, each.audio, seconds) for each, seconds in missing if each.audio]
        seconds = sum(recording.seconds for recording in recordings)
        with closing(TRANSCRIBERS[self.engine](self.options)) as transcriber:
            refuse_other_version(path, records, transcriber.version)
            if transcriber.paid:
                self.spending.agree(self.engine, len(recordings), seconds)
            with TranscriptStore.open(path) as store:
                refuse_other_version(path, store.records, transcriber.version)  # of a run that ended since
                with progress(f"{self.corpus}: {self.engine}", seconds, "s of audio") as advance:
                    outcome = hear(recordings, transcriber, store, Patience(self.options.retry_for), advance)
        tell(outcome, self.engine)
        return store.records, outcome.refused

    def _texts(self, name: str) -> dict[str, str]:
        records = read_store(store_path(self.cache, self.corpus, name))
        return {each: record.text for each, record in records.items()}

    def _version(self) -> str:
        assert self.engine is not None
        path = store_path(self.cache, self.corpus, self.engine)
        versions = {record.version for record in read_store(path).values()} if path.exists() else set()
        return f" ({listing(sorted(versions))})" if versions else ""


def parse(
    asked: str, cache: Path, corpus: str, file: Path | None = None
) -> tuple[tuple[str, ...], str | None]:
    """`release,whisper` -> the stored sources and the engine, None if there is none.

    Raises UsageError for a name that is neither, for one given twice, and for anything after an engine, which
    leaves nothing to the next. With a `file` in its place, `release` must be among them.
    """
    names = split_names(asked)
    stores = stored_transcribers(cache, corpus)
    for place, name in enumerate(names):
        if name != RELEASE and name not in TRANSCRIBERS and name not in stores:
            raise UsageError(
                f"There is no transcriber {name!r}: it is {RELEASE}, {listing(TRANSCRIBERS)}, or one that has a "
                f"store in {cache} for {corpus} ({listing(stores)})."
            )
        if name in TRANSCRIBERS and place < len(names) - 1:
            raise UsageError(
                f"{name} hears every utterance, which leaves nothing to {names[place + 1]}: put it last."
            )
    if file is not None and RELEASE not in names:
        raise UsageError(
            f"{file} stands in the place of the release's transcripts, which --transcriber {asked} does not use: "
            f"give --transcriber {RELEASE},{asked}, or leave out --transcripts."
        )
    engine = names[-1] if names[-1] in TRANSCRIBERS else None
    return tuple(names[:-1] if engine else names), engine


def split_names(asked: str) -> list[str]:
    """A comma list of names of transcribers, each once. Raises UsageError."""
    names = [name.strip() for name in asked.split(",") if name.strip()]
    bad = [name for name in names if not _NAME.fullmatch(name)]
    if bad or not names or len(set(names)) < len(names):
        raise UsageError(
            f"{asked!r} is no list of transcribers: give each once, separated by commas, as in release,whisper."
        )
    return names
