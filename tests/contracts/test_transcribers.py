"""What every registered transcriber keeps to; a new one needs a builder in tests.transcribers, no edit here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing

import pytest

from ser_memory.extract.audio import Waveform, load
from ser_memory.extract.transcripts import TRANSCRIBERS, VERSIONS, Options, Transcriber
from ser_memory.extract.transcripts.contract import Heard
from tests.recordings import write_noises
from tests.transcribers import BUILDERS

Case = tuple[Transcriber, list[Waveform], Options]


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


def test_it_hears_every_waveform_in_order(case: Case) -> None:
    transcriber, waveforms, _ = case
    heard = transcriber.transcribe(waveforms)
    assert len(heard) == len(waveforms)
    assert all(isinstance(each, Heard) for each in heard)
    assert len({each.text for each in heard}) > 1
    assert transcriber.transcribe(waveforms[::-1])[-1].text == heard[0].text


def test_batched_equals_one_at_a_time(case: Case) -> None:
    transcriber, waveforms, _ = case
    together = transcriber.transcribe(waveforms)
    alone = [transcriber.transcribe([waveform])[0] for waveform in waveforms]
    assert [each.text for each in together] == [each.text for each in alone]
    assert [each.language for each in together] == [each.language for each in alone]
    for one, other in zip(together, alone, strict=True):
        assert one.confidence == pytest.approx(other.confidence, rel=1e-4)


def test_what_it_tells_is_in_range(case: Case) -> None:
    for heard in case[0].transcribe(case[1]):
        assert heard.text == heard.text.strip()
        assert heard.language is not None
        assert re.fullmatch(r"[a-z]{2,3}(-[A-Z]{2})?", heard.language)
        assert heard.confidence is not None
        assert 0 <= heard.confidence <= 1
        assert heard.no_speech is None or 0 <= heard.no_speech <= 1
        assert heard.status


def test_it_says_what_it_is(case: Case) -> None:
    transcriber, _, options = case
    assert VERSIONS[transcriber.name](options) == transcriber.version
    assert re.search(r"sha256:\w{16}|api [\d-]{10}", transcriber.version)
    assert transcriber.batch_size >= 1
    assert transcriber.concurrency >= 1
    assert transcriber.paid == (transcriber.name == "azure")
