"""ser-transcribe and ser-extract --transcriber from end to end; engines complete a simulated MSP-Podcast."""

from __future__ import annotations

import json
import pickle
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import click
import jiwer
import pytest
from click.testing import CliRunner, Result

from ser_memory.common import manifests
from ser_memory.common.cache import FeatureCache
from ser_memory.extract.audio import Waveform
from ser_memory.extract.cli import main as ser_extract
from ser_memory.extract.corpora import Utterance, read_release
from ser_memory.extract.simulation import plan, write_releases
from ser_memory.extract.transcribe_cli import main as ser_transcribe
from ser_memory.extract.transcripts.engines.contract import TranscriberOptions, Transcription
from ser_memory.extract.transcripts.engines.whisper import WhisperTranscriber
from ser_memory.extract.transcripts.files import read_transcripts
from ser_memory.extract.transcripts.quality.word_error_rate import normalised
from ser_memory.extract.transcripts.store import Transcript, read_store, write_store
from tests.azure_server import KEY, Azure, serving
from tests.models import save_acoustic, save_text, save_whisper
from tests.recordings import write_noises
from tests.transcribers import save_converted, spare_threads

SMALL = 0.01
TEXTS = {"n00": "It was late.", "n01": "We left - so soon!", "n03": "[LAUGHTER]", "n04": "a lovely day"}


def run(command: click.Command, *arguments: object, **environment: str) -> Result:
    return CliRunner(env=environment).invoke(command, [str(argument) for argument in arguments])


def done(result: Result) -> Result:
    assert result.exit_code == 0, result.output
    return result


def refused(result: Result, exit_code: int) -> str:
    assert result.exit_code == exit_code, result.output
    assert isinstance(result.exception, SystemExit)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line.removeprefix("Error: ")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_whisper(folder / "whisper")
    save_acoustic(folder / "acoustic", "wav2vec2 with group norm")
    save_text(folder / "text")
    return folder


