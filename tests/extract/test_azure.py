"""The real Azure client against a local server with the protocol of the service."""

from __future__ import annotations

import json
import logging
import os
import pty
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ser_memory.extract.transcribe_cli import main
from ser_memory.extract.transcripts.retries import Retries
from ser_memory.extract.transcripts.store import read_store
from tests.azure_server import KEY, Azure, serving
from tests.recordings import write_noises

pytest.importorskip("azure.ai.transcription")

AGREED = ("--price-per-hour", "1", "--yes")


class Place:
    """A corpus, a server that knows its recordings, and the command that transcribes them."""

    def __init__(self, folder: Path, azure: Azure, number: int) -> None:
        self.folder, self.azure = folder, azure
        self.recordings = write_noises(folder / "corpus", number)
        azure.register(self.recordings)
        self.store = azure.store = folder / "cache" / "noises.azure.transcripts.jsonl"

    def arguments(self, *more: str) -> list[str]:
        root = self.folder / "corpus"
        where = [
            "--corpus",
            str(root / "noises.toml"),
            "--root",
            str(root),
            "--cache",
            str(self.folder / "cache"),
        ]
        return [*where, "--transcriber", "azure", *more]

    def environment(self) -> dict[str, str]:
        return {"AZURE_SPEECH_ENDPOINT": self.azure.endpoint, "AZURE_SPEECH_API_KEY": KEY}

    def run(self, *more: str, **environment: str) -> Result:
        return CliRunner(env={**self.environment(), **environment}).invoke(main, self.arguments(*more))

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        program = "from ser_memory.extract.transcribe_cli import main; main()"
        with (self.folder / "output.txt").open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-c", program, *self.arguments(*more)],
                env={**os.environ, **self.environment()}, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            )  # fmt: skip

    def texts(self) -> dict[str, str]:
        return {name: record.text for name, record in read_store(self.store).items()}

    def all_texts(self) -> dict[str, str]:
        return {name: self.azure.text(name) for name in self.recordings}


