"""ser-bundle push as a person calls it: a question on a terminal, a hub of the environment, and Ctrl-C while it sends."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ser_memory.train.bundle_files import FILES, write_bundle
from ser_memory.train.bundles.card import card_of
from tests.bundles import untrained
from tests.hub_server import TOKEN, Hub, serving
from tests.models import save_acoustic, save_text

NAME = "me/emotion"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    encoders = save_acoustic(folder / "acoustic", "wav2vec2 with group norm"), save_text(folder / "text")
    bundle = untrained(*encoders)
    write_bundle(folder / "bundle", bundle, card_of(bundle.info))
    return folder / "bundle"


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving(Hub()) as made:
        yield made


@contextmanager
def pushing(
    hub: Hub, folder: Path, *options: str, stdin: int = subprocess.DEVNULL
) -> Iterator[subprocess.Popen[str]]:
    environment = {
        **os.environ, "HF_ENDPOINT": hub.endpoint, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(folder.parent),
    }  # fmt: skip
    command = [sys.executable, "-m", "ser_memory.train.bundles.cli", "push", str(folder), NAME, *options]
    with subprocess.Popen(
        command, env=environment, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        yield process


def test_it_asks_at_a_terminal(hub: Hub, folder: Path) -> None:
    for answer, code, words in (
        ("n", 1, "Error: You did not agree to the publication"),
        ("y", 0, "Publish it?"),
    ):
        keyboard, terminal = pty.openpty()
        with pushing(hub, folder, stdin=terminal) as process:
            os.write(keyboard, f"{answer}\n".encode())
            output, errors = process.communicate(timeout=120)
        os.close(keyboard)
        os.close(terminal)
        assert process.returncode == code, errors
        assert words in errors
        assert (hub.requests == []) == (answer == "n")
    assert f"{hub.endpoint}/{NAME} has finetune of seed 0 after P+M" in output
    files = hub.repositories[NAME].files
    assert {name: files[name] for name in FILES} == {name: (folder / name).read_bytes() for name in FILES}


def test_an_interruption_publishes_nothing(hub: Hub, folder: Path) -> None:
    sending, go_on = threading.Event(), threading.Event()

    def slow(request: str) -> int:
        if request.startswith("PUT"):
            sending.set()
            go_on.wait(60)
        return 0

    hub.fault = slow
    with pushing(hub, folder, "--yes") as process:
        assert sending.wait(120)
        process.send_signal(signal.SIGINT)
        go_on.set()
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "Error: Interrupted. me/emotion has what it had before" in errors
    assert "Traceback" not in errors
    assert TOKEN not in errors
    assert set(hub.repositories[NAME].files) == {".gitattributes"}
    assert not any("/commit/" in request for request in hub.requests)
