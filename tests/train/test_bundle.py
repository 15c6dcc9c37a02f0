"""Bundles: the same bits as in one go, nothing that names anybody, and no way in for a file that was changed."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from huggingface_hub import ModelCard
from safetensors.torch import load, save

from ser_memory.common.cache import FeatureCache, write_cache
from ser_memory.common.conventions import RATED
from ser_memory.common.errors import SerError
from ser_memory.train.bundle import Bundle
from ser_memory.train.bundle_files import (
    CARD,
    CONFIG,
    FORMAT_VERSION,
    MEMORY,
    MODEL,
    bundles_in,
    read_bundle,
    read_info,
    write_bundle,
)
from ser_memory.train.bundles.cli import main as ser_bundle
from ser_memory.train.bundles.encoders import place_of
from ser_memory.train.bundles.writing import statistics
from ser_memory.train.predictions import Predictions
from ser_memory.train.strategies import STRATEGIES
from tests.train.test_cli import refused, rows, run
from tests.train.test_folds import literal
from tests.train.test_predictions import table
from tests.train.worlds import STAGES, write_caches

CARRIED = [name for name, each in STRATEGIES.items() if each.earlier != "corpora"]
SEEDS = ["--seeds", 2, "--epochs", 1]


class Told:
    """A run in one go, and one that ended after two stages with bundles; without any cache but the last corpus's."""

    def __init__(
        self, folder: Path, *options: object, sampler: str = "random", strategies: Sequence[str] = CARRIED
    ) -> None:
        self.folder, self.sampler, self.options = folder, sampler, options
        self.caches, self.last = folder / "caches", folder / "last"
        write_caches(self.caches, dominance={"msp-improv": 0.5, "iemocap": 1.0})
        name_everybody(self.caches)
        self.last.mkdir()
        shutil.copy(self.caches / "iemocap.h5", self.last)
        every = [word for name in strategies for word in ("--strategy", name)]
        common = ["--cache", self.caches, *every, "--sampler", sampler, *SEEDS, *options]
        for output, more in (
            ("whole", []),
            ("two", ["--stages", ",".join(STAGES[:2]), "--bundles", "--estimate-size", 9]),
        ):
            result = run(*common, *more, "--output", folder / output)
            assert result.exit_code == 0, result.output

    def bundles(self, strategy: str) -> Path:
        """The bundles of a strategy, of all seeds."""
        memory = f"-{self.sampler}-20" if STRATEGIES[strategy].earlier == "memory" else ""
        return self.folder / "two" / "bundles" / f"{strategy}{memory}"

    def bundle(self, strategy: str, seed: int = 0) -> Path:
        return self.bundles(strategy) / f"seed-{seed}" / "stage-2"

    def continued(self, strategy: str) -> Path:
        """The run that continues from the bundles of a strategy."""
        output = self.folder / "continued" / strategy
        if not output.exists():
            result = adapt(self.last, self.bundles(strategy), output)
            assert result.exit_code == 0, result.output
        return output


def adapt(cache: Path, bundle: Path, output: Path, *options: object) -> Any:
    """Without the options that other tests give, since those of the bundle count."""
    from ser_memory.train.cli import main

    arguments = ["--from", bundle, "--cache", cache, "--stages", "iemocap", "--output", output, "--jobs", 1]
    trained = ["--trained", output.with_name(f"{output.name}-trained")]
    return CliRunner().invoke(main, [str(each) for each in (*arguments, *trained, *options)])


def name_everybody(caches: Path) -> None:
    """Give all utterances and speakers names, and texts, that nothing else contains."""
    for path in caches.glob("*.h5"):
        cache = FeatureCache(path)
        columns: dict[str, Any] = {name: cache.read(name) for name in (*cache.shapes,) if cache.has(name)}
        n = len(cache)
        columns["id"] = [f"recording-of-{path.stem}-{i:04}" for i in range(n)]
        columns["transcript"] = [f"the secret number {i}" for i in range(n)]
        columns["speaker"] = [who if who == "Unknown" else f"Ms-Smith-{who}" for who in columns["speaker"]]
        write_cache(path, cache.info, columns)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return Told(tmp_path_factory.mktemp("bundles"))


def of_iemocap(folder: Path, strategy: str) -> list[dict[str, str]]:
    return [
        row
        for row in rows(folder)
        if (row["strategy"], row["corpus"]) == (strategy, "iemocap") and row["stage"] != "1"
    ]


