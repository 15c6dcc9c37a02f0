"""A cache of test recordings in another condition is neither a corpus to train on nor other transcripts."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from ser_memory.common.cache import CacheInfo, FeatureCache, write_cache
from ser_memory.common.errors import UsageError
from ser_memory.common.reporting import Silent
from ser_memory.train.api import train
from ser_memory.train.cli import main
from ser_memory.train.corpora import transcripts_in
from tests.train.worlds import STAGES, write_caches


@pytest.fixture
def caches(tmp_path: Path) -> Path:
    """Those of the corpora, and one by telephone."""
    write_caches(tmp_path)
    plain = FeatureCache(tmp_path / "iemocap.h5")
    info = CacheInfo(**vars(plain.info) | {"condition": "telephone"})
    write_cache(tmp_path / "iemocap.telephone.h5", info, {name: plain.read(name) for name in plain.shapes})
    return tmp_path


def test_it_is_refused_as_transcripts(caches: Path) -> None:
    with pytest.raises(
        UsageError, match=r"iemocap.telephone.h5 has test recordings in the condition telephone"
    ):
        train(cache=caches, output=caches / "run", transcripts="telephone", seeds=1, reporter=Silent())


def test_it_is_refused_as_a_stage(caches: Path) -> None:
    stages = ["msp-podcast", "iemocap.telephone"]
    with pytest.raises(UsageError, match="choose others with --transcripts or --stages, such as iemocap"):
        train(cache=caches, output=caches / "run", stages=stages, seeds=1, reporter=Silent())


def test_a_study_of_transcripts_ignores_it(caches: Path) -> None:
    assert transcripts_in(caches, STAGES) == []
    asked = ["--study", "transcripts", "--cache", str(caches), "--output", str(caches / "run")]
    result = CliRunner().invoke(main, asked)
    assert result.exit_code == 1
    assert "There is no cache with other transcripts" in result.output
    (caches / "iemocap.whisper.h5").write_bytes((caches / "iemocap.h5").read_bytes())
    (caches / "iemocap.damaged.h5").write_bytes(b"no cache")
    assert transcripts_in(caches, STAGES) == ["damaged", "whisper"]
