"""ser-extract from end to end, on difficult releases and small models of the real classes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner, Result

from ser_memory.common import manifests
from ser_memory.common.cache import FeatureCache
from ser_memory.extract.audio import load
from ser_memory.extract.cli import main
from ser_memory.extract.corpora import read_release
from ser_memory.extract.encoders import EXACT, load_acoustic, load_text, relative_error
from tests.models import save_acoustic, save_text, save_whisper
from tests.releases import BUILDERS, Truth


@pytest.fixture(scope="session")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("encoders")
    acoustic = save_acoustic(folder / "acoustic", "wav2vec2 with group norm")
    return ["--acoustic-encoder", acoustic, "--text-encoder", save_text(folder / "text")]


def run(*arguments: object) -> Result:
    """Of several encoders, which a command may not have, with the last: tests exchange that of the fixture."""
    words = [str(argument) for argument in arguments]
    for option in ("--acoustic-encoder", "--text-encoder"):
        while words.count(option) > 1:
            del words[words.index(option) : words.index(option) + 2]
    return CliRunner().invoke(main, words)


def refused(result: Result, exit_code: int) -> str:
    """The one sentence that a failed command ends with."""
    assert result.exit_code == exit_code, result.output
    assert isinstance(result.exception, SystemExit)
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line.removeprefix("Error: ")


@pytest.fixture(params=sorted(BUILDERS))
def release(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, Truth]:
    root = tmp_path / "release"
    root.mkdir()
    return root, BUILDERS[request.param](root)


def test_a_release_becomes_a_cache(release: tuple[Path, Truth], encoders: list[str], tmp_path: Path) -> None:
    root, truth = release
    result = run("--corpus", truth.corpus, "--root", root, "--cache", tmp_path / "cache", *encoders)
    assert result.exit_code == 0, result.output
    manifest = manifests.load(truth.corpus)
    cache = FeatureCache(tmp_path / "cache" / f"{manifest.name}.h5")
    assert list(cache.read("id")) == list(truth.kept)
    assert {reason: sorted(ids) for reason, ids in truth.dropped.items()} == cache.info.dropped
    for reason, ids in truth.dropped.items():
        assert f"dropped {len(ids)}, {reason}" in result.output
    assert (f"{len(truth.unlisted)} recording is not in the table" in result.output) == bool(truth.unlisted)

    # Every row is what one-at-a-time inference gives for the utterance of the reader.
    turns = {turn.id: turn for turn in read_release(root, manifest)}
    acoustic, text = load_acoustic(encoders[1]), load_text(encoders[3])
    for i, name in enumerate(cache.read("id")):
        turn = turns[name]
        assert turn.audio is not None
        alone = acoustic.encode([load(turn.audio)])
        assert relative_error(cache.read("acoustic")[i : i + 1], alone) < EXACT
        assert relative_error(cache.read("text")[i : i + 1], text.encode([turn.transcript or ""])) < EXACT
        for column in ("speaker", "gender", "split", "transcript"):
            assert cache.read(column)[i] == getattr(turn, column)
        for column in ("activation", "valence", "dominance"):
            np.testing.assert_equal(cache.read(column)[i], np.float32(getattr(turn, column)))
        assert cache.read("duration")[i] == pytest.approx(soundfile.info(turn.audio).duration, abs=1e-3)


def test_running_again_changes_nothing_and_other_settings_are_refused(
    encoders: list[str], tmp_path: Path
) -> None:
    root = tmp_path / "release"
    truth = BUILDERS["iemocap"](root)
    command = ["--corpus", truth.corpus, "--root", root, "--cache", tmp_path, *encoders]
    assert run(*command).exit_code == 0
    path = tmp_path / "iemocap.h5"
    before = path.read_bytes()
    assert "already has this content" in run(*command).stderr
    assert path.read_bytes() == before
    message = refused(run(*command, "--max-duration", "20"), 1)
    assert "it differs in max_duration" in message
    assert "--overwrite" in message
    assert path.read_bytes() == before
    assert run(*command, "--overwrite").exit_code == 0
    assert path.read_bytes() == before
    assert run(*command, "--limit", "3", "--overwrite").exit_code == 0
    assert len(FeatureCache(path)) == 3


def test_the_fingerprint_follows_content_not_place(encoders: list[str], tmp_path: Path) -> None:
    prints = []
    for place in ("here", "there"):
        root = tmp_path / place / "release"
        truth = BUILDERS["msp-improv"](root)
        models = shutil.copytree(Path(encoders[1]), tmp_path / place / "acoustic")
        command = ["--corpus", truth.corpus, "--root", root, "--cache", tmp_path / place]
        assert run(*command, "--acoustic-encoder", models, *encoders[2:]).exit_code == 0
        prints.append(FeatureCache(tmp_path / place / "msp-improv.h5").info.fingerprint)
    assert prints[0] == prints[1]


def test_audio_changed_in_place_is_noticed(encoders: list[str], tmp_path: Path) -> None:
    """Other samples in a file of the same size, as after denoising."""
    root = tmp_path / "release"
    truth = BUILDERS["iemocap"](root)
    command = ["--corpus", truth.corpus, "--root", root, "--cache", tmp_path, *encoders]
    assert run(*command).exit_code == 0
    wav = next(root.glob(f"Session*/sentences/wav/*/{truth.kept[0]}.wav"))
    samples, rate = soundfile.read(wav)
    soundfile.write(wav, -samples, rate)
    assert "it differs in the release" in refused(run(*command), 1)


def test_a_protocol_that_does_not_fit_is_refused(encoders: list[str], tmp_path: Path) -> None:
    """A name that is misspelt would otherwise be noticed in training, by the missing split."""
    root = tmp_path / "release"
    manifest = Path(BUILDERS["table"](root).corpus)
    text = manifest.read_text()
    protocol = text[text.index("[protocols") :].partition("\n\n")[0]

    def extracted(rule: str, *more: object) -> Result:
        own = tmp_path / "typo.toml"
        own.write_text(text.replace(protocol, f"[protocols.typo]\n{rule}\n"))
        command = ["--corpus", own, "--root", root, "--cache", tmp_path, "--protocol", "typo", *encoders]
        return run(*command, *more)

    says = refused(extracted('by = "speaker"\ntrain = ["O1"]\nvalidation = ["anna"]\ntest = "*"'), 1)
    assert "names the speakers 'O1', who do not exist. The speakers that exist are '" in says
    assert "'anna'" in says.partition("exist are")[2]
    says = refused(extracted('by = "split"\ntrain = ["Fit"]\nvalidation = ["dev"]\ntest = "*"'), 1)
    assert (
        "falls into the split train, which training needs. Protocol 'typo' fills it with the split 'Fit', and"
        in says
    )
    assert "'fit'" in says.partition("the release has")[2]
    assert not (tmp_path / "clinic.h5").exists()
    result = extracted('by = "speaker"\nvalidation = ["anna"]\ntest = "*"')
    assert result.exit_code == 0, result.output
    assert "Protocol 'typo' has no split train, which ser-train needs." in result.stderr
    assert "1 utterances of unknown speakers fall into test, as all other speakers." in result.stderr


def test_a_trial_says_that_it_is_one(encoders: list[str], tmp_path: Path) -> None:
    root = tmp_path / "release"
    truth = BUILDERS["iemocap"](root)
    command = ["--corpus", truth.corpus, "--root", root, "--cache", tmp_path, *encoders]
    assert run(*command, "--limit", 3).exit_code == 0
    assert FeatureCache(tmp_path / "iemocap.h5").info.limit == 3
    assert "it differs in limit" in refused(run(*command), 1)
    # A limit that leaves nothing out is no limit.
    assert run(*command, "--limit", 1000, "--overwrite").exit_code == 0
    assert FeatureCache(tmp_path / "iemocap.h5").info.limit == 0
    assert "already has this content" in run(*command).stderr


def test_a_folder_that_is_only_read_from(
    encoders: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Denied:
        def __init__(self, path: Path, **_: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))

    truth = BUILDERS["iemocap"](tmp_path / "release")
    command = ["--corpus", truth.corpus, "--root", tmp_path / "release", "--cache", tmp_path, *encoders]
    with monkeypatch.context() as patch:
        patch.setattr("ser_memory.common.locks.FileLock", Denied)
        assert "Permission denied" in refused(run(*command), 1)
    assert run(*command).exit_code == 0
    monkeypatch.setattr("ser_memory.common.locks.FileLock", Denied)
    result = run(*command)
    assert result.exit_code == 0, result.output
    assert "already has this content; nothing to do" in result.stderr
    assert "Permission denied" in refused(run(*command, "--overwrite"), 1)
    assert not (tmp_path / "iemocap.parts").exists()


def test_durations_beyond_whispers_input_are_refused(encoders: list[str], tmp_path: Path) -> None:
    truth = BUILDERS["iemocap"](tmp_path / "release")
    model = save_whisper(tmp_path / "whisper", seconds=10)
    command = ["--corpus", truth.corpus, "--root", tmp_path / "release", "--cache", tmp_path, *encoders]
    command += ["--acoustic-encoder", model]
    message = refused(run(*command), 2)
    assert f"{model} takes 10 s at most, and --max-duration is 30: give --max-duration 10" in message
    assert run(*command, "--max-duration", 10).exit_code == 0


def test_a_folder_that_cannot_be_written_is_reported_before_the_work(
    encoders: list[str], tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    truth = BUILDERS["iemocap"](tmp_path / "release")
    result = run(
        "--corpus",
        truth.corpus,
        "--root",
        tmp_path / "release",
        "--cache",
        tmp_path / "file" / "x",
        *encoders,
    )
    assert "Not a directory" in refused(result, 1)
    assert "encoding" not in result.stderr


def test_transcripts_from_a_file(encoders: list[str], tmp_path: Path) -> None:
    root = tmp_path / "release"
    truth = BUILDERS["msp-podcast"](root)
    (tmp_path / "heard.csv").write_text(
        "id,text\n" + "".join(f"{name},a good day\n" for name in [*truth.kept, "stranger"])
    )
    command = ["--corpus", truth.corpus, "--root", root, "--cache", tmp_path, *encoders]
    result = run(*command, "--transcripts", tmp_path / "heard.csv")
    assert result.exit_code == 0, result.output
    assert "1 ids of" in result.stderr
    cache = FeatureCache(tmp_path / "msp-podcast.h5")
    assert set(cache.read("transcript")) == {"a good day"}
    assert cache.info.transcriber == "file heard.csv"


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("t.pkl", "", "is a Python pickle, and reading a pickle runs the code in it"),
        ("t.xlsx", "", "ends in '.xlsx': a table is read from .csv, .tsv, .jsonl"),
        ("t.csv", "id,words\nx,y\n", "lacks the column text: it has id, words"),
        ("t.csv", "id,text\nx,y\nx,z\n", "gives 1 ids a second time with another text, 'x' (row 3)"),
        ("t.csv", "x,y\nz,y\n", "its first row, which should name the columns, is x, y"),
        ("t.jsonl", '{"id": "x", "text": "y"}\n{"id"', "row 2: it cannot be read as JSON"),
        ("t.jsonl", '{"id": "x", "text": null}\n', "has no text"),
    ],
)
def test_bad_transcript_files(
    name: str, content: str, says: str, encoders: list[str], tmp_path: Path
) -> None:
    truth = BUILDERS["iemocap"](tmp_path / "release")
    (tmp_path / name).write_text(content)
    result = run(
        "--corpus", truth.corpus, "--root", tmp_path / "release", "--transcripts", tmp_path / name, *encoders
    )
    assert says in refused(result, 1)


class TestBadInput:
    """One sentence, a non-zero exit, and nothing made."""

    @pytest.fixture(autouse=True)
    def elsewhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("SER_DATA", "SER_CACHE"):
            monkeypatch.delenv(name, raising=False)

    def test_unknown_corpus(self) -> None:
        message = refused(run("--corpus", "msp"), 2)
        assert "'msp' is not known" in message
        assert "iemocap, msp-improv, msp-podcast" in message

    def test_root_not_found_names_both_ways(self, monkeypatch: pytest.MonkeyPatch) -> None:
        message = refused(run("--corpus", "iemocap"), 2)
        assert "data/iemocap" in message
        assert "--root FOLDER" in message
        assert "SER_DATA" in message
        monkeypatch.setenv("SER_DATA", "/nowhere")
        assert "/nowhere/iemocap" in refused(run("--corpus", "iemocap"), 2)

    def test_no_usable_utterance(self, tmp_path: Path, encoders: list[str]) -> None:
        root = tmp_path / "release"
        truth = BUILDERS["iemocap"](root)
        command = ["--corpus", truth.corpus, "--root", root, *encoders]
        message = refused(run(*command, "--min-duration", 1000, "--max-duration", 2000), 1)
        assert message.startswith(f"No utterance of {root} can be used: ")
        assert "too short" in message

    def test_most_without_transcript(self, tmp_path: Path, encoders: list[str]) -> None:
        root = tmp_path / "release"
        truth = BUILDERS["msp-podcast"](root)
        shutil.rmtree(root / "Transcripts")
        message = refused(run("--corpus", truth.corpus, "--root", root, *encoders), 1)
        assert "otherwise usable utterances have no transcript" in message
        assert "--transcripts FILE" in message

    def test_durations_crossed(self, tmp_path: Path) -> None:
        assert "exceeds --max-duration" in refused(run("--corpus", "iemocap", "--min-duration", 40), 2)

    def test_cuda_absent(self, tmp_path: Path) -> None:
        (tmp_path / "release").mkdir()
        result = run("--corpus", "iemocap", "--root", tmp_path / "release", "--device", "cuda")
        assert "Device 'cuda' is not available here: use --device auto" in refused(result, 2)

    @pytest.mark.parametrize(
        ("option", "kind"), [("--acoustic-encoder", "acoustic"), ("--text-encoder", "text")]
    )
    def test_models_that_are_not_there(
        self, option: str, kind: str, tmp_path: Path, encoders: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        root = tmp_path / "release"
        truth = BUILDERS["iemocap"](root)
        command = ["--corpus", truth.corpus, "--root", root, *encoders, option]
        (tmp_path / "empty").mkdir()
        message = refused(run(*command, tmp_path / "empty"), 2)
        assert f"holds no {kind} model, there is no config.json" in message
        assert "There is no folder ./absent" in refused(run(*command, "./absent"), 2)
        # A hub that cannot be reached, as the client reports it in offline mode.
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        message = refused(run(*command, "someone/some-model"), 1)
        assert "could not be loaded from the Hugging Face hub" in message
        assert f"--{kind}-encoder FOLDER" in message

    def test_models_of_another_kind(self, tmp_path: Path, encoders: list[str]) -> None:
        root = tmp_path / "release"
        truth = BUILDERS["iemocap"](root)
        command = ["--corpus", truth.corpus, "--root", root, *encoders]
        assert "acoustic model" in refused(run(*command, "--acoustic-encoder", encoders[3]), 1)
        assert "does not take text" in refused(run(*command, "--text-encoder", encoders[1]), 1)

    def test_text_models_that_have_no_first_token(self, tmp_path: Path, encoders: list[str]) -> None:
        import transformers

        truth = BUILDERS["iemocap"](tmp_path / "release")
        folder = shutil.copytree(Path(encoders[3]), tmp_path / "gpt")
        (folder / "model.safetensors").unlink()
        config = transformers.GPT2Config(vocab_size=200, n_embd=16, n_layer=1, n_head=2)
        transformers.GPT2Model(config).save_pretrained(folder)
        settings = '{"tokenizer_class": "BertTokenizer", "pad_token": null}'
        (folder / "tokenizer_config.json").write_text(settings)
        command = [
            "--corpus",
            truth.corpus,
            "--root",
            tmp_path / "release",
            *encoders,
            "--text-encoder",
            folder,
        ]
        assert "give a BERT-class" in refused(run(*command), 1)

    def test_damaged_models(self, tmp_path: Path, encoders: list[str]) -> None:
        root = tmp_path / "release"
        truth = BUILDERS["iemocap"](root)
        command = ["--corpus", truth.corpus, "--root", root, *encoders, "--acoustic-encoder"]
        cut = shutil.copytree(Path(encoders[1]), tmp_path / "cut")
        weights = cut / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:5000])
        assert "cut" in refused(run(*command, cut), 1)
        from safetensors.torch import load_file, save_file

        partial = shutil.copytree(Path(encoders[1]), tmp_path / "partial")
        tensors = load_file(partial / "model.safetensors")
        del tensors["feature_projection.projection.weight"]
        save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
        assert "lacks weights" in refused(run(*command, partial), 1)
        assert not list((tmp_path / "cache").glob("[!.]*"))