@pytest.mark.parametrize("strategy", CARRIED)
def test_continuing_from_a_bundle_gives_the_bits_of_one_go(told: Told, strategy: str) -> None:
    continued, whole = told.continued(strategy), of_iemocap(told.folder / "whole", strategy)
    assert len(whole) == 2 * 2 * 2 * 2 * 2  # stages, seeds, splits, dimensions, measures
    assert rows(continued) == whole  # and nothing about corpora that are not there
    here, there = Predictions(continued), Predictions(told.folder / "whole")
    for place, own in enumerate(here.runs):
        for stage in (2, 3):
            predicted = there.predicted("iemocap", "test", stage, there.runs.index(own))
            assert np.array_equal(here.predicted("iemocap", "test", stage, place), predicted)


@pytest.mark.parametrize(
    ("sampler", "options"),
    [
        ("speaker", ["--memory-budget", 30, "--stop-on", "memory"]),
        ("coverage", ["--memory-budget", 21, "--dimensions", "activation,valence,dominance"]),
    ],
)
def test_also_where_the_memory_shrinks(tmp_path: Path, sampler: str, options: list[object]) -> None:
    strategies = ("gem", "der++")
    told = Told(tmp_path, *options, sampler=sampler, strategies=strategies)
    for strategy in strategies:
        assert rows(told.continued(strategy)) == of_iemocap(told.folder / "whole", strategy)
        kept = read_bundle(told.bundle(strategy)).kept
        assert sum(each.rows for each in kept) == options[1]
        assert abs(kept[0].rows - kept[1].rows) <= 1
        codes = [each.samples.speakers for each in kept if each.samples is not None]
        known = torch.cat(codes)[torch.cat(codes) >= 0]
        assert len(known) > 0 if sampler == "speaker" else len(known) == 0


def test_a_third_bundle_continues_from_the_second(told: Told, tmp_path: Path) -> None:
    result = adapt(told.last, told.bundles("der++"), tmp_path / "run", "--bundles", "--seed", 1)
    assert result.exit_code == 0, result.output
    (folder,) = bundles_in(tmp_path / "run" / "bundles")
    assert folder.parts[-3:] == ("der++-random-20", "seed-1", "stage-3")
    made, before = read_bundle(folder), read_bundle(told.bundle("der++", 1))
    assert [seen.name for seen in made.info.seen] == list(STAGES)
    assert made.info.seen[:2] == before.info.seen
    for old, new in zip(before.kept, made.kept[:2], strict=True):
        assert torch.equal(old.samples.acoustic, new.samples.acoustic)  # type: ignore[union-attr]
        assert torch.equal(old.answers, new.answers)  # type: ignore[arg-type]
    weights = [seen.n for seen in made.info.seen]
    assert made.neutral_text == pytest.approx(np.average(made.text_means, axis=0, weights=weights), rel=1e-6)


def test_estimates_from_few_utterances_say_so(told: Told, tmp_path: Path) -> None:
    result = adapt(told.last, told.bundles("finetune"), tmp_path / "adapted")
    assert result.exit_code == 0, result.output
    few = "test utterances of msp-podcast in the bundle (n = 9), test utterances of msp-improv in the bundle (n = 9)"
    assert f"Fewer than 10 utterances, over which a CCC means very little: {few}." in result.stderr


def test_estimates_are_those_of_the_extra_rows(told: Told) -> None:
    estimated = table(told.continued("gem") / "estimates.csv")
    assert {row["corpus"] for row in estimated} == {"msp-podcast", "msp-improv"}
    assert {row["n"] for row in estimated} == {"9"}
    trained = told.folder / "continued" / "gem-trained"
    assert trained.exists()
    result = adapt(told.last, told.bundles("gem"), told.continued("gem"), "--bundles")
    assert result.exit_code == 0, result.output
    for row in estimated:
        seed, stage = int(row["seed"]), row["stage"]
        adapted = told.continued("gem") / f"bundles/gem-random-20/seed-{seed}/stage-3"
        after = read_bundle(adapted if stage == "3" else told.bundle("gem", seed))
        extra = after.estimates[STAGES.index(row["corpus"])]
        assert extra is not None
        column = after.info.dimensions.index(row["dimension"])
        truth = extra.targets[:, column].numpy().astype(float)
        predicted = after.predict_samples(extra)[:, column].numpy().astype(float)
        assert literal(truth, predicted, row["metric"]) == pytest.approx(float(row["value"]), abs=1e-6)
        cache = FeatureCache(told.caches / f"{row['corpus']}.h5")
        tests = np.flatnonzero(cache.read("split") == "test")
        assert {each.tobytes() for each in extra.acoustic.numpy()} <= {
            each.tobytes() for each in cache.read("acoustic")[tests]
        }


