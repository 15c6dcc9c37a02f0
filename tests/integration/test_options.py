"""An option is declared once, with what it belongs to."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.train.test_cli import QUICK, caches, rows

assert caches  # the fixture

STRATEGY = """
from dataclasses import dataclass

from ser_memory.common.options import Options, option
from ser_memory.train.strategies.base import GradientStrategy


@dataclass(frozen=True)
class ShrinkOptions(Options):
    title = "Strategy shrink"

    shrink_by: float = option(0.5, minimum=0, maximum=1, help="What is left of every gradient.")


class Shrink(GradientStrategy):
    options = (ShrinkOptions,)

    def __init__(self, stage, options):
        super().__init__(stage)
        self._by = options.shrink_by

    def adjust(self, parameters, gradient):
        return gradient.mul_(self._by) if self.stage.kept else gradient
"""

PROGRAM = """
import sys
from ser_memory.train.strategies import STRATEGIES
from shrink import Shrink

STRATEGIES["shrink"] = Shrink  # the line of the registry

from ser_memory.train.cli import main
main()
"""


def command(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    (folder / "shrink.py").write_text(STRATEGY)
    (folder / "program.py").write_text(PROGRAM)
    line = [sys.executable, str(folder / "program.py"), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120)


def test_a_strategy_with_an_option_is_one_file_and_one_line(caches: Path, tmp_path: Path) -> None:
    shown = command(tmp_path, "--help").stdout
    assert "Strategy shrink:\n  --shrink-by FLOAT RANGE" in shown
    assert "What is left of every gradient.  [default: 0.5;" in " ".join(shown.split()).replace("[", " [")

    def trained(name: str, *more: object) -> Path:
        done = command(
            tmp_path, *QUICK[:6], *QUICK[8:], "--cache", caches, "--seed", 0, "--strategy", "shrink", *more,
            "--trained", tmp_path / "t", "--output", tmp_path / name,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return tmp_path / name

    (tmp_path / "mine.toml").write_text("shrink-by = 0.0\n")
    typed = trained("a", "--experiment", tmp_path / "mine.toml")
    assert rows(typed) != rows(trained("b"))
    config = json.loads((typed / "config.json").read_text())
    assert config["experiment"]["options"] == {"shrink": {"shrink_by": 0.0}}
    refused = command(tmp_path, "--shrink-by", 2)
    assert refused.returncode == 2
    assert "Invalid value for '--shrink-by': 2.0 is not in the range 0<=x<=1." in refused.stderr
