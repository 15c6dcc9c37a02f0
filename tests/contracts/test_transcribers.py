"""The contract of every registered transcriber; a new one needs a builder in tests.transcribers, no edit here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest

from ser_memory.extract.audio import Waveform, load
from ser_memory.extract.transcripts.engines import TRANSCRIBERS, VERSIONS, Transcriber, TranscriberOptions
from ser_memory.extract.transcripts.engines.contract import Transcription
from tests.recordings import write_noises
from tests.transcribers import BUILDERS

Case = tuple[Transcriber, list[Waveform], TranscriberOptions]


@pytest.fixture(scope="module", params=sorted(TRANSCRIBERS))
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    name = str(request.param)
    if name not in BUILDERS:
        pytest.fail(f"The transcriber {name!r} has no builder: add one to tests.transcribers.BUILDERS.")
    folder = tmp_path_factory.mktemp("transcriber")
    recordings = [
        *write_noises(folder / "short", 3).values(),
        *write_noises(folder / "long", 2, seconds=11.3).values(),
    ]
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        BUILDERS[name](folder / "engine", monkeypatch) as options,
        closing(TRANSCRIBERS[name](options)) as transcriber,
    ):
        assert transcriber.name == name
        yield transcriber, [load(path) for path in recordings], options


def test_every_waveform_is_transcribed_in_order(case: Case) -> None:
    transcriber, waveforms, _ = case
    results = transcriber.transcribe(waveforms)
    assert len(results) == len(waveforms)
    assert all(isinstance(each, Transcription) for each in results)
    assert len({each.text for each in results}) > 1
    assert transcriber.transcribe(waveforms[::-1])[-1].text == results[0].text


def test_batched_equals_one_at_a_time(case: Case) -> None:
    transcriber, waveforms, _ = case
    together = transcriber.transcribe(waveforms)
    alone = [transcriber.transcribe([waveform])[0] for waveform in waveforms]
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.language for each in together] == [each.language for each in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.confidence == pytest.approx(other.confidence, rel=1e-4)


def test_its_results_are_in_range(case: Case) -> None:
    for result in case[0].transcribe(case[1]):
        assert result.text == result.text.strip()
        assert result.language is not None
        assert re.fullmatch(r"[a-z]{2,3}(-[A-Z]{2})?", result.language)
        assert result.confidence is not None
        assert 0 <= result.confidence <= 1
        assert result.no_speech is None or 0 <= result.no_speech <= 1
        assert result.status


def test_its_properties(case: Case) -> None:
    transcriber, _, options = case
    assert VERSIONS[transcriber.name](options) == transcriber.version
    assert re.search(r"sha256:\w{16}|api [\d-]{10}", transcriber.version)
    assert transcriber.batch_size >= 1
    assert transcriber.concurrency >= 1
    assert transcriber.paid == (transcriber.name == "azure")
