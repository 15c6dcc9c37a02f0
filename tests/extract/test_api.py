"""ser-extract from Python: the same options, checks and results as the command."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ser_memory.common.cache import FeatureCache
from ser_memory.common.errors import SerError, UsageError
from ser_memory.common.options import names_of
from ser_memory.common.reporting import Advance, Silent
from ser_memory.extract.api import extract
from ser_memory.extract.cli import main
from ser_memory.extract.settings import GROUPS, ExtractionSettings
from tests.models import save_acoustic, save_text
from tests.releases import BUILDERS


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The arguments of an extraction, paths as text."""
    folder = tmp_path_factory.mktemp("world")
    truth = BUILDERS["iemocap"](folder / "release")
    acoustic, text = (
        save_acoustic(folder / "acoustic", "wav2vec2 with group norm"),
        save_text(folder / "text"),
    )
    return {
        "corpus": truth.corpus,
        "root": str(folder / "release"),
        "acoustic_encoder": acoustic,
        "text_encoder": text,
    }


class Listener:
    """Keeps all reports."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.labels: list[str] = []

    def notice(self, line: str) -> None:
        self.lines.append(line)

    def progress(
        self, label: str, total: float, unit: str, done: float = 0.0
    ) -> AbstractContextManager[Advance]:
        self.labels.append(label)
        return nullcontext(lambda _: None)


def test_its_options_are_the_commands() -> None:
    options = {option.name for option in main.params} - {"corpus", "version"}
    assert options == vars(ExtractionSettings()).keys() == set(names_of(*GROUPS))
    with pytest.raises(UsageError, match="There is no option 'encoder': the options are root, protocol"):
        extract("iemocap", encoder="models/wav2vec2")


def test_it_makes_the_commands_cache_and_reports_to_the_caller(
    world: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listener = Listener()
    cache = extract(**world, cache=str(tmp_path / "api"), reporter=listener)
    assert isinstance(cache, FeatureCache)
    assert cache.path == tmp_path / "api" / "iemocap.h5"
    assert listener.labels == [
        "IEMOCAP: reading headers",
        "IEMOCAP: encoding",
        "IEMOCAP: encoding transcripts",
    ]
    extract(**world, cache=tmp_path / "api", reporter=listener)
    assert "already has this content" in listener.lines[-1]
    captured = capsys.readouterr()
    assert "IEMOCAP" not in captured.out + captured.err

    arguments = [part for name, value in world.items() for part in (f"--{name.replace('_', '-')}", value)]
    result = CliRunner().invoke(main, [*arguments, "--cache", str(tmp_path / "command")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "command" / "iemocap.h5").read_bytes() == cache.path.read_bytes()


def test_in_a_thread_and_beside_an_event_loop(world: dict[str, Any], tmp_path: Path) -> None:
    made: list[FeatureCache] = []

    def work() -> None:
        made.append(extract(**world, cache=tmp_path / "thread", reporter=Silent()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    async def notebook() -> None:
        made.append(extract(**world, cache=tmp_path / "loop", reporter=Silent()))

    asyncio.run(notebook())
    assert made[0].path.read_bytes() == made[1].path.read_bytes()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"workers": 0}, "--workers 0 must be at least 1."),
        ({"limit": 1.5}, "--limit 1.5 must be a whole number."),
        ({"pooling": "max"}, "--pooling 'max' must be one of mean, mean[+]std."),
        ({"precision": "float16"}, "--precision 'float16' must be one of float32, bfloat16."),
        ({"min_duration": 40}, "--min-duration 40 exceeds --max-duration 30."),
        ({"max_duration": float("inf")}, r"--max-duration inf must be at most 3e\+38."),
        ({"concurrency": 65}, "--concurrency 65 must be at least 1 and at most 64."),
        ({"transcriber": "nobody"}, "There is no transcriber 'nobody'"),
        ({"device": "tpu"}, "Device 'tpu' is not available here"),
        ({"root": "/nowhere"}, "There is no folder /nowhere"),
    ],
)
def test_its_checks_are_the_commands(
    wrong: dict[str, Any], says: str, world: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=says):
        extract(**(world | wrong), cache=tmp_path)


def test_the_price_of_the_environment(
    world: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SER_PRICE_PER_HOUR", "cheap")
    with pytest.raises(UsageError, match=r"\$SER_PRICE_PER_HOUR is 'cheap': it must be a number"):
        extract(**world, cache=tmp_path)
    monkeypatch.setenv("SER_PRICE_PER_HOUR", "-1")
    with pytest.raises(UsageError, match=r"--price-per-hour -1\.0 must be at least 0"):
        extract(**world, cache=tmp_path)


def test_a_release_without_a_usable_utterance(world: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(SerError, match="can be used"):
        extract(**world, cache=tmp_path, min_duration=1000, max_duration=2000, reporter=Silent())


def test_importing_it_loads_no_heavy_package() -> None:
    program = (
        "import sys; from ser_memory.extract.api import extract; "
        "sys.exit(str({'torch', 'transformers', 'soundfile'} & set(sys.modules) or '') or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
