"""Studies: one experiment several times with one thing changed, and what the report makes of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from click.testing import CliRunner, Result

from ser_memory.common.cache import FeatureCache, write_cache
from ser_memory.common.errors import SerError
from ser_memory.train.cli import main
from ser_memory.train.report.cli import main as ser_report
from ser_memory.train.report.contents import chapters
from ser_memory.train.report.data import folders_of, load_run
from ser_memory.train.report.together import labelled
from ser_memory.train.report.transcripts import courses
from ser_memory.train.results import read_results
from tests.train.worlds import write_caches

QUICK = [
    "--strategy", "finetune", "--seeds", "3", "--epochs", "2", "--batch-size", "16", "--learning-rate", "0.003",
    "--jobs", "1",
]  # fmt: skip
RATES = {"release-wer0.3": 0.3, "release-wer0.9": 0.9}


@pytest.fixture(scope="module")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The usual caches, and two of IEMOCAP whose texts say less."""
    folder = tmp_path_factory.mktemp("caches")
    write_caches(folder)
    base = FeatureCache(folder / "iemocap.h5")
    columns = {name: base.read(name) for name in base.shapes}
    for name, rate in RATES.items():
        random = np.random.default_rng(0)
        other = columns["text"].copy()
        changed = random.random(len(other)) < rate
        other[changed] = random.permutation(other[changed])
        info = {
            **vars(base.info),
            "compared": {"reference": "release", "word_error_rate": rate, "words": 100},
        }
        write_cache(folder / f"iemocap.{name}.h5", type(base.info)(**info), {**columns, "text": other})
    return folder


def train(caches: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["--cache", str(caches), *QUICK, *map(str, arguments)])


def test_transcripts(caches: Path, tmp_path: Path) -> None:
    result = train(caches, "--study", "transcripts", "--output", tmp_path)
    assert result.exit_code == 0, result.output
    assert f"Compare them with: ser-report {tmp_path}" in result.output
    assert json.loads((tmp_path / "study.json").read_text()) == {
        "study": "transcripts",
        "runs": ["own", *RATES],
    }
    assert folders_of(tmp_path) == [tmp_path / name for name in ("own", *RATES)]
    runs = labelled([load_run(folder) for folder in folders_of(tmp_path)])
    assert list(runs) == [f"transcripts {name}" for name in ("own", *RATES)]
    found = courses(runs, "test")
    assert {(course.corpus, course.dimension) for course in found} == {
        ("iemocap", "activation"),
        ("iemocap", "valence"),
    }
    for course in found:
        assert course.rates == (0.0, *RATES.values())
        for seed, figures in course.by_seed.items():
            for name, figure in zip(("own", *RATES), figures, strict=True):
                (row,) = [
                    row for row in read_results(tmp_path / name)
                    if (row.corpus, row.split, row.metric, row.stage) == ("iemocap", "test", "ccc", 3)
                    and (row.dimension, row.seed) == (course.dimension, seed)
                ]  # fmt: skip
                assert figure == row.value
    headings = [chapter.heading for chapter in chapters(runs)]
    assert "What transcripts are worth" in headings
    assert "Runs compared" in headings


def test_heads(caches: Path, tmp_path: Path) -> None:
    result = train(caches, "--strategy", "gem", "--study", "heads", "--output", tmp_path)
    assert result.exit_code == 0, result.output
    runs = labelled([load_run(folder) for folder in folders_of(tmp_path)])
    assert list(runs) == ["dimensions activation,valence", "dimensions activation", "dimensions valence"]
    (compared,) = [chapter for chapter in chapters(runs) if chapter.heading == "Runs compared"]
    names = {named.name for named in compared.tables}
    assert {"runs-activation-ccc-tests", "runs-valence-ccc-tests"} <= names
    made = CliRunner().invoke(ser_report, [str(tmp_path), "--quiet"])
    assert made.exit_code == 0, made.output
    page = (tmp_path / "report/index.html").read_text()
    assert f"--study heads --output {tmp_path}" in page  # the command that made all runs


def test_other_labels_are_refused(caches: Path, tmp_path: Path) -> None:
    """The cache of a corpus was corrected, and those of its other transcripts were not."""
    for path in caches.glob("*.h5"):
        shutil.copyfile(path, tmp_path / path.name)
    with h5py.File(tmp_path / "iemocap.h5", "r+") as file:
        file["valence"][3] = 4.5
    result = train(tmp_path, "--transcripts", "release-wer0.3", "--output", tmp_path / "r")
    assert result.exit_code == 1
    assert "has other labels, splits or recordings than" in result.output
    assert "for 1 utterances" in result.output
    assert (
        "ser-extract --corpus iemocap --text-only --transcriber release-wer0.3 --overwrite" in result.output
    )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--study", "transcripts", "--transcripts", "release-wer0.3"], "so leave --transcripts out"),
        (["--transcripts", "azure"], "No corpus has a cache of the transcripts 'azure'"),
    ],
)
def test_what_cannot_be_studied(caches: Path, tmp_path: Path, arguments: list[str], says: str) -> None:
    result = train(caches, *arguments, "--output", tmp_path / "r")
    assert result.exit_code == 2
    assert says in result.output
    assert "Traceback" not in result.output


def test_without_other_transcripts_there_is_no_study(tmp_path: Path) -> None:
    write_caches(tmp_path)
    result = train(tmp_path, "--study", "transcripts", "--output", tmp_path / "r")
    assert result.exit_code == 1
    assert "There is no cache with other transcripts" in result.output
    assert "ser-extract --corpus iemocap --text-only --transcriber whisper" in result.output
    assert not (tmp_path / "r").exists()


def test_a_damaged_study_is_refused(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(SerError, match=r"study\.json is damaged"):
        folders_of(tmp_path)
    assert folders_of(tmp_path / "nowhere") == [tmp_path / "nowhere"]
