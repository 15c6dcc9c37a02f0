"""The tutorial, run as it is written."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

TUTORIAL = Path(__file__).parents[2] / "TUTORIAL.md"


def test_every_command_of_the_tutorial_works_as_written(tmp_path: Path) -> None:
    blocks = re.findall(r"^```(sh|python)\n(.*?)^```$", TUTORIAL.read_text(), re.DOTALL | re.MULTILINE)
    assert [kind for kind, _ in blocks] == ["sh"] * 5 + ["python"]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    output = []
    for kind, text in blocks:
        program = ["bash", "-euo", "pipefail", "-c", text] if kind == "sh" else [sys.executable, "-c", text]
        made = subprocess.run(
            program,
            cwd=tmp_path,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, f"{text}\n{made.stdout}\n{made.stderr}"
        assert "Traceback" not in made.stderr
        output.append(made.stdout)
    described, adapted, rated, from_python = output[0], output[3], output[4], output[5]
    assert "experience-replay of seed 1 after P+M" in described
    assert "P+M+clinic" in adapted
    assert "Estimated CCC of activation" in adapted
    with (tmp_path / "ratings.csv").open() as file:
        ratings = list(csv.DictReader(file))
    assert len(ratings) == len(list((tmp_path / "clinic" / "audio").glob("*.wav")))
    assert "Ratings from 1 to 5" in rated
    assert "Ses05F_impro01_F000.wav {'activation':" in from_python
