"""The command lines as documents: every option helps, every example parses, and help is quick to come."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from ser_memory.common import manifests
from ser_memory.extract.settings import ExtractionSettings
from ser_memory.train.memory.samplers import SAMPLERS
from ser_memory.train.objective import OBJECTIVES
from ser_memory.train.strategies import STRATEGIES
from tests.models import save_acoustic, save_text
from tests.releases import BUILDERS

PROJECT = Path(__file__).parent.parent
SCRIPTS: dict[str, str] = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["scripts"]
README = (PROJECT / "README.md").read_text()


def command(script: str) -> click.Command:
    module, _, function = SCRIPTS[script].partition(":")
    found = getattr(import_module(module), function)
    assert isinstance(found, click.Command)
    return found


def help_of(script: str) -> str:
    result = CliRunner().invoke(command(script), ["--help"], terminal_width=200)
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_option_has_help(script: str) -> None:
    options = [parameter for parameter in command(script).params if isinstance(parameter, click.Option)]
    assert options
    for option in options:
        assert option.help, f"{script} {option.name}"
        assert option.help.endswith((".", "]")), f"{script} {option.name}: {option.help}"


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_example_parses(script: str) -> None:
    examples = [
        line.strip() for line in help_of(script).partition("Examples:")[2].splitlines() if line.strip()
    ]
    assert examples
    for example in examples:
        name, *arguments = shlex.split(example)
        assert name == script
        command(script).make_context(script, arguments)


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_loads_no_heavy_package(script: str) -> None:
    module, _, function = SCRIPTS[script].partition(":")
    program = (
        f"import sys; sys.argv = ['{script}', '--help']\n"
        f"from {module} import {function} as main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'optuna', 'scipy', 'sklearn', 'soundfile', 'matplotlib', 'jinja2'}\n"
        "heavy |= {'fastapi', 'onnx'}\n"
        "heavy &= set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=PROJECT
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "module",
    ["common.options", "common.cache", "extract.api", "extract.settings", "train.api", "train.configuration",
     "train.results", "train.run_folder", "train.search_folder", "train.search_space", "train.strategies",
     "train.engines.contract"],
)  # fmt: skip
def test_what_is_free_of_torch_stays_so(module: str) -> None:
    """The contracts of import-linter look at each file; this, at everything that is loaded."""
    program = (
        f"import sys, ser_memory.{module}; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_help_names_what_can_be_chosen() -> None:
    shown = help_of("ser-train")
    for name in (*STRATEGIES, *SAMPLERS, *OBJECTIVES):
        assert name in shown, name


@pytest.mark.parametrize("line", [line for line in README.splitlines() if line.startswith("ser-")])
def test_the_readmes_commands_parse(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.toml").write_text('strategy = ["ewc", "gem:speaker"]\n')
    name, *arguments = shlex.split(line, comments=True)
    command(name).make_context(name, arguments)


def test_the_readmes_manifest_is_one(tmp_path: Path) -> None:
    (found,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "clinic.toml").write_text(found)
    manifest = manifests.load(str(tmp_path / "clinic.toml"))
    assert manifest.name == "clinic"
    (splits,) = manifest.protocol.assign(["x", "y"], {"speaker": ["anybody", "04"]}, [True, True], "clinic")
    assert list(splits) == ["test", "validation"]


def test_the_readmes_targets_exist() -> None:
    makefile = (PROJECT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_readmes_python_runs_as_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the environment is made for it: small releases in $SER_DATA, and encoders at the names of the defaults."""
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert [first.split()[0] for first in examples] == ["from", "import"]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SER_DATA", "corpora")
    monkeypatch.delenv("SER_CACHE", raising=False)
    # A machine of one core, which starts no worker processes.
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
    for corpus in ("msp-podcast", "iemocap"):
        BUILDERS[corpus](tmp_path / "corpora" / corpus)
    save_acoustic(Path(ExtractionSettings.acoustic_encoder), "wav2vec2 with group norm")
    save_text(Path(ExtractionSettings.text_encoder))
    soundfile.write(tmp_path / "interview.wav", np.random.default_rng(0).normal(0, 0.1, 16_000 * 35), 16_000)
    variables: dict[str, Any] = {}
    for example in examples:
        exec(example, variables)
    assert {result.strategy for result in variables["results"]} == {"finetune", "gem"}
    assert {result.stage_name for result in variables["results"]} == {"P", "P+I"}
    (rating,) = variables["ratings"]
    assert rating.spread.keys() == rating.values.keys() == {"activation", "valence"}
    assert len(rating.track) == 2  # windows of 35 s
    assert len(variables["ids"]) == len(variables["acoustic"]) == len(variables["activation"]) > 0
    assert "acoustic_encoder" in capsys.readouterr().out
