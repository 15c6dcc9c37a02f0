"""Training from Python: what ser-train does, callable.

from ser_memory.train.api import read_results, train

run = train(strategy=["finetune", "gem"], stages=["msp-podcast", "iemocap"], cache="cache", seeds=3)
results = read_results(run.folder)  # or run.results; pandas.DataFrame(results) takes them as they are

found = search(["learning-rate=1e-5..1e-3", "gem-margin=0..1"], trials=30, strategy="gem", seeds=1)
found.best.chosen  # {"learning_rate": ..., "gem_margin": ...}

(rating,) = load("runs/mine/bundles/gem/seed-0/stage-3").predict(["a.wav"])
rating.values  # {"activation": ..., "valence": ...}
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_memory.common.errors import SerError, system_errors
from ser_memory.common.options import refuse_unknown
from ser_memory.common.reporting import Reporter, reporting_to
from ser_memory.train import results
from ser_memory.train.configuration import Settings
from ser_memory.train.results import ConditionResult, Result
from ser_memory.train.search_space import HELD_OUT, SearchSettings, search_of

if TYPE_CHECKING:
    from ser_memory.train.experiment import TrainedRun
    from ser_memory.train.predict.predictor import Predictor
    from ser_memory.train.search import Searched

__all__ = ["ConditionResult", "Result", "load", "read_conditions", "read_results", "search", "train"]


def train(*, reporter: Reporter | None = None, **options: Any) -> TrainedRun:
    """Train emotion heads through a sequence of corpora, as the command ser-train does.

    Args:
        reporter: where progress and notices go; standard error if None,
            `ser_memory.common.reporting.Silent()` for nowhere.
        **options: the options of ser-train, with underscores in place of dashes (see `ser-train --help`, or
            `ser_memory.train.settings`, which declares them): `strategy`, `sampler`, `memory_size`, `protocol`,
            `stages` and `seed` take one value or a list; `from_` is `--from`. The actions `--dry-run`, `--preset` and
            `--experiment` are for the command line.

    Returns:
        The run: `folder`, `results` (a list of `Result`, one measured figure each) and `failures` (runs whose
        predictions stopped being finite; the other runs are complete).

    Raises:
        UsageError: an option that does not exist, or a value that is not allowed; nothing was attempted.
        SerError: anything else that the caller can solve, such as a cache that is missing or a full disk. What
            was trained until then is kept, and the same call continues from there.
    """
    settings = None if options.get("from_") else Settings.take(options)
    from ser_memory.train import experiment  # needs torch
    from ser_memory.train.bundles.origin import settings_of

    with reporting_to(reporter), system_errors():
        return experiment.train(settings or settings_of(options))


def search(
    space: str | Sequence[str],
    *,
    trials: int = SearchSettings.trials,
    objective: str = HELD_OUT,
    reporter: Reporter | None = None,
    **options: Any,
) -> Searched:
    """Search the best values of some options, as the command ser-train --search does.

    Args:
        space: what is searched, as one gives it to `--search`: `learning-rate=1e-5..1e-3` or `batch-size=32,64`.
        trials: how many settings are tried, those of an earlier call with the same `output` included.
        objective: `held-out`, or `all-seen`, an oracle; see `ser-train --help`.
        reporter: as in `train`.
        **options: those of ser-train that all trials have in common, as in `train`.

    Returns:
        What came out: `folder`, `trials` (what each chose and reached), `best` (one of them) and `run` (that of the
        best trial).

    Raises:
        UsageError: an option that does not exist or cannot be searched, or a value that is not allowed.
        SerError: anything else that the caller can solve, such as a package that is not installed. Trials that are
            over are kept, and the same call with the same `output` continues from there.
    """
    wanted = search_of(
        SearchSettings.take({"search": space, "trials": trials, "search_objective": objective}),
        options,
        options,
    )
    from ser_memory.train import search as searching  # needs torch

    with reporting_to(reporter), system_errors():
        return searching.search(wanted)


def load(bundle: str | Path, **options: Any) -> Predictor:
    """Load a bundle to rate recordings with, as the command ser-predict does.

    Args:
        bundle: the folder of a bundle, or one with the bundles of several seeds.
        **options: those of ser-predict about transcripts and encoders, with underscores in place of dashes, such as
            `acoustic_encoder`, `device` or `transcriber`.

    Returns:
        The predictor. Its method `predict` takes paths or arrays; its models stay in memory for the next call.

    Raises:
        UsageError: an option that does not exist, or a value that is not allowed.
        SerError: the bundle cannot be read, or an encoder is not the one that it was trained with.
    """
    from ser_memory.train.predict.settings import PREDICTOR, PredictSettings

    refuse_unknown(options, *PREDICTOR)
    settings = PredictSettings.take(options)
    with system_errors():
        from ser_memory.train.predict.predictor import Predictor  # needs torch

        return Predictor(Path(bundle), settings)


def read_results(run: str | Path) -> list[Result]:
    """The figures of a run: the rows of its results.csv.

    Args:
        run: the folder of a run, or the path of a results.csv.

    Raises:
        SerError: there is no such file, or ser-train did not write it.
    """
    if not isinstance(run, (str, Path)):
        raise SerError(f"read_results takes the folder of a run as text or path, not {run!r}.")
    return results.read_results(Path(run))


def read_conditions(run: str | Path) -> list[ConditionResult]:
    """The figures of a run in other acoustic conditions: the rows of its conditions.csv, or none if there is none.

    Args:
        run: the folder of a run, or the path of a conditions.csv.

    Raises:
        SerError: ser-train did not write the file, or it was cut off.
    """
    return results.read_conditions(Path(run))