@pytest.mark.parametrize("strategy", CARRIED)
def test_predictions_are_those_of_the_run(told: Told, strategy: str) -> None:
    bundle, of_run = read_bundle(told.bundle(strategy, 1)), Predictions(told.folder / "two")
    place = [(each.strategy, each.seed) for each in of_run.runs].index((strategy, 1))
    cache = FeatureCache(told.caches / "msp-improv.h5")
    tests = np.flatnonzero(cache.read("split") == "test")
    predicted = bundle.predict(cache.read("acoustic")[tests], cache.read("text")[tests])
    assert np.array_equal(predicted, of_run.predicted("msp-improv", "test", 2, place))


def test_distances_follow_their_formula(told: Told) -> None:
    bundle = read_bundle(told.bundle("finetune"))
    cache = FeatureCache(told.caches / "msp-podcast.h5")
    train = cache.read("acoustic")[cache.read("split") == "train"].astype(float)
    own = np.sqrt((((train - train.mean(axis=0)) ** 2) / train.var(axis=0)).mean(axis=1))
    assert bundle.info.seen[0].radius == pytest.approx(np.quantile(own, 0.99), rel=1e-5)
    far = np.vstack([train, train + 100]).astype(np.float32)
    apart = bundle.distances(far)
    assert (apart[: len(train)] > 1).mean() <= 1 / len(train)
    assert (apart[len(train) :] > 1).all()


def test_statistics_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.train.worlds import samples

    whole = statistics(samples(100, 3))
    monkeypatch.setattr("ser_memory.train.bundles.writing._ROWS", 7)
    for one, other in zip(whole, statistics(samples(100, 3)), strict=True):
        assert one == pytest.approx(other, rel=1e-6)


def test_nothing_names_an_utterance_a_speaker_or_a_text(told: Told) -> None:
    files = [path for strategy in CARRIED for path in told.bundle(strategy).iterdir()]
    content = [path.read_bytes() for path in files]
    assert len(content) == len(CARRIED) * 4
    for path in told.caches.glob("*.h5"):
        cache = FeatureCache(path)
        names = {*cache.read("id"), *cache.read("speaker"), *cache.read("transcript")} - {"Unknown"}
        assert not [name for name in names for each in content if name.encode() in each]


def test_the_card_is_one_of_the_hub(told: Told) -> None:
    folder = told.bundle("gem")
    card, info = ModelCard.load(folder / CARD), read_info(folder)
    assert card.data.license == "other"
    assert card.data.language == "en"
    assert card.data.pipeline_tag == "audio-classification"
    assert {"gem", "speech-emotion-recognition"} <= set(card.data.tags or [])
    told_figures = [
        (each.dataset_name, each.dataset_split, each.metric_name, each.metric_value)
        for each in card.data.eval_results or []
    ]
    assert told_figures == [
        (
            each.corpus,
            each.split,
            f"{each.metric.upper()} of {each.dimension} (n={each.n})",
            round(each.value, 4),
        )
        for each in info.figures
        if each.split == "test"
    ]
    assert len(told_figures) == 3 * 2 * 2 - 4  # of two corpora, two dimensions and two measures


@pytest.fixture
def copied(told: Told, tmp_path: Path) -> Path:
    return Path(shutil.copytree(told.bundle("der++"), tmp_path / "bundle"))