Make = Callable[..., Place]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with serving(Azure()) as azure:

        def place(number: int = 6, fault: Callable[[int, str], str] = lambda n, name: "") -> Place:
            azure.fault = fault
            return Place(tmp_path, azure, number)

        yield place


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short, except the ones that the service asks for."""
    monkeypatch.setattr(Retries, "first", 0.01)
    monkeypatch.setattr(Retries, "longest", 0.1)


def refused(result: Result, exit_code: int) -> str:
    assert result.exit_code == exit_code, result.output
    assert isinstance(result.exception, SystemExit)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line.removeprefix("Error: ")


def test_every_utterance_is_sent_once_and_kept(make: Make) -> None:
    place = make()
    place.azure.texts["n03"] = ""  # no speech
    place.azure.delay = 0.2  # long enough for two requests to meet
    result = place.run("--language", "en-US", "--concurrency", "2", *AGREED)
    assert result.exit_code == 0, result.output
    assert place.texts() == place.all_texts()
    assert Counter(place.azure.asked()) == Counter(list(place.recordings))
    assert place.azure.most_at_once == 2
    assert {json.dumps(request.definition) for request in place.azure.requests} == {
        '{"locales": ["en-US"], "profanityFilterMode": "None"}'
    }
    assert "azure: 6 recordings, 0.01 h of audio, 1 per hour: 0.01 in total." in result.stderr
    assert "6 transcribed by azure (1 of them empty)" in result.stdout

    spoken, silent = read_store(place.store)["n00"], read_store(place.store)["n03"]
    assert (spoken.language, spoken.confidence, spoken.engine) == ("en-US", 0.93, "azure")
    assert (spoken.version, spoken.duration, spoken.status) == ("api 2025-10-15, en-US", 3.0, "HTTP 200")
    assert (silent.text, silent.language, silent.confidence) == ("", None, None)

    assert (
        place.run("--language", "en-US").exit_code == 0
    )  # nothing is missing: no price, no question, no request
    assert len(place.azure.requests) == 6
    # No key is needed either, but a store in one language is not used for another.
    assert place.run("--language", "en-US", AZURE_SPEECH_API_KEY="").exit_code == 0
    assert "this is api 2025-10-15, de-DE" in refused(place.run("--language", "de-DE"), 1)


FAULTS = ("429", "429 after 0.05", "500", "502", "503", "truncated", "half", "strange", "reset", "slow")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_overcome(fault: str, make: Make) -> None:
    place = make(4, lambda n, name: fault if n in (0, 2, 3) else "")
    result = place.run(*AGREED)
    assert result.exit_code == 0, result.output
    assert place.texts() == place.all_texts()
    assert not any(request.stored for request in place.azure.requests)
    assert len(place.azure.requests) == (4 if fault == "slow" else 7)


def test_a_reply_that_takes_too_long_is_not_waited_for(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser_memory.extract.transcripts.engines.azure._TIMEOUT", 0.15)
    place = make(3, lambda n, name: "slow" if n == 0 else "")
    result = place.run(*AGREED)
    assert result.exit_code == 0, result.output
    assert "Azure cannot be reached (" in result.stderr
    assert "timed out" in result.stderr
    assert place.texts() == place.all_texts()
    assert len(place.azure.requests) == 4


def test_the_pause_the_service_asks_for_is_kept(make: Make) -> None:
    place = make(3, lambda n, name: "429 after 0.6" if n == 0 else "")
    start = time.monotonic()
    assert place.run("--concurrency", "1", *AGREED).exit_code == 0
    assert time.monotonic() - start >= 0.6


def test_a_busy_service_is_left_alone_by_all(make: Make) -> None:
    times: list[float] = []

    def fault(n: int, name: str) -> str:
        times.append(time.monotonic())
        return "429 after 0.5" if n == 0 else ""

    place = make(8, fault)
    place.azure.delay = 0.02
    assert place.run("--concurrency", "2", *AGREED).exit_code == 0
    late = [moment - times[0] for moment in times[2:]]  # the second was under way at the same time
    assert min(late) >= 0.4


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ("401", "check that AZURE_SPEECH_API_KEY is a key of the resource at AZURE_SPEECH_ENDPOINT"),
        ("403", "the key is not allowed to transcribe"),
    ],
)
def test_a_key_that_does_not_fit_stops_at_once(fault: str, says: str, make: Make) -> None:
    place = make(8, lambda n, name: fault if n >= 3 else "")
    message = refused(place.run("--concurrency", "1", *AGREED), 1)
    assert says in message
    assert (
        f"The 3 transcripts of {place.store} are kept, and the same command continues from there." in message
    )
    assert len(place.azure.requests) == 4
    place.azure.fault = lambda n, name: ""
    assert place.run(*AGREED).exit_code == 0
    assert place.texts() == place.all_texts()
    assert Counter(place.azure.asked()).most_common(1)[0][1] == 2  # the one that was refused


@pytest.mark.parametrize(
    ("fault", "says"), [("500", "HTTP 500"), ("429 after 3600", "asks to wait 1 h 00 min")]
)
def test_a_service_that_is_down_is_given_up(fault: str, says: str, make: Make) -> None:
    place = make(6, lambda n, name: fault if n >= 2 else "")
    message = refused(place.run("--retry-for", "0.3", "--concurrency", "2", *AGREED), 1)
    assert says in message
    assert "(--retry-for)" in message
    assert "The 2 transcripts of" in message
    assert len(place.texts()) == 2


def test_a_server_that_does_not_exist(make: Make) -> None:
    place = make()
    message = refused(place.run("--retry-for", "0.1", *AGREED, AZURE_SPEECH_ENDPOINT="http://127.0.0.1:9"), 1)
    assert message.startswith("Azure cannot be reached (")
    assert "(--retry-for)" in message


def test_a_wrong_address_is_not_a_service_that_is_down(make: Make) -> None:
    place = make()
    message = refused(place.run(*AGREED, AZURE_SPEECH_ENDPOINT=place.azure.endpoint + "/elsewhere"), 1)
    assert "check AZURE_SPEECH_ENDPOINT" in message


@pytest.mark.parametrize("fault", ["400", "500"])
def test_one_recording_that_fails_does_not_stop_the_others(fault: str, make: Make) -> None:
    place = make(6, lambda n, name: fault if name == "n02" else "")
    result = place.run("--concurrency", "1", *AGREED)
    assert result.exit_code == 0, result.output
    assert "1 not transcribed: n02 (Azure says HTTP" in result.stderr
    assert (
        "6 usable utterances: 5 transcribed by azure (0 of them empty), 1 refused by azure." in result.stdout
    )
    assert set(place.texts()) == set(place.recordings) - {"n02"}


def test_when_every_recording_is_refused_the_fault_lies_elsewhere(make: Make) -> None:
    place = make(8, lambda n, name: "400")
    message = refused(place.run("--concurrency", "1", *AGREED), 1)
    assert "azure refused 5 recordings in a row" in message
    assert len(place.azure.requests) == 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_what_is_under_way_is_kept(number: int, make: Make) -> None:
    place = make(20)
    place.azure.delay = 0.3
    process = place.start("--concurrency", "3", *AGREED)
    while len(place.azure.requests) < 5:
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait() == 128 + number
    assert set(place.texts()) == set(place.azure.asked())
    assert len(place.texts()) < 10
    message = f"Stopped as asked. The {len(place.texts())} transcripts of {place.store} are kept, and the same command"
    assert message in (place.folder / "output.txt").read_text()


class TestTheKey:
    def test_is_in_no_file_log_or_message(self, make: Make, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        place = make(3, lambda n, name: "500" if n == 0 else "")
        outputs = [place.run(*AGREED).output]
        (place.store).unlink()
        place.azure.key = "another"  # and the server repeats the one it was given
        outputs.append(place.run(*AGREED).output)
        place.azure.fault = lambda n, name: "403"
        place.azure.key = KEY
        outputs.append(place.run(*AGREED).output)
        assert "the key *** is invalid" in outputs[1]
        assert len(caplog.records) > 10
        for text in (*outputs, caplog.text, *(repr(vars(record)) for record in caplog.records)):
            assert KEY not in text
        for path in place.folder.rglob("*"):
            assert path.is_dir() or KEY.encode() not in path.read_bytes()

    @pytest.mark.parametrize("absent", ["AZURE_SPEECH_API_KEY", "AZURE_SPEECH_ENDPOINT"])
    def test_is_asked_for_by_name(self, absent: str, make: Make) -> None:
        message = refused(make().run(*AGREED, **{absent: ""}), 2)
        assert f"the environment variable {absent}:" in message
        assert "Azure portal" in message

    def test_does_not_travel_in_the_clear(self, make: Make) -> None:
        place = make()
        message = refused(place.run(*AGREED, AZURE_SPEECH_ENDPOINT="http://example.org"), 2)
        assert "with https" in message
        assert not place.azure.requests


class TestTheCost:
    def test_needs_a_price(self, make: Make) -> None:
        assert "--price-per-hour AMOUNT" in refused(make().run("--yes"), 2)

    def test_is_not_agreed_to_without_a_terminal(self, make: Make) -> None:
        place = make()
        result = place.run("--price-per-hour", "36")
        assert "add --yes" in refused(result, 2)
        assert "0.01 h of audio, 36 per hour: 0.18 in total" in result.stderr
        assert not place.azure.requests

    def test_has_an_upper_end(self, make: Make) -> None:
        place = make()
        message = refused(place.run("--price-per-hour", "36", "--yes", "--max-cost", "0.17"), 2)
        assert "0.18 would exceed --max-cost 0.17" in message
        assert not place.azure.requests
        assert place.run("--price-per-hour", "36", "--yes", "--max-cost", "0.18").exit_code == 0

    def test_counts_what_is_missing_only(self, make: Make) -> None:
        place = make()
        assert place.run("--limit", "2", *AGREED).exit_code == 0
        assert "azure: 4 recordings" in place.run(*AGREED).stderr
        assert len(place.azure.requests) == 6

    @pytest.mark.parametrize(("answer", "requests"), [(b"y\n", 2), (b"n\n", 0)])
    def test_is_asked_for_at_a_terminal(self, answer: bytes, requests: int, make: Make) -> None:
        place = make(2)
        ours, theirs = pty.openpty()
        program = "from ser_memory.extract.transcribe_cli import main; main()"
        os.write(ours, answer)
        done = subprocess.run(
            [sys.executable, "-c", program, *place.arguments("--price-per-hour", "36")],
            env={**os.environ, **place.environment()}, stdin=theirs, capture_output=True, text=True, check=False,
        )  # fmt: skip
        os.close(ours)
        os.close(theirs)
        assert "Send them? [y/N]" in done.stderr
        assert done.returncode == (0 if requests else 1)
        assert len(place.azure.requests) == requests


def test_a_locale_is_asked_for(make: Make) -> None:
    assert "such as en-US" in refused(make().run("--language", "en", *AGREED), 2)