@pytest.fixture(scope="module")
def podcast(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated MSP-Podcast; some of its turns have no transcript, and some cannot be used."""
    root = tmp_path_factory.mktemp("releases")
    first = plan(SMALL)[:1]
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr("ser_memory.extract.simulation.releases.plan", lambda scale: first)
        write_releases(root, SMALL)
    return root / "msp-podcast"


def turns_of(podcast: Path) -> dict[str, Utterance]:
    return {turn.id: turn for turn in read_release(podcast, manifests.load("msp-podcast"))}


def encoders(models: Path) -> list[object]:
    return ["--acoustic-encoder", models / "acoustic", "--text-encoder", models / "text", "--device", "cpu"]


class TestAPodcastWithMissingTranscripts:
    def extract(self, podcast: Path, cache: Path, models: Path, *more: object, **environment: str) -> Result:
        where = ["--corpus", "msp-podcast", "--root", podcast, "--cache", cache]
        return run(ser_extract, *where, *encoders(models), *more, **environment)

    def check(self, podcast: Path, cache: Path, engine: str, without: FeatureCache) -> None:
        """The release's texts stay, the engine adds the missing ones, and it transcribes nothing else."""
        turns, made = turns_of(podcast), FeatureCache(cache / "msp-podcast.h5")
        store = read_store(cache / f"msp-podcast.{engine}.transcripts.jsonl")
        missing = without.info.dropped["no transcript"]
        assert missing
        assert sorted(store) == sorted(missing)
        assert made.info.dropped == {k: v for k, v in without.info.dropped.items() if k != "no transcript"}
        assert len(made) == len(without) + len(missing)
        for name, text in zip(made.read("id"), made.read("transcript"), strict=True):
            assert text == (store[name].text if name in store else turns[name].transcript)
        assert made.info.transcriber == f"release, {engine} ({store[missing[0]].version})"
        assert made.info.fingerprint != without.info.fingerprint

    def test_completed_by_whisper(self, podcast: Path, tmp_path: Path, models: Path) -> None:
        done(self.extract(podcast, tmp_path / "without", models))
        without = FeatureCache(tmp_path / "without" / "msp-podcast.h5")
        asked = (
            "--transcriber",
            "release,whisper",
            "--whisper-model",
            models / "whisper",
            "--language",
            "en",
        )
        result = done(self.extract(podcast, tmp_path / "with", models, *asked))
        assert f"whisper: {len(without.info.dropped['no transcript'])} transcribed" in result.stderr
        self.check(podcast, tmp_path / "with", "whisper", without)
        again = done(self.extract(podcast, tmp_path / "with", models, *asked))
        assert "already has this content" in again.stderr
        assert "transcribed" not in again.stderr

    def test_completed_by_azure(self, podcast: Path, tmp_path: Path, models: Path) -> None:
        pytest.importorskip("azure.ai.transcription")
        done(self.extract(podcast, tmp_path / "without", models))
        without = FeatureCache(tmp_path / "without" / "msp-podcast.h5")
        with serving(Azure(fault=lambda n, name: "429 after 0.05" if n == 1 else "")) as azure:
            recordings = {turn.id: turn.audio for turn in turns_of(podcast).values() if turn.audio}
            azure.register(
                {k: v for k, v in recordings.items() if k in without.info.dropped["no transcript"]}
            )
            keys = {"AZURE_SPEECH_ENDPOINT": azure.endpoint, "AZURE_SPEECH_API_KEY": KEY}
            asked = (
                "--transcriber",
                "release,azure",
                "--price-per-hour",
                "1",
                "--yes",
                "--language",
                "en-US",
            )
            done(self.extract(podcast, tmp_path / "with", models, *asked, **keys))
        self.check(podcast, tmp_path / "with", "azure", without)
        assert Counter(azure.asked()).most_common(1)[0][1] <= 2
        assert "" not in azure.asked()  # no request for recordings that cannot be used or have a text

    def test_a_limit_holds_for_the_engine_too(self, podcast: Path, tmp_path: Path, models: Path) -> None:
        asked = ("--transcriber", "whisper", "--whisper-model", models / "whisper", "--limit", "5")
        done(self.extract(podcast, tmp_path, models, *asked))
        store = read_store(tmp_path / "msp-podcast.whisper.transcripts.jsonl")
        cache = FeatureCache(tmp_path / "msp-podcast.h5")
        assert len(store) == len(cache) == 5
        assert {record.text for record in store.values()} == set(cache.read("transcript"))
        # A store can be used without its engine, and under any name.
        (tmp_path / "msp-podcast.whisper.transcripts.jsonl").rename(
            tmp_path / "msp-podcast.small.transcripts.jsonl"
        )
        again = done(self.extract(podcast, tmp_path, models, "--transcriber", "small,release", "--overwrite"))
        assert "transcribed" not in again.stderr
        turns = turns_of(podcast)
        made = FeatureCache(tmp_path / "msp-podcast.h5")
        for name, text in zip(made.read("id"), made.read("transcript"), strict=True):
            assert text == (store[name].text if name in store else turns[name].transcript)
        assert made.info.transcriber == "small, release"


class Noises:
    def __init__(self, folder: Path) -> None:
        self.root, self.cache = folder / "corpus", folder / "cache"
        self.recordings = write_noises(self.root, 9, TEXTS)

    def run(self, *more: object) -> Result:
        where = ["--corpus", self.root / "noises.toml", "--root", self.root, "--cache", self.cache]
        return run(ser_transcribe, *where, *more)

    def store(self, name: str) -> Path:
        return self.cache / f"noises.{name}.transcripts.jsonl"

    def write(self, name: str, texts: dict[str, str], flags: tuple[str, ...] = ()) -> None:
        records = (
            Transcript(i, t, "en", None, name, "v", 3.0, "", "done", flags if t else ())
            for i, t in texts.items()
        )
        write_store(self.store(name), records)


@pytest.fixture
def noises(tmp_path: Path) -> Noises:
    return Noises(tmp_path)


def test_an_interrupted_run_goes_on(noises: Noises, models: Path) -> None:
    asked = ("--transcriber", "whisper", "--whisper-model", models / "whisper", "--device", "cpu")
    result = done(noises.run(*asked))
    assert "noises: 9 usable utterances: 9 transcribed by whisper (0 of them empty)." in result.stdout
    whole = noises.store("whisper").read_bytes()
    lines = whole.splitlines(keepends=True)
    noises.store("whisper").write_bytes(b"".join(lines[:4]) + lines[4][:30])
    result = done(noises.run(*asked))
    assert "its last line was incomplete" in result.stderr
    assert "whisper: 5 transcribed" in result.stderr
    again = noises.store("whisper").read_bytes().splitlines(keepends=True)
    assert again[:4] == lines[:4]
    texts = [[json.loads(line)["text"] for line in each] for each in (lines, again)]
    assert texts[0] == texts[1]
    assert "is being written" not in result.stderr


def test_another_model_does_not_go_on(noises: Noises, models: Path, tmp_path: Path) -> None:
    done(noises.run("--transcriber", "whisper", "--whisper-model", models / "whisper", "--limit", 3))
    other = save_whisper(tmp_path / "other", seed=1)
    before = noises.store("whisper").read_bytes()
    message = refused(noises.run("--transcriber", "whisper", "--whisper-model", other), 1)
    assert "holds transcripts of whisper sha256:" in message
    assert "and this is other sha256:" in message
    assert noises.store("whisper").read_bytes() == before


def test_the_texts_of_another_model_or_language_are_not_used(
    noises: Noises, models: Path, tmp_path: Path
) -> None:
    """Nothing is left to transcribe, so the model is not loaded."""
    asked = ("--transcriber", "release,whisper", "--device", "cpu", "--whisper-model")
    done(noises.run(*asked, models / "whisper"))
    before = noises.store("whisper").read_bytes()
    other = save_whisper(tmp_path / "other", seed=1)
    for more in ((other,), (models / "whisper", "--language", "de")):
        for command in (ser_transcribe, ser_extract):
            where = ["--corpus", noises.root / "noises.toml", "--root", noises.root, "--cache", noises.cache]
            more_still = encoders(models)[:4] if command is ser_extract else []
            message = refused(run(command, *where, *asked, *more, *more_still), 1)
            assert "holds transcripts of whisper sha256:" in message
    assert noises.store("whisper").read_bytes() == before
    assert not (noises.cache / "noises.h5").exists()
    again = done(noises.run(*asked, models / "whisper"))
    assert "5 transcribed by whisper" in again.stdout


def test_a_run_that_cannot_begin_leaves_nothing(noises: Noises, tmp_path: Path) -> None:
    model = Path(save_whisper(tmp_path / "whisper"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    message = refused(noises.run("--transcriber", "whisper", "--whisper-model", model), 1)
    assert "has no tokenizer, or that of another model" in message
    assert not noises.cache.exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_what_is_kept(
    noises: Noises, models: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    transcribe, calls = WhisperTranscriber.transcribe, []

    def interrupted(self: WhisperTranscriber, waveforms: list[Waveform]) -> list[Transcription]:
        calls.append(len(waveforms))
        if len(calls) == 3:
            signal.raise_signal(number)
        return transcribe(self, waveforms)

    monkeypatch.setattr(WhisperTranscriber, "transcribe", interrupted)
    monkeypatch.setattr(
        "ser_memory.extract.transcripts.sources.TranscriberOptions", partial(TranscriberOptions, batch_size=2)
    )
    asked = ("--transcriber", "whisper", "--whisper-model", models / "whisper", "--device", "cpu")
    message = refused(noises.run(*asked), 128 + number)
    assert message.startswith(
        f"Stopped as asked. The 4 transcripts of {noises.store('whisper')} are kept, and"
    )
    assert len(read_store(noises.store("whisper"))) == 4
    assert "whisper: 5 transcribed" in done(noises.run(*asked)).stderr


def test_recordings_that_cannot_be_decoded_are_named(noises: Noises, models: Path) -> None:
    path = noises.recordings["n05"]
    path.write_bytes(path.read_bytes()[:3000])  # the header is whole
    result = done(noises.run("--transcriber", "release,whisper", "--whisper-model", models / "whisper"))
    counts = "4 with a text of release, 4 transcribed by whisper (0 of them empty), 1 that cannot be decoded."
    assert f"9 usable utterances: {counts}" in result.stdout
    assert "1 cannot be decoded: n05 (unreadable)" in result.stderr


def test_faster_whisper(noises: Noises, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("faster_whisper")
    spare_threads(monkeypatch)
    model = save_converted(tmp_path / "models")
    done(
        noises.run(
            "--transcriber", "faster-whisper", "--whisper-model", model, "--device", "cpu", "--limit", 3
        )
    )
    records = read_store(noises.store("faster-whisper"))
    assert len(records) == 3
    assert all(record.text for record in records.values())
    (noises.root / "empty").mkdir()
    message = refused(
        noises.run("--transcriber", "faster-whisper", "--whisper-model", noises.root / "empty"), 2
    )
    assert "there is no model.bin" in message


class TestCompare:
    def test_prints_rates_counts_and_the_worst(self, noises: Noises) -> None:
        texts = {"n00": "it was late", "n01": "We left too soon", "n03": "thank you", "n05": "extra"}
        noises.write("azure", texts, ("text on silence",))
        noises.write("whisper", {**TEXTS, "n04": ""})
        shown = done(noises.run("--compare", "release,azure,whisper")).stdout
        rows = [line.split() for line in shown.splitlines()]
        # n00 3 words, n01 4 words and one of them other, n03 none and two inserted; n04 and n05 are not in both
        assert ["noises", "all", "azure", "3", "7", f"{3 / 7:.3f}", "1", "0", "2"] in rows
        assert ["noises", "all", "whisper", "4", "10", "0.300", "0", "3", "0"] in rows
        assert ["noises", "train", "azure", "2", "3", f"{2 / 3:.3f}", "0", "0", "2"] in rows
        assert ["noises", "azure", "4", "text", "on", "silence", "4", "1", "0", "4"] in rows
        assert ["noises", "whisper", "-", "4", "0", "1", "0"] in rows
        assert "n03" in shown
        assert "azure: thank you (text on silence)" in shown
        assert "in lower case, without punctuation" in shown

    def test_several_corpora_and_their_sum(self, tmp_path: Path) -> None:
        roots = tmp_path / "data"
        corpora = []
        for name in ("one", "two"):
            write_noises(roots / name, 9, TEXTS)
            toml = (roots / name / "noises.toml").read_text().replace('"noises"', f'"{name}"')
            (roots / name / "noises.toml").write_text(toml)
            write_store(
                tmp_path / "cache" / f"{name}.azure.transcripts.jsonl",
                [Transcript("n00", f"it was {name}", "en", None, "azure", "v", 3.0, "", "done")],
            )
            corpora += ["--corpus", roots / name / "noises.toml"]
        where = [*corpora, "--cache", tmp_path / "cache"]
        rows = done(
            run(ser_transcribe, *where, "--compare", "release,azure", SER_DATA=str(roots))
        ).stdout.splitlines()
        assert ["all", "all", "azure", "2", "6", "0.333", "2", "0", "0"] in [row.split() for row in rows]
        assert "--root is the folder of one corpus" in refused(
            run(ser_transcribe, *where, "--root", roots, "--compare", "a,b"), 2
        )

    def test_what_is_not_there(self, noises: Noises) -> None:
        noises.write("azure", {"n08": "hello"})
        message = refused(noises.run("--compare", "release,whisper"), 2)
        assert "no transcripts of noises by 'whisper'" in message
        assert "those of release, azure" in message
        assert "nothing to compare" in refused(noises.run("--compare", "release,azure"), 1)
        assert "give two or more" in refused(noises.run("--compare", "release"), 2)
        assert "without --transcriber" in refused(
            noises.run("--compare", "release,azure", "--transcriber", "azure"), 2
        )


class TestDegrade:
    def test_stores_of_the_rates_asked_for(self, podcast: Path, tmp_path: Path, models: Path) -> None:
        where = ["--corpus", "msp-podcast", "--root", podcast, "--cache", tmp_path]
        result = done(run(ser_transcribe, *where, "--transcriber", "release", "--degrade", "0.1,0.2,0.4"))
        own = {
            name: turn.transcript for name, turn in turns_of(podcast).items() if turn.transcript is not None
        }
        for rate in (0.1, 0.2, 0.4):
            store = read_store(tmp_path / f"msp-podcast.release-wer{rate}.transcripts.jsonl")
            pairs = [
                (" ".join(normalised(own[name])), " ".join(normalised(store[name].text))) for name in own
            ]
            measured = jiwer.wer([one for one, _ in pairs], [other for _, other in pairs])
            assert measured == pytest.approx(rate, abs=0.02)
            assert f"release-wer{rate}.transcripts.jsonl: {len(own)} texts" in result.stdout
        done(run(ser_extract, *where, *encoders(models), "--transcriber", "release-wer0.4"))
        cache = FeatureCache(tmp_path / "msp-podcast.h5")
        assert cache.info.transcriber == "release-wer0.4"
        assert cache.read("transcript")[0] == store[cache.read("id")[0]].text
        file = tmp_path / "msp-podcast.release-wer0.4.transcripts.jsonl"
        done(run(ser_extract, *where[:-1], tmp_path / "other", *encoders(models), "--transcripts", file))
        other = FeatureCache(tmp_path / "other" / "msp-podcast.h5")
        assert other.info.fingerprint == cache.info.fingerprint
        again = {path: path.read_bytes() for path in tmp_path.glob("*.jsonl")}
        done(run(ser_transcribe, *where, "--transcriber", "release", "--degrade", "0.1,0.2,0.4"))
        texts = {path: [record.text for record in read_store(path).values()] for path in again}
        for path, data in again.items():
            assert texts[path] == [json.loads(line)["text"] for line in data.splitlines()]

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ("--transcriber release --degrade 0.1,much", "is not a list of rates"),
            ("--transcriber release --degrade 0.1,0.1", "has the same rate twice"),
            (
                "--transcriber release --degrade 0.1,0.5,1.5",
                "1.5 is not possible: give a rate above 0, up to 0.9",
            ),
            ("--transcriber release,whisper --degrade 0.1", "texts of one transcriber"),
            ("--transcriber azure --degrade 0.1", "no transcripts of noises by 'azure'"),
        ],
    )
    def test_bad_rates(self, arguments: str, says: str, noises: Noises) -> None:
        assert says in refused(noises.run(*shlex.split(arguments)), 2)
        assert not noises.cache.exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("", "There is nothing to do"),
        ("--transcriber release", "release: this list has no engine"),
        (
            "--transcriber wisper",
            "There is no transcriber 'wisper': give release, whisper, faster-whisper, azure",
        ),
        ("--transcriber whisper,release", "so release would never be used: put whisper last"),
        ("--transcriber ../x", "not a list of transcribers"),
        ("--transcriber release,release", "give each name once"),
        ("--transcriber whisper --whisper-model ./absent", "There is no folder ./absent"),
        ("--transcriber whisper --whisper-model ''", "--whisper-model is empty"),
        ("--transcriber whisper --min-duration 9 --max-duration 8", "exceeds --max-duration"),
    ],
)
def test_bad_commands(arguments: str, says: str, noises: Noises, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = noises.run(*shlex.split(arguments))
    assert result.exit_code in (1, 2)
    assert says in refused(result, result.exit_code)


class TestAFileOfOnesOwn:
    @pytest.fixture
    def extract(self, noises: Noises, models: Path) -> Callable[..., Result]:
        def run_with(name: str, data: bytes, *more: object) -> Result:
            path = noises.root / name
            path.write_bytes(data)
            where = ["--corpus", noises.root / "noises.toml", "--root", noises.root, "--cache", noises.cache]
            return run(ser_extract, *where, *encoders(models), "--transcripts", path, *more)

        return run_with

    def test_pickles_are_refused_with_a_way_out(self, extract: Callable[..., Result], noises: Noises) -> None:
        texts = {"n00": "hello", "n01": 'a "b",\nc'}
        for name in ("disguised.csv", "t.pkl"):
            result = extract(name, pickle.dumps(texts))
            assert "reading a pickle runs the code in it" in refused(result, 1)
        lines = [line[2:] for line in result.stderr.splitlines() if line.startswith("  ")]
        assert len(lines) == 2
        subprocess.run([sys.executable, "-c", "\n".join(lines)], cwd=noises.root, check=True)
        assert read_transcripts(noises.root / "transcripts.csv") == texts

    def test_repeats_strangers_and_encodings_are_counted_and_named(
        self, extract: Callable[..., Result], noises: Noises
    ) -> None:
        rows = [f"n0{i},good day" for i in range(9)] + [
            "n02,good day",
            "n07,good day",
            "who,what",
            "wer,caf\xe9",
        ]
        result = done(extract("t.csv", ("id,text\n" + "\n".join(rows)).encode("latin-1")))
        assert "2 ids of" in result.stderr
        assert "not in the release: wer, who." in result.stderr
        assert "is not in UTF-8: it is read as Latin-1, which affects 1 lines (14)" in result.stderr
        assert (
            "gives 2 ids more than once, with the same text: 'n02' (row 11), 'n07' (row 12)" in result.stderr
        )
        assert len(FeatureCache(noises.cache / "noises.h5")) == 9

    def test_two_texts_for_one_id(self, extract: Callable[..., Result]) -> None:
        data = b"id,text\nn00,a\nn01,b\nn00,c\nn01,d\nn02,e\nn02,e\n"
        message = refused(extract("t.csv", data), 1)
        assert "gives 2 ids a second time with another text, 'n00' (row 4), 'n01' (row 5)" in message

    def test_an_engine_completes_the_file(
        self, extract: Callable[..., Result], noises: Noises, models: Path
    ) -> None:
        asked = ("--whisper-model", models / "whisper", "--transcriber")
        done(extract("t.csv", b"id,text\nn00,from the file\n", *asked, "release,whisper"))
        cache = FeatureCache(noises.cache / "noises.h5")
        assert cache.info.transcriber.startswith("file t.csv, whisper (whisper sha256:")
        assert len(cache) == 9
        assert cache.read("transcript")[0] == "from the file"
        message = refused(extract("t.csv", b"id,text\nn00,x\n", *asked, "whisper"), 2)
        assert "give --transcriber release,whisper" in message
