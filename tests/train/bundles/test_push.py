"""ser-bundle push, through real HTTP to a local server with the hub's protocol, and back."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from huggingface_hub import constants, snapshot_download

from ser_memory.train.api import load
from ser_memory.train.bundle import Bundle
from ser_memory.train.bundle_files import FILES, MODEL, read_bundle, write_bundle
from ser_memory.train.bundles.card import card_of
from ser_memory.train.bundles.cli import main
from ser_memory.train.samples import UNKNOWN_SPEAKER, Samples
from tests.bundles import untrained
from tests.hub_server import TOKEN, Hub, serving
from tests.models import save_acoustic, save_text

NAME = "me/emotion"


def written(bundle: Bundle, folder: Path) -> Path:
    write_bundle(folder, bundle, card_of(bundle.info))
    return folder


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("encoders")
    return untrained(
        save_acoustic(folder / "acoustic", "wav2vec2 with group norm"), save_text(folder / "text")
    )


@pytest.fixture
def folder(bundle: Bundle, tmp_path: Path) -> Path:
    return written(bundle, tmp_path / "bundle")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving(Hub()) as made:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr(constants, "ENDPOINT", made.endpoint)
        template = made.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)  # for downloads
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield made


def push(*arguments: object) -> Result:
    result = CliRunner().invoke(main, ["push", *map(str, arguments)])
    assert TOKEN not in result.output
    return result


def refused(result: Result, code: int = 1) -> str:
    """The one sentence or two of a refusal."""
    assert result.exit_code == code, result.output
    assert isinstance(result.exception, SystemExit), result.exception
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    return line


def content(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


def pushed(hub: Hub) -> list[dict[str, bytes]]:
    """What each commit but the first has of bundles."""
    commits = hub.repositories[NAME].commits[1:]
    return [{name: each.files[name] for name in FILES if name in each.files} for each in commits]


def test_a_pushed_bundle_comes_back_and_predicts(
    hub: Hub, folder: Path, bundle: Bundle, tmp_path: Path
) -> None:
    (folder / "members.csv").write_text("corpus,id\n")
    result = push(folder, NAME, "--yes")
    assert result.exit_code == 0, result.output
    assert f"{hub.endpoint}/me/emotion has finetune of seed 0 after P+M, commit" in result.stdout
    assert "only those with access to it can see it" in result.stdout
    assert "0 rows of utterances (msp-podcast 0, msp-improv 0)" in result.stderr
    assert "not anonymous: see ser-bundle audit" in result.stderr
    repository = hub.repositories[NAME]
    assert repository.private
    assert pushed(hub) == [content(folder)]
    assert set(repository.files) == {*FILES, ".gitattributes"}
    back = snapshot_download(NAME, endpoint=hub.endpoint, token=TOKEN, cache_dir=tmp_path / "hub")
    assert read_bundle(Path(back)).checksum == read_bundle(folder).checksum
    noise = np.random.default_rng(0).normal(0, 0.1, 16_000 * 4).astype(np.float32)
    there, here = (load(each, device="cpu").predict([noise])[0].values for each in (back, folder))
    assert there == here


def test_what_has_rows_says_how_many(hub: Hub, bundle: Bundle, tmp_path: Path) -> None:
    shapes = bundle.info.architecture
    embeddings = torch.zeros(7, shapes.acoustic_width), torch.zeros(7, shapes.text_width)
    targets, speakers = torch.zeros(7, len(bundle.info.dimensions)), torch.full((7,), UNKNOWN_SPEAKER)
    rows = Samples(*embeddings, torch.arange(7), targets, speakers)
    folder = written(replace(bundle, estimates=(None, rows)), tmp_path / "bundle")
    assert "7 rows of utterances (msp-podcast 0, msp-improv 7)" in push(folder, NAME, "--yes").stderr


def test_another_bundle_replaces_it_in_one_commit(
    hub: Hub, folder: Path, bundle: Bundle, tmp_path: Path
) -> None:
    push(folder, NAME, "--yes")
    again = push(folder, NAME, "--yes")
    assert again.exit_code == 0
    assert "has finetune of seed 0 after P+M already" in again.stdout
    changed = replace(
        bundle, parameters=torch.zeros_like(bundle.parameters), info=replace(bundle.info, seed=1)
    )
    other = written(changed, tmp_path / "other")
    assert push(other, NAME, "--yes").exit_code == 0
    assert pushed(hub) == [content(folder), content(other)]


class TestRefused:
    def test_before_any_request(
        self, hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert "add --yes to agree to the publication" in refused(push(folder, NAME), 2)
        assert "give USER/NAME" in refused(push(folder, "emotion", "--yes"), 2)
        assert "Cannot have -- or .." in refused(push(folder, "me/a--b", "--yes"), 2)
        for seed in range(2):
            shutil.copytree(folder, tmp_path / "seeds" / f"seed-{seed}" / "stage-2")
        message = refused(push(tmp_path / "seeds", NAME, "--yes"))
        assert "has 2 bundles: name one of them, such as" in message
        assert "seed-0" in message
        with (folder / MODEL).open("r+b") as file:
            file.seek(-1, 2)
            file.write(b"\1")
        assert MODEL in refused(push(folder, NAME, "--yes"))
        assert hub.requests == []

    def test_without_a_token(
        self, hub: Hub, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
        assert "There is no token of the hub" in refused(push(folder, NAME, "--yes"))
        assert hub.requests == []

    def test_where_everybody_can_see_it(self, hub: Hub, folder: Path) -> None:
        hub.create(NAME, private=False)
        assert "everybody can see it: add --public" in refused(push(folder, NAME, "--yes"), 2)
        assert pushed(hub) == []
        assert not hub.storage
        assert "everybody can see it." in push(folder, NAME, "--public", "--yes").stdout
        assert pushed(hub) == [content(folder)]

    def test_a_private_repository_stays_so(self, hub: Hub, folder: Path) -> None:
        hub.create(NAME, private=True)
        assert "only those with access" in push(folder, NAME, "--public", "--yes").stdout

    @pytest.mark.parametrize(
        ("at", "status", "words"),
        [
            ("create", 401, ["status 401 (It is a 401): log in with", "It was not changed."]),
            ("create", 403, ["use a token that may write there", "It was not changed."]),
            ("create", 404, ["check the name of the repository, and HF_ENDPOINT"]),
            ("create", 503, ["failed with status 503 (It is a 503): try it later. Nothing was sent."]),
            ("create", -1, ["could not be used (Server disconnected", "Nothing was sent."]),
            ("preupload", 403, ["use a token that may write there"]),
            ("storage", 403, ["status 403"]),
            ("commit", 500, ["status 500", "has what it had before, or the whole bundle"]),
            ("commit", 429, ["refused me/emotion with status 429"]),
        ],
    )
    def test_by_the_hub(
        self,
        hub: Hub,
        folder: Path,
        bundle: Bundle,
        tmp_path: Path,
        at: str,
        status: int,
        words: Sequence[str],
    ) -> None:
        push(folder, NAME, "--yes")
        hub.fault = lambda request: status if at in request or (at, request[:3]) == ("create", "GET") else 0
        changed = replace(bundle, parameters=torch.zeros_like(bundle.parameters))
        message = refused(push(written(changed, tmp_path / "other"), NAME, "--yes"))
        for each in words:
            assert each in message
        assert pushed(hub) == [content(folder)]

    def test_if_another_commit_comes_first(self, hub: Hub, folder: Path) -> None:
        repository = hub.create(NAME, private=True)

        def meanwhile(request: str) -> int:
            if "preupload" in request:
                repository.commit("of somebody else", {"README.md": b"other"})
            return 0

        hub.fault = meanwhile
        assert "somebody else changed the repository meanwhile" in refused(push(folder, NAME, "--yes"))
        assert repository.files["README.md"] == b"other"
        assert MODEL not in repository.files

    def test_of_another_user(self, hub: Hub, folder: Path) -> None:
        assert "the namespace" in refused(push(folder, "you/emotion", "--yes"))
        assert not hub.repositories

    def test_where_nothing_listens(self, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
        message = refused(push(folder, NAME, "--yes"))
        assert "Connection refused" in message
        assert "check the connection and HF_ENDPOINT. Nothing was sent." in message


def test_a_reply_that_is_lost_leaves_the_whole_bundle(hub: Hub, folder: Path) -> None:
    hub.fault = lambda request: -1 if "/commit/" in request else 0
    assert "the whole bundle: run the same command again" in refused(push(folder, NAME, "--yes"))
    assert pushed(hub) == [content(folder)]
    hub.fault = lambda request: 0
    assert "already" in push(folder, NAME, "--yes").stdout
    assert len(pushed(hub)) == 1