def refusal(folder: Path) -> str:
    with pytest.raises(SerError) as caught:
        read_bundle(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def reconfigured(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change config.json, and make its digests fit again, as somebody with bad intent would."""
    content = json.loads((folder / CONFIG).read_text())
    change(content)
    for name in (MODEL, MEMORY):
        there = (folder / name).read_bytes()
        content["files"][name] = {"bytes": len(there), "sha256": sha256(there).hexdigest()}
    told = {name: value for name, value in content.items() if name != "checksum"}
    content["checksum"] = sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    (folder / CONFIG).write_text(json.dumps(content))


class TestChangedFiles:
    def test_a_cut_or_changed_file(self, copied: Path) -> None:
        for name in (MODEL, MEMORY):
            whole = (copied / name).read_bytes()
            (copied / name).write_bytes(whole[:-1])
            assert f"{name} has {len(whole) - 1} bytes instead of {len(whole)}" in refusal(copied)
            (copied / name).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            assert f"{name} was changed" in refusal(copied)
            (copied / name).write_bytes(whole)
        read_bundle(copied)
        (copied / MODEL).unlink()
        assert "cannot be read" in refusal(copied)

    def test_a_newer_format(self, copied: Path) -> None:
        reconfigured(copied, lambda content: content.update(format_version=FORMAT_VERSION + 1))
        assert "format version 2" in refusal(copied)

    def test_another_json(self, copied: Path) -> None:
        for text in ("[]", "{}", "", "{" * 100_000, '{"format": "other"}'):
            (copied / CONFIG).write_text(text)
            assert "config.json is not that of a bundle" in refusal(copied)

    def test_values_that_are_not_finite_in_a_memory(self, copied: Path) -> None:
        for name in ("1.samples.acoustic", "2.samples.text", "1.answers"):
            original = (copied / MEMORY).read_bytes()
            tensors = load(original)
            tensors[name].view(-1)[0] = torch.inf
            (copied / MEMORY).write_bytes(save(tensors))
            reconfigured(copied, lambda _: None)
            assert "not finite" in refusal(copied)
            (copied / MEMORY).write_bytes(original)

    def test_a_header_of_absurd_size(self, copied: Path) -> None:
        for length in (2**63, 2**40, 10**9):
            (copied / MODEL).write_bytes(struct.pack("<Q", length) + b"{}")
            reconfigured(copied, lambda _: None)
            assert "is not what this program writes" in refusal(copied)

    def test_a_file_outside_the_bundle_is_not_read(self, copied: Path) -> None:
        reconfigured(
            copied, lambda content: content["files"].update({"../../etc/passwd": {"bytes": 1, "sha256": ""}})
        )
        assert "files" in refusal(copied)

    @pytest.mark.parametrize(
        "change",
        [
            lambda told: told["bundle"]["architecture"].update(trunk_width=10**15),
            lambda told: told["bundle"]["architecture"].update(trunk_width=-1),
            lambda told: told["bundle"]["architecture"].update(heads=[]),
            lambda told: told["bundle"]["architecture"].update(
                heads=[{"dimension": "arousal", "text": True}]
            ),
            lambda told: told["bundle"].update(strategy="os.system"),
            lambda told: told["bundle"].update(seed="0"),
            lambda told: told["bundle"].update(seen=[]),
            lambda told: told["bundle"].update(code="import os"),
            lambda told: told["bundle"]["seen"][0].update(radius=0),
            lambda told: told["bundle"]["options"].update(der_alpha=-1),
            lambda told: told["bundle"].pop("encoders"),
            lambda told: told.pop("bundle"),
            lambda told: told.update(bundle=None),
        ],
    )
    def test_a_description_that_makes_no_sense(
        self, copied: Path, change: Callable[[dict[str, Any]], object]
    ) -> None:
        reconfigured(copied, change)
        assert "is not what this program writes" in refusal(copied)

    def test_mutations_end_in_a_sentence(self, told: Told, tmp_path: Path) -> None:
        assert mutated(told.bundle("prototype-replay"), tmp_path, 60) == 60
        assert mutated(told.bundle("analytic"), tmp_path, 20) == 20


def mutated(bundle: Path, folder: Path, times: int, seed: int = 0) -> int:
    """Change, cut or lengthen one of the files at random; returns the number of changes that ended in order."""
    random, found = np.random.default_rng(seed), 0
    for _ in range(times):
        shutil.rmtree(folder / "mutated", ignore_errors=True)
        shutil.copytree(bundle, folder / "mutated")
        path = folder / "mutated" / str(random.choice([CONFIG, MODEL, MEMORY]))
        content = bytearray(path.read_bytes())
        kind, place = random.integers(3), int(random.integers(len(content)))
        if kind == 0:
            content[place] ^= int(random.integers(1, 256))
        elif kind == 1:
            del content[place:]
        else:
            content[place:place] = random.bytes(8)
        before = json.loads((bundle / CONFIG).read_text())
        path.write_bytes(bytes(content))
        with suppress(SerError):
            read_bundle(folder / "mutated")
            assert json.loads(path.read_text()) == before  # white space between two values
        found += 1
    return found


def test_a_bundle_comes_back_as_it_was(told: Told, tmp_path: Path) -> None:
    for strategy in CARRIED:
        bundle = read_bundle(told.bundle(strategy))
        write_bundle(tmp_path / strategy, bundle, "a card")
        again = read_bundle(tmp_path / strategy)
        assert again.info == bundle.info
        assert again.checksum == bundle.checksum
        for name in (MODEL, MEMORY):
            assert (tmp_path / strategy / name).read_bytes() == (told.bundle(strategy) / name).read_bytes()
        assert not list(tmp_path.glob("*.partial"))


class TestWhatIsRefused:
    def sentence(self, told: Told, tmp_path: Path, *options: object, strategy: str = "gem") -> str:
        message = refused(adapt(told.last, told.bundles(strategy), tmp_path / "refused", *options), 2)
        assert not (tmp_path / "refused").exists()
        return message

    def test_strategies_without_what_they_need(self, told: Told, tmp_path: Path) -> None:
        assert "joint trains on all earlier corpora" in self.sentence(told, tmp_path, "--strategy", "joint")
        message = self.sentence(told, tmp_path, "--strategy", "ewc")
        assert "ewc needs parameters, importance of earlier corpora" in message
        assert "finetune, experience-replay, gem, a-gem, lwf" in message
        assert "cannot continue" in self.sentence(told, tmp_path, "--strategy", "analytic")
        message = self.sentence(told, tmp_path, "--stop-on", "memory")
        assert "without --stop-on" in message

    def test_contradictions(self, told: Told, tmp_path: Path) -> None:
        assert "no bundle of seed 7" in self.sentence(told, tmp_path, "--seed", 7)
        assert "no bundle of seed 2" in self.sentence(told, tmp_path, "--seeds", 3)
        assert "--dimensions activation contradicts" in self.sentence(
            told, tmp_path, "--dimensions", "activation"
        )
        assert "--label-scale observed contradicts" in self.sentence(
            told, tmp_path, "--label-scale", "observed"
        )
        assert "msp-improv already" in self.sentence(told, tmp_path / "x", "--stages", "msp-improv")
        assert "--study does not go with --from" in self.sentence(told, tmp_path, "--study", "heads")

    def test_another_strategy_that_finds_what_it_needs(self, told: Told, tmp_path: Path) -> None:
        result = adapt(told.last, told.bundles("der++"), tmp_path / "run", "--strategy", "gem", "--seed", 0)
        assert result.exit_code == 0, result.output
        assert {row["strategy"] for row in rows(tmp_path / "run")} == {"gem"}

    @pytest.mark.parametrize("strategy", ["finetune", "gem", "ewc"])
    def test_lwf_finds_what_it_needs_in_every_bundle(self, told: Told, tmp_path: Path, strategy: str) -> None:
        result = adapt(told.last, told.bundles(strategy), tmp_path / "run", "--strategy", "lwf", "--seed", 0)
        assert result.exit_code == 0, result.output
        assert {row["strategy"] for row in rows(tmp_path / "run")} == {"lwf"}

    def test_caches_of_other_encoders(self, told: Told, tmp_path: Path) -> None:
        shutil.copytree(told.last, tmp_path / "caches")
        with h5py.File(tmp_path / "caches" / "iemocap.h5", "a") as file:
            file.attrs["acoustic_revision"] = "r2"
        result = adapt(tmp_path / "caches", told.bundles("gem"), tmp_path / "run")
        message = refused(result, 1)
        assert "acoustic_revision: r2 instead of r1" in message
        assert "ser-extract --corpus iemocap --acoustic-encoder a --text-encoder t --overwrite" in message
        assert not (tmp_path / "run").exists()

    def test_a_folder_with_several_models_or_none(self, told: Told, tmp_path: Path) -> None:
        result = adapt(told.last, told.folder / "two", tmp_path / "run")
        assert f"has the bundles of {len(CARRIED)} models" in refused(result, 1)
        assert "There is no bundle in" in refused(adapt(told.last, tmp_path, tmp_path / "run"), 1)

    def test_options_that_need_bundles(self, told: Told) -> None:
        result = run("--cache", told.caches, "--estimate-size", 10)
        assert "--estimate-size has no effect: only --bundles writes a bundle" in refused(result, 2)
        result = run("--cache", told.caches, "--memory-budget", 10)
        assert "too small for 2 earlier corpora" in refused(result, 2)


def test_export_writes_the_same_bundles(told: Told) -> None:
    made = {
        path: path.read_bytes() for path in (told.folder / "two" / "bundles").rglob("*") if path.is_file()
    }
    # The finished stages of `run` are in a folder that is gone: nothing is trained again in silence.
    result = CliRunner().invoke(ser_bundle, ["export", str(told.folder / "two")])
    assert "are not finished" in refused(result, 2)
    continued = told.continued("gem")
    result = CliRunner().invoke(ser_bundle, ["export", str(continued), "--language", "de"])
    assert result.exit_code == 0, result.output
    assert read_info(continued / "bundles/gem-random-20/seed-0/stage-3").language == "de"
    assert made == {path: path.read_bytes() for path in made}


def test_describe_names_what_is_kept(told: Told) -> None:
    result = CliRunner().invoke(ser_bundle, ["describe", str(told.bundles("der++"))])
    assert result.exit_code == 0, result.output
    assert "der++ of seed 1 after P+M" in result.stdout
    assert [
        line.split() for line in result.stdout.splitlines() if line.strip().startswith("msp-podcast")
    ] == [["msp-podcast", "60", "1", "to", "7", "release", "20", "9"]] * 2


def test_what_a_bundle_describes_is_what_it_is(told: Told) -> None:
    bundle: Bundle = read_bundle(told.bundle("ewc"))
    assert replace(bundle.info, seen=bundle.info.seen) == bundle.info
    assert asdict(bundle.info)["training"]["epochs"] == 1
    assert set(bundle.info.seen[1].rated) <= set(RATED)


def test_paths_of_encoders_stay_where_they_are(tmp_path: Path) -> None:
    encoder = tmp_path / "jane.doe" / "wav2vec2"
    encoder.mkdir(parents=True)
    write_caches(
        tmp_path / "caches", acoustic_encoder=str(encoder), text_encoder="google-bert/bert-base-uncased"
    )
    made = ["--cache", tmp_path / "caches", "--strategy", "finetune", "--seed", 0, "--epochs", 1, "--bundles"]
    result = run(*made, "--stages", "msp-podcast", "--output", tmp_path / "run")
    assert result.exit_code == 0, result.output
    (folder,) = bundles_in(tmp_path / "run")
    assert not [path for path in folder.iterdir() if b"jane.doe" in path.read_bytes()]
    bundle = read_bundle(folder)
    assert bundle.info.encoders["acoustic_encoder"] == "wav2vec2"
    assert (place_of(bundle, "acoustic"), place_of(bundle, "text")) == (
        str(encoder),
        "google-bert/bert-base-uncased",
    )
    moved = read_bundle(Path(shutil.copytree(folder, tmp_path / "elsewhere" / "model")))
    assert place_of(moved, "acoustic") == "wav2vec2"


def test_export_of_a_run_whose_corpus_lacks_a_split_of_its_protocol(tmp_path: Path) -> None:
    """Early releases of MSP-Podcast have no Test3, which the protocol of its manifest names."""
    write_caches(tmp_path / "caches", protocol="release")
    made = ["--cache", tmp_path / "caches", "--strategy", "gem", "--seed", 0, "--epochs", 1, "--bundles"]
    result = run(*made, "--output", tmp_path / "run", trained=tmp_path / "trained")
    assert result.exit_code == 0, result.output
    before = {path: path.read_bytes() for path in (tmp_path / "run" / "bundles").rglob("*.json")}
    shutil.rmtree(tmp_path / "run" / "bundles")
    result = CliRunner().invoke(ser_bundle, ["export", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert before == {path: path.read_bytes() for path in before}


def test_a_folder_of_an_encoder_is_no_bundle(told: Told, tmp_path: Path) -> None:
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "config.json").write_text("{}")
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"")
    with pytest.raises(SerError, match="There is no bundle in"):
        bundles_in(tmp_path)
    message = refused(CliRunner().invoke(ser_bundle, ["export", str(told.bundle("gem"))]), 2)
    assert "is a bundle already" in message


def test_what_cannot_be_estimated_is_named(told: Told, tmp_path: Path) -> None:
    result = adapt(told.last, told.bundles("gem"), tmp_path / "run", "--seed", 0)
    assert "cannot be estimated" not in result.stderr
    bundle = read_bundle(told.bundle("gem"))
    write_bundle(tmp_path / "bundle", replace(bundle, estimates=(None, bundle.estimates[1])), "")
    result = adapt(told.last, tmp_path / "bundle", tmp_path / "other")
    assert result.exit_code == 0, result.output
    assert "What is forgotten of msp-podcast cannot be estimated" in result.stderr
