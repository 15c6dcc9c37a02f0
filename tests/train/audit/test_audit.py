"""The audit of whole bundles: attacks that must work do, and files that do not fit are refused in a sentence."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from ser_memory.common.cache import FeatureCache
from ser_memory.common.errors import SerError, UsageError
from ser_memory.common.reporting import Silent
from ser_memory.train.api import train
from ser_memory.train.audit.audit import Finding, audit
from ser_memory.train.bundle_files import bundles_in, read_bundle
from ser_memory.train.bundles.cli import main
from ser_memory.train.members import TRAINED_ON, Chosen, read_members, write_members
from ser_memory.train.runs import Run, Variant
from ser_memory.train.samples import Samples
from ser_memory.train.strategies import Kept
from tests.train.worlds import write_caches

STAGES = ["msp-podcast", "iemocap"]
STRATEGIES = ["experience-replay:speaker", "prototype-replay", "analytic", "finetune"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Caches, and a run with bundles."""
    folder = tmp_path_factory.mktemp("audit")
    write_caches(folder / "cache")
    train(
        cache=folder / "cache", trained=folder / "trained", output=folder / "run", stages=STAGES, seeds=1, epochs=2,
        strategy=STRATEGIES, memory_size=20, bundles=True, estimate_size=10, stop_on="memory", memory_bits="8",
        memory_noise=0.01, predictions="none", jobs=1, reporter=Silent(),
    )  # fmt: skip
    return folder


def bundle_of(world: Path, strategy: str, stage: int = 2) -> Path:
    (folder,) = (world / "run" / "bundles").glob(f"{strategy}*/seed-0/stage-{stage}")
    return folder


def found(
    world: Path, strategy: str, corpus: str = "msp-podcast", before: bool = False
) -> dict[tuple[str, str], Finding]:
    earlier = read_bundle(bundle_of(world, strategy, 1)) if before else None
    bundle, cache = read_bundle(bundle_of(world, strategy)), world / "cache" / f"{corpus}.h5"
    made = audit(bundle, cache, world / "run" / "members.csv", before=earlier)
    return {(each.what, each.attack): each for each in made.findings}


def test_rows_of_a_memory_and_of_estimates_are_found(world: Path) -> None:
    """8 bits and little noise do not hide them."""
    made = found(world, "experience-replay")
    for what, members, others in (("memory", 20, 40), ("estimates", 10, 15)):
        row = made[what, "nearest row, acoustic"]
        assert (row.members, row.others) == (members, others)
        assert row.auc.value > 0.99
        assert row.found.value > 0.8
        assert row.named is not None
        assert row.named.value > 0.8
    assert {attack for what, attack in made if what == "speakers"} == {
        "nearest row",
        "nearest mean of a code",
    }
    assert not any(what in ("sums", "prototypes") for what, _ in made)


def test_members_are_listed_in_the_order_of_the_bundle(world: Path) -> None:
    """Also the fifth that is held out; noise is small, so that every row is near its own utterance."""
    bundle, cache = (
        read_bundle(bundle_of(world, "experience-replay")),
        FeatureCache(world / "cache/iemocap.h5"),
    )
    variant = Variant("experience-replay", "speaker", 20)
    listed = read_members(world / "run/members.csv", "iemocap", variant, seed=0, stage=2)
    places = {name: row for row, name in enumerate(cache.read("id"))}
    kept, deviation = bundle.kept[1], cache.read("acoustic").std(axis=0)
    for use, part in ((TRAINED_ON, kept.samples), ("held out", kept.held_out)):
        assert part is not None
        true = cache.read("acoustic")[[places[name] for name in listed[use]]]
        assert (np.abs(part.acoustic.numpy() - true) < 0.1 * deviation).all()
    assert [len(listed[use]) for use in (TRAINED_ON, "held out", "measured")] == [16, 4, 10]


