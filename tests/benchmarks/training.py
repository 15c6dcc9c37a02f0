"""The trainer beside what people use: bare matrix products, Avalanche, a DataLoader over HDF5.

    make bench-training [ARGS="--rows 84000,5000,6000 --batch 128"]

One run, on the same made-up features of 768 + 768, with the same network, loss and batch size. Everything uses
all cores, in its own way: ours a process per core, the others the threads of PyTorch. Times of ours and of the
products are of one epoch among several, so without starting; the line of whole commands has everything in it.

The machine must be idle. On one whose two cores others used too, the products took two of PyTorch's threads 16 to
170 ms a step, and one thread 5 to 10; that counts against the peers alone. Where the threads' line of matrix products
is far above the processes', the comparison is worth nothing.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from ser_memory.common.cache import CacheInfo, write_cache
from ser_memory.common.machine import cores, one_core_each
from ser_memory.train.corpora import Source, load_corpora
from ser_memory.train.engines import engine_for
from ser_memory.train.experiment import plan
from ser_memory.train.gradient import GradientStack
from ser_memory.train.model import Architecture, Network
from ser_memory.train.plan import Experiment
from ser_memory.train.runs import Run
from ser_memory.train.settings import StrategySettings, TrainingSettings
from ser_memory.train.store import Store
from ser_memory.train.trainer import Trainer
from tests.train.reference import PlainModel, plain_ccc_loss

NAMES = ("msp-podcast", "msp-improv", "iemocap")
WIDTH = 768
HDF5_UTTERANCES = 10_000  # of which the time per epoch is scaled to the corpus


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", default="84000,5000,6000", help="training utterances of the three corpora")
    parser.add_argument("--batch", type=int, default=128)
    arguments = parser.parse_args()
    rows, batch = [int(n) for n in arguments.rows.split(",")], arguments.batch
    with tempfile.TemporaryDirectory() as folder:
        write_caches(Path(folder), rows)
        print(f"{cores()} cores, batches of {batch}, {rows[0]:,} rows in the first corpus\n")
        floor = products(rows[0], batch)
        ours = epochs_of_ours(Path(folder), batch)
        peers = {
            "Avalanche Naive": avalanche_epoch(rows[0], batch),
            "DataLoader, HDF5 per utterance": hdf5_epoch(Path(folder), rows[0], batch),
        }
        print_epochs(floor, ours, peers)
        print_steps(Path(folder), rows, batch)


def print_epochs(floor: dict[str, float], ours: dict[str, float], peers: dict[str, float]) -> None:
    best = min(floor.values())
    five = ours["five seeds together, each"]
    print(f"{'an epoch of fine-tuning':44}{'s':>8}{'/ products':>12}{'/ ours (5)':>12}")
    for name, seconds in {**floor, **ours, **peers}.items():
        print(f"{name:44}{seconds:8.2f}{seconds / best:12.2f}{seconds / five:12.2f}")
    print()


def write_caches(folder: Path, rows: list[int]) -> None:
    """Caches of features that carry labels, with small validation and test splits."""
    for seed, (name, n) in enumerate(zip(NAMES, rows, strict=True)):
        random = np.random.default_rng(seed)
        splits = ["train"] * n + ["validation"] * 200 + ["test"] * 200
        total = len(splits)
        labels = random.uniform(1, 5, (total, 2))
        features = {
            kind: (labels @ random.standard_normal((2, WIDTH)) * 0.2 + random.standard_normal((total, WIDTH)))
            for kind in ("acoustic", "text")
        }
        info = CacheInfo(
            name, "made up", 1.0, 5.0, "a", "r", "mean", "last", "t", "r", "CLS", "release", 3.0, 30.0, 16000, "float32",
            "benchmark", name, 0, {},
        )  # fmt: skip
        columns: dict[str, Any] = {
            "id": [f"{name}-{i}" for i in range(total)], "speaker": [str(i % 50) for i in range(total)],
            "gender": ["Unknown"] * total, "split": splits, "transcript": [""] * total,
            "duration": np.full(total, 4.0), "activation": labels[:, 0], "valence": labels[:, 1],
            "dominance": np.full(total, np.nan), **features,
        }  # fmt: skip
        write_cache(folder / f"{name}.h5", info, columns)


def best_of(times: int, work: Callable[[], object]) -> float:
    """Seconds of the quickest of several."""
    seconds = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def products(rows: int, batch: int) -> dict[str, float]:
    """Seconds of an epoch's matrix products alone: forward, weights' and inputs' gradients of every layer."""
    steps = -(-rows // batch)
    threads = best_of(3, lambda: product_steps(40, batch)) / 40 * steps
    with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
        each = list(pool.map(single_threaded_products, [batch] * cores()))
    return {
        "matrix products, PyTorch's threads": threads,
        "matrix products, a process per core": max(each) * steps / cores(),
    }


def single_threaded_products(batch: int) -> float:
    """Seconds of a step's products on one core, while others do the same."""
    with one_core_each():
        product_steps(10, batch)
        return best_of(5, lambda: product_steps(100, batch)) / 100


def product_steps(steps: int, batch: int) -> None:
    widths = list(Network(Architecture(WIDTH, WIDTH)).widths.values())
    inputs = [torch.randn(batch, i) for i, _ in widths]
    weights = [torch.randn(o, i) for i, o in widths]
    outputs = [torch.randn(batch, o) for _, o in widths]
    for _ in range(steps):
        for x, w, y in zip(inputs, weights, outputs, strict=True):
            torch.mm(x, w.T)
            torch.mm(y.T, x)
            torch.mm(y, w)


def epochs_of_ours(folder: Path, batch: int) -> dict[str, float]:
    """Seconds of an epoch of the first stage: of one run alone, and of five together, divided by five."""
    carried_out(folder, batch, 1, 1)  # what is done once, and the file into memory
    alone, alone_whole = fine_tuning(folder, batch, 1)
    five, five_whole = fine_tuning(folder, batch, 5)
    print(
        f"six epochs with starting: one run {alone_whole:.1f} s, five one after the other {5 * alone_whole:.1f} s,"
    )
    print(f"five together {five_whole:.1f} s: {five_whole / (5 * alone_whole):.2f} of five runs' time\n")
    return {"ours, one seed on one core": alone, "five seeds together, each": five / 5}


def fine_tuning(folder: Path, batch: int, seeds: int) -> tuple[float, float]:
    """Seconds of one epoch of all seeds, from runs of two and of six epochs; and of the longer run, whole."""
    seconds = {epochs: carried_out(folder, batch, seeds, epochs) for epochs in (2, 6)}
    return (seconds[6] - seconds[2]) / 4, seconds[6]


def carried_out(folder: Path, batch: int, seeds: int, epochs: int) -> float:
    source, chosen = Source(folder, NAMES[:1]), StrategySettings(strategy=("finetune",))
    training = TrainingSettings(batch_size=batch, epochs=epochs, patience=epochs)
    experiment = Experiment(chosen.variants, NAMES[:1], tuple(range(seeds)), training)
    with tempfile.TemporaryDirectory() as trained:
        start = time.perf_counter()
        store = Store(Path(trained))
        trainer = Trainer(experiment, load_corpora(source), store, torch.device("cpu"))
        engine = engine_for(experiment, source, store, trainer, min(cores(), seeds))
        for _ in engine.run(plan(experiment, trainer, store).tasks, lambda _: None):
            pass
        return time.perf_counter() - start


class Joined(nn.Module):
    """The plain network for libraries that know one input."""

    def __init__(self) -> None:
        super().__init__()
        self.model = PlainModel(Architecture(WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        prediction: Tensor = self.model(x[:, :WIDTH], x[:, WIDTH:])
        return prediction


def avalanche_experiences(rows: list[int]) -> Any:
    import_avalanche()
    from avalanche.benchmarks.scenarios.dataset_scenario import benchmark_from_datasets
    from avalanche.benchmarks.utils import AvalancheDataset
    from avalanche.benchmarks.utils.data_attribute import DataAttribute

    made = []
    for number, n in enumerate(rows):
        random = torch.Generator().manual_seed(number)
        x, y = torch.randn(n, 2 * WIDTH, generator=random), torch.rand(n, 2, generator=random) * 2 - 1
        attributes = [
            DataAttribute([0] * n, "targets"),
            DataAttribute([0] * n, "targets_task_labels", use_in_getitem=True),
        ]
        made.append(AvalancheDataset([TensorDataset(x, y)], data_attributes=attributes))
    return benchmark_from_datasets(train=made).train_stream


def import_avalanche() -> None:
    """Avalanche imports torchvision, which cannot be imported where its build does not fit PyTorch's: it misses
    operators of its own. They are not used here, so names without anything behind them are enough.
    """
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor a, Tensor b, float c) -> Tensor")


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keeps Avalanche's warnings (about itself) off the tables; it resets filters, so they are recorded instead."""
    with warnings.catch_warnings(record=True):
        yield


@without_warnings()
def avalanche(kind: str, batch: int, **options: Any) -> Any:
    import_avalanche()
    from avalanche.training import supervised

    model = Joined()
    return getattr(supervised, kind)(
        model=model, optimizer=torch.optim.Adam(model.parameters(), lr=1e-4), criterion=plain_ccc_loss,
        train_mb_size=batch, train_epochs=1, evaluator=None, eval_every=-1, **options,
    )  # fmt: skip


@without_warnings()
def avalanche_train(strategy: Any, experience: Any) -> None:
    strategy.train(experience)


def avalanche_epoch(rows: int, batch: int) -> float:
    strategy = avalanche("Naive", batch)
    (experience,) = avalanche_experiences([rows])
    return best_of(2, lambda: avalanche_train(strategy, experience))


def avalanche_steps(kind: str, rows: list[int], batch: int, **options: Any) -> Iterator[float]:
    """Seconds per step in each experience after the first."""
    strategy = avalanche(kind, batch, **options)
    for number, experience in enumerate(avalanche_experiences([2000, *rows[1:]])):
        seconds = best_of(1, partial(avalanche_train, strategy, experience))
        if number:
            yield seconds / -(-rows[number] // batch)


class PerUtterance(Dataset[tuple[Tensor, Tensor, Tensor]]):
    """A group per utterance, opened once: the layout of public code for these corpora."""

    def __init__(self, path: Path, n: int) -> None:
        self._file, self._n = h5py.File(path), n

    def __len__(self) -> int:
        return self._n

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        group = self._file[str(index)]
        acoustic, text, labels = (
            torch.from_numpy(group[name][()]) for name in ("acoustic", "text", "labels")
        )
        return acoustic, text, labels


def hdf5_epoch(folder: Path, rows: int, batch: int) -> float:
    """Seconds of an epoch, measured on a part and scaled."""
    n = min(rows, HDF5_UTTERANCES)
    random = np.random.default_rng(0)
    with h5py.File(folder / "utterances.h5", "w") as file:
        for index in range(n):
            group = file.create_group(str(index))
            group["acoustic"] = random.standard_normal(WIDTH, dtype=np.float32)
            group["text"] = random.standard_normal(WIDTH, dtype=np.float32)
            group["labels"] = random.uniform(-1, 1, 2).astype(np.float32)
    model = PlainModel(Architecture(WIDTH, WIDTH))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-4)
    loader = DataLoader(PerUtterance(folder / "utterances.h5", n), batch_size=batch, shuffle=True)

    def epoch() -> None:
        for acoustic, text, labels in loader:
            optimiser.zero_grad()
            plain_ccc_loss(model(acoustic, text), labels).backward()
            optimiser.step()

    return best_of(2, epoch) * rows / n


def print_steps(folder: Path, rows: list[int], batch: int) -> None:
    """Milliseconds per step of replay and GEM at one and two earlier corpora."""
    columns = ["ours, 1 core", "all cores, each", "Avalanche", "ratio"]
    print(f"{'ms per step at 1 and 2 earlier corpora':40}" + "".join(f"{name:>18}" for name in columns))
    for label, strategy, size, kind, options in (
        ("fine-tuning, Naive", "finetune", 1000, "Naive", {}),
        ("replay, 1,000 samples", "experience-replay", 1000, "Replay", {"mem_size": 1000}),
        ("GEM, 256 samples each", "gem", 256, "GEM", {"patterns_per_exp": 256, "memory_strength": 0.0}),
        ("GEM, 1,000 samples each", "gem", 1000, "GEM", {"patterns_per_exp": 1000, "memory_strength": 0.0}),
    ):
        theirs = [1e3 * seconds for seconds in avalanche_steps(kind, rows, batch, **options)]
        with ProcessPoolExecutor(cores(), get_context("spawn")) as pool:
            (alone,) = pool.map(steps_of_ours, [folder], [strategy], [size], [batch])
            crowd = pool.map(steps_of_ours, *([[item] * cores() for item in (folder, strategy, size, batch)]))
            side_by_side = [max(times) / cores() for times in zip(*crowd, strict=True)]
        ratios = [other / our for other, our in zip(theirs, side_by_side, strict=True)]
        cells = [
            "  ".join(f"{value:6.2f}" for value in values) for values in (alone, side_by_side, theirs, ratios)
        ]
        print(f"{label:40}" + "".join(f"{cell:>18}" for cell in cells))


def steps_of_ours(folder: Path, strategy: str, size: int, batch: int) -> list[float]:
    """Milliseconds per step on one core in the second and third stage."""
    source = Source(folder, NAMES)
    (variant,) = StrategySettings(strategy=(strategy,), memory_size=(size,)).variants
    experiment = Experiment((variant,), NAMES, (0,), TrainingSettings(batch_size=batch))
    with one_core_each(), torch.inference_mode(), tempfile.TemporaryDirectory() as trained:
        trainer = Trainer(experiment, load_corpora(source), Store(Path(trained)), torch.device("cpu"))
        runs = [Run(variant, 0)]
        times = []
        for number in (2, 3):
            stack = trainer.stack(runs)
            assert isinstance(stack, GradientStack)
            start = stack.start(1)
            training = stack.training(number, start, stack.kept(number, start))
            steps = list(training.strategy.batches())[:30]
            training.step(steps[0])
            times.append(1e3 * best_of(3, lambda: [training.step(index) for index in steps]) / len(steps))  # noqa: B023
        return times


if __name__ == "__main__":
    main()
