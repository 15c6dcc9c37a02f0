"""Whole trainings: every figure follows from the predictions, and neither processes nor other runs change a result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from ser_memory.train.predictions import Predictions
from tests.train.test_cli import rows, run
from tests.train.test_folds import SESSIONS, caches
from tests.train.test_predictions import STRATEGY, recomputed
from tests.train.test_resume import ALL
from tests.train.worlds import STAGES

assert caches  # the fixture


@pytest.mark.parametrize("protocol", [[], SESSIONS])
def test_all_figures_follow_from_the_predictions_alone(
    protocol: list[str], caches: Path, tmp_path: Path
) -> None:
    seeds, folds = (1, 5) if protocol else (2, 1)
    command = ["--cache", caches, "--seeds", seeds, *STRATEGY, *protocol]
    result = run(*command, "--output", tmp_path / "r", trained=tmp_path / "t")
    assert result.exit_code == 0, result.output
    figures = 3 * seeds * 3 * 4 * (2 * 3 * folds + (2 if protocol else 0))
    assert recomputed(tmp_path / "r") == figures
    found = Predictions(tmp_path / "r")
    assert found.stages == STAGES
    assert len(found.runs) == 3 * seeds * folds
    with h5py.File(tmp_path / "r/predictions.h5") as file, h5py.File(caches / "iemocap.h5") as cache:
        assert dict(file.attrs).items() >= {"format": "ser-predictions", "format_version": 1}.items()
        assert json.loads(file.attrs["dimensions"]) == ["activation", "valence"]
        assert file["runs"].dtype.names == ("strategy", "sampler", "memory_size", "seed", "fold")
        group = file["iemocap/test"]
        n = 105 if protocol else 21
        assert {name: group[name].shape for name in group} == {
            **dict.fromkeys(("id", "speaker", "gender"), (n,)), "truth": (n, 2),
            **{f"stage-{stage}": (3 * seeds * folds, n, 2) for stage in (1, 2, 3)},
        }  # fmt: skip
        assert {group[name].dtype for name in ("truth", "stage-1")} == {np.dtype(np.float32)}
        ids = list(cache["id"].asstr()[:])
        wanted = [ids.index(name) for name in group["id"].asstr()[:]]
        assert wanted == sorted(wanted)
        for name in ("speaker", "gender"):
            assert list(group[name].asstr()[:]) == list(cache[name].asstr()[:][wanted])
        np.testing.assert_allclose(group["truth"][:, 1], (cache["valence"][:][wanted] - 3) / 2, atol=1e-6)
        # Each is tested once by every variant and seed.
        assert np.isfinite(group["stage-3"][:]).sum() == 3 * seeds * 2 * n
    # Nothing is trained and nothing written for the same again; a folder without the file gets the same bytes.
    before = (tmp_path / "r/predictions.h5").read_bytes()
    (tmp_path / "r/predictions.h5").unlink()
    assert run(*command, "--output", tmp_path / "r", trained=tmp_path / "t").exit_code == 0
    assert (tmp_path / "r/predictions.h5").read_bytes() == before
    written = (tmp_path / "r/predictions.h5").stat().st_mtime_ns
    assert run(*command, "--output", tmp_path / "r", trained=tmp_path / "t").exit_code == 0
    assert (tmp_path / "r/predictions.h5").stat().st_mtime_ns == written
    if protocol:  # processes train all folds, and come to the same
        assert run(*command, "--output", tmp_path / "other", "--jobs", 2).exit_code == 0
        for name in ("results.csv", "memory.csv", "predictions.h5", "epochs.csv"):
            assert (tmp_path / "other" / name).read_bytes() == (tmp_path / "r" / name).read_bytes()


def test_seeds_do_not_depend_on_each_other_nor_strategies(caches: Path, tmp_path: Path) -> None:
    strategies = ("finetune", "gem", "experience-replay", "der++", "ewc", "joint")
    asked = [word for strategy in strategies for word in ("--strategy", strategy)]
    assert run("--cache", caches, "--seeds", 3, *asked, "--output", tmp_path / "all").exit_code == 0
    together = rows(tmp_path / "all")
    apart = []
    for strategy in strategies:
        for seed in (2, 0, 1):
            folder = tmp_path / f"{strategy}-{seed}"
            assert (
                run("--cache", caches, "--seed", seed, "--strategy", strategy, "--output", folder).exit_code
                == 0
            )
            apart += rows(folder)
    assert len(together) == len(apart) == 6 * 3 * 3 * 3 * 2 * 4
    assert {tuple(row.values()) for row in together} == {tuple(row.values()) for row in apart}


def test_jobs_make_no_difference(caches: Path, tmp_path: Path) -> None:
    command = ["--cache", caches, "--seeds", 3, *ALL]
    assert run(*command, "--output", tmp_path / "one").exit_code == 0
    assert run(*command, "--jobs", 2, "--output", tmp_path / "two").exit_code == 0
    for name in ("results.csv", "memory.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_script_without_a_guard_may_use_several_processes(caches: Path, tmp_path: Path) -> None:
    """Python's own way to start a process would run the script again, in every worker."""
    script = tmp_path / "script.py"
    script.write_text(
        "from ser_memory.train.api import train\n"
        f"print('begun'); run = train(cache={str(caches)!r}, seeds=2, strategy='finetune', jobs=2, epochs=2,\n"
        f"    trained={str(tmp_path / 't')!r}, output={str(tmp_path / 'r')!r})\n"
        "print(len(run.results))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout == f"begun\n{2 * 3 * 3 * 2 * 2 * 2}\n", done.stderr