def test_statistics_are_attacked_where_they_are_kept(world: Path) -> None:
    sums, prototypes = found(world, "analytic"), found(world, "prototype-replay")
    assert {attack for what, attack in sums if what == "sums"} == {"outside the span", "leverage"}
    assert sums["sums", "leverage"].members == 60
    assert sums["sums", "leverage"].between_others is not None
    named = {attack for what, attack in prototypes if what == "prototypes"}
    assert named == {"distance to a cell's subspace", "Mahalanobis in the subspace"}
    assert not any(what == "memory" for what, _ in [*sums, *prototypes])


def test_two_bundles_reveal_what_is_new(world: Path) -> None:
    made = found(world, "analytic", "iemocap", before=True)
    whole, difference = made["sums", "leverage"], made["sums, difference of two bundles", "leverage"]
    assert difference.auc.value >= whole.auc.value - 0.02  # fewer rows, each counts for more
    assert ("model, two bundles", "errors that became smaller") in made


def test_what_was_audited_is_told_where_there_is_no_memory(world: Path) -> None:
    bundle = read_bundle(bundle_of(world, "finetune"))
    without = replace(bundle, estimates=(None, None))
    made = audit(without, world / "cache/msp-podcast.h5")
    assert "keeps no utterance, only parameters" in made.audited
    assert {each.what for each in made.findings} == {
        "model", "mean and variance", "quantile of distances", "mean of texts",
    }  # fmt: skip
    assert sum(made.tensors.values()) < (bundle.folder / "model.safetensors").stat().st_size + 3000


def test_a_memory_of_a_whole_corpus_is_compared_with_test_rows(world: Path, tmp_path: Path) -> None:
    path = world / "cache/msp-podcast.h5"
    bundle, cache = read_bundle(bundle_of(world, "experience-replay")), FeatureCache(path)
    rows = np.flatnonzero(cache.read("split") == "train")
    labels = torch.zeros(len(rows), 2)
    acoustic, text = (torch.from_numpy(cache.read(name)[rows]) for name in ("acoustic", "text"))
    whole = Kept(Samples(acoustic, text, torch.arange(len(rows)), labels, torch.arange(len(rows))))
    run = Run(Variant("experience-replay", "speaker", 20), 0)
    chosen = [Chosen(run, 2, "msp-podcast", TRAINED_ON, rows)]
    write_members(tmp_path / "members.csv", chosen, lambda _: cache.read("id").tolist())
    larger = replace(bundle, kept=(whole, bundle.kept[1]), estimates=(None, None))
    made = audit(larger, path, tmp_path / "members.csv")
    assert made.findings[0].compared_with == "test rows"
    assert made.findings[0].found.value == 1
    assert "0 other training recordings of them" in made.notes[0]


def test_variants_are_the_same_utterances_heard_elsewhere(world: Path, tmp_path: Path) -> None:
    (tmp_path / "mp3.h5").write_bytes((world / "cache/msp-podcast.h5").read_bytes())
    bundle, cache = read_bundle(bundle_of(world, "experience-replay")), world / "cache/msp-podcast.h5"
    members = world / "run/members.csv"
    made = audit(bundle, cache, members, variants={"mp3": tmp_path / "mp3.h5"}).findings
    same = {each for each in made if each.recordings == "mp3"}
    assert {replace(each, recordings="as extracted") for each in same} == set(made) - same
    with pytest.raises(SerError, match="have no id in common: --variant mp3"):
        audit(bundle, cache, members, variants={"mp3": world / "cache/iemocap.h5"})


def test_files_that_do_not_fit_are_refused(world: Path, tmp_path: Path) -> None:
    bundle, cache = read_bundle(bundle_of(world, "experience-replay")), world / "cache/msp-podcast.h5"
    members = world / "run/members.csv"
    with pytest.raises(
        UsageError, match="keeps 30 utterances of msp-podcast: say which they are with --members"
    ):
        audit(bundle, cache)
    with pytest.raises(SerError, match=r"learned from msp-podcast, iemocap, and not from msp-improv"):
        audit(bundle, world / "cache/msp-improv.h5", members)
    with pytest.raises(SerError, match=r"lists no utterance of msp-podcast .* and seed 7"):
        audit(replace(bundle, info=replace(bundle.info, seed=7)), cache, members)
    other = tmp_path / "members.csv"
    other.write_text(members.read_text().replace("msp-podcast-", "clinic-"))
    with pytest.raises(SerError, match=r"names 16 utterances that .* does not have \(clinic-"):
        audit(bundle, cache, other)
    other.write_text("\n".join(members.read_text().splitlines()[:2]))
    with pytest.raises(SerError, match=r"lists no utterance of msp-podcast|lists 1 utterances of"):
        audit(bundle, cache, other)
    other.write_text("id\nx\n")
    with pytest.raises(SerError, match="has no column strategy"):
        audit(bundle, cache, other)
    write_caches(tmp_path / "other", acoustic_revision="r2")
    with pytest.raises(SerError, match=r"other encoders than the bundle's \(acoustic_revision: r2, and r1"):
        audit(bundle, tmp_path / "other/msp-podcast.h5", members)
    write_caches(tmp_path / "larger", {"train": 61, "validation": 20, "test": 25})
    with pytest.raises(SerError, match=r"learned from 60 training utterances of msp-podcast, and .* has 61"):
        audit(bundle, tmp_path / "larger/msp-podcast.h5", members)
    with pytest.raises(UsageError, match="has learned from msp-podcast too: give an earlier one"):
        audit(bundle, cache, members, before=read_bundle(bundle_of(world, "experience-replay", 1)))


def test_the_command_prints_a_table_json_and_csv(world: Path, tmp_path: Path) -> None:
    (folder,) = bundles_in(bundle_of(world, "experience-replay"))
    arguments = [
        "audit",
        str(folder),
        str(world / "cache/iemocap.h5"),
        "--members",
        str(world / "run/members.csv"),
    ]
    table = CliRunner().invoke(main, arguments)
    assert table.exit_code == 0
    assert re.search(
        r"memory +nearest row, text +as extracted +20 +40 unchosen training rows +\d", table.output
    )
    assert re.search(r"2\.samples\.acoustic\.codes +96\n", table.output)
    told = json.loads(CliRunner().invoke(main, [*arguments, "--format", "json"]).output)
    assert told["tensors"]["2.samples.acoustic.codes"] == 96
    assert (
        CliRunner()
        .invoke(main, [*arguments, "--format", "csv", "--output", str(tmp_path / "a.csv")])
        .exit_code
        == 0
    )
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert len(rows) == len(told["findings"])
    assert float(rows[0]["auc_low"]) == pytest.approx(told["findings"][0]["auc"]["low"])
    assert CliRunner().invoke(main, [*arguments, "--output", str(tmp_path / "a.txt")]).exit_code == 0
    assert (tmp_path / "a.txt").read_text() == table.output
    wrong = CliRunner().invoke(main, [*arguments, "--variant", "mp3"])
    assert wrong.exit_code == 2
    assert "must be NAME=CACHE" in wrong.output


def test_training_from_a_bundle_of_noisy_bytes_goes_on_as_in_one_go(world: Path, tmp_path: Path) -> None:
    run = train(
        cache=world / "cache", trained=tmp_path / "trained", output=tmp_path / "run", stages=["iemocap"], bundles=True,
        from_=bundle_of(world, "experience-replay", 1), estimate_size=10, predictions="none", jobs=1, reporter=Silent(),
    )  # fmt: skip
    (folder,) = (run.folder / "bundles").glob("*/seed-0/stage-2")
    for name in ("model.safetensors", "memory.safetensors"):
        assert (folder / name).read_bytes() == (bundle_of(world, "experience-replay") / name).read_bytes()
    # The new run does not know what the bundle holds: of the first corpus, the file of the earlier run tells.
    bundle, cache = read_bundle(folder), world / "cache/msp-podcast.h5"
    with pytest.raises(SerError, match="lists no utterance of msp-podcast"):
        audit(bundle, cache, run.folder / "members.csv")
    assert audit(bundle, cache, world / "run/members.csv").findings[0].found.value > 0.8
