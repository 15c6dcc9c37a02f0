"""Speed, memory and exactness of extraction, compared with the usual ways on the same recordings.

    make bench-extraction [ARGS="--utterances 24 --rounds 3 --device cpu"]

(a) one utterance at a time through Hugging Face, loaded by librosa; (b) Hugging Face with plain zero padding;
(c) ours, in float32 and bfloat16. A base-size wav2vec2 with random weights. Every way runs in a process of
its own, in turn, several rounds; medians are printed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch.utils.flop_counter import FlopCounterMode

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.machine import cores
from ser_memory.extract.encoders import EncoderOptions, load_acoustic, relative_error
from ser_memory.extract.encoding import AcousticWorker, Item
from ser_memory.extract.parts import Parts, plan_parts
from ser_memory.extract.rows import ACOUSTIC_HALF, TEXT_HALF, Known
from ser_memory.extract.workers import Work, encode_recordings

Run = Callable[[list[Path]], np.ndarray]  # recordings -> (N, 768)
Way = tuple[str, Callable[..., Run], tuple[object, ...]]


def one_at_a_time(folder: str, device: str) -> Run:
    """(a): what a script around Hugging Face does."""
    import librosa
    from transformers import AutoFeatureExtractor, AutoModel

    extractor = AutoFeatureExtractor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval().to(device)

    @torch.no_grad()
    def run(paths: list[Path]) -> np.ndarray:
        rows = []
        for path in paths:
            samples, _ = librosa.load(path, sr=SAMPLING_RATE)
            values = extractor(samples, sampling_rate=SAMPLING_RATE, return_tensors="pt").input_values
            rows.append(model(values.to(device)).last_hidden_state[0].mean(dim=0).cpu().numpy())
        return np.stack(rows)

    return run


def padded(folder: str, device: str, size: int) -> Run:
    """(b): batches of `size`, zero-padded, as the feature-extraction path gives them."""
    from transformers import AutoFeatureExtractor, AutoModel

    extractor = AutoFeatureExtractor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval().to(device)

    @torch.no_grad()
    def run(paths: list[Path]) -> np.ndarray:
        rows = []
        for start in range(0, len(paths), size):
            batch = [soundfile.read(path, dtype="float32")[0] for path in paths[start : start + size]]
            values = extractor(
                batch, sampling_rate=SAMPLING_RATE, padding=True, return_tensors="pt"
            ).input_values
            rows.append(model(values.to(device)).last_hidden_state.mean(dim=1).cpu().numpy())
        return np.concatenate(rows)

    return run


def ours(folder: str, device: str, precision: str) -> Run:
    """(c): parts through the workers, written to disk and read again."""
    encoder = load_acoustic(folder, device, EncoderOptions(precision=precision))
    workers = [AcousticWorker(encoder) for _ in range(cores() if device == "cpu" else 1)]

    def run(paths: list[Path]) -> np.ndarray:
        seconds = [soundfile.info(path).duration for path in paths]
        items = [
            Item(path.stem, path, length, path.stem) for path, length in zip(paths, seconds, strict=True)
        ]
        names = [path.stem for path in paths]
        with tempfile.TemporaryDirectory() as cache:
            # So small that all cores have work to the end, as in a corpus of hours.
            parts = Parts(Path(cache) / "c.h5", dict.fromkeys((*ACOUSTIC_HALF, *TEXT_HALF), ""), (0.0, 100.0))
            work = Work(items, 0.0, 100.0)
            encode_recordings(work, plan_parts(seconds, 10.0), parts, workers, lambda _: None)
            rows = np.empty((len(paths), 768), np.float32)
            for places, values in Known(parts.stores()).blocks("acoustic", names):
                rows[places] = values
        return rows

    return run


def measured(way: Way, folder: str, paths: list[Path], device: str, pipe: Connection) -> None:
    """In a process of its own: the rows, the seconds they took without loading, and the peak memory."""
    _, load, arguments = way
    run = load(folder, device, *arguments)
    run([max(paths, key=lambda path: path.stat().st_size)])  # warm-up: the heap grows to its final size
    start = time.perf_counter()
    rows = run(paths)
    seconds = time.perf_counter() - start
    on_gpu = device == "cuda"
    memory = (
        torch.cuda.max_memory_allocated()
        if on_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    pipe.send((rows, seconds, memory))


def matrix_rate(device: str) -> float:
    """FLOP/s of float32 matrix products, all cores or one card."""
    a = torch.randn(1024 if device == "cpu" else 8192, 1024 if device == "cpu" else 8192, device=device)

    def multiply(times: int) -> None:
        for _ in range(times):
            a @ a
        if device == "cuda":
            torch.cuda.synchronize()

    def rate(threads: int, times: int) -> float:
        running = [threading.Thread(target=multiply, args=(times,)) for _ in range(threads)]
        start = time.perf_counter()
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return 2 * len(a) ** 3 * times * threads / (time.perf_counter() - start)

    multiply(3)
    if device == "cuda":
        return max(rate(1, 20) for _ in range(3))
    cores = torch.get_num_threads()
    together = max(rate(1, 40) for _ in range(3))
    torch.set_num_threads(1)
    apart = max(rate(cores, 40) for _ in range(3))
    torch.set_num_threads(cores)
    return max(together, apart)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--utterances", type=int, default=24)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--padded", type=int, nargs="*", default=[2, 4, 8], help="batch sizes of (b)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder, paths, seconds = prepare(Path(temporary), options.utterances)
        compare(folder, paths, seconds, options.padded, options.rounds, options.device)


def prepare(folder: Path, utterances: int) -> tuple[str, list[Path], float]:
    """A base-size model and recordings of 3 to 30 s; the model's folder, their paths and their total seconds."""
    save_base(folder / "model")
    random = np.random.default_rng(0)
    paths, total = [], 0.0
    for number, seconds in enumerate(random.uniform(3, 30, utterances)):
        envelope = np.interp(
            np.arange(int(seconds * SAMPLING_RATE)),
            np.arange(0, 31 * SAMPLING_RATE, 4000),
            random.uniform(0, 0.3, 124),
        )
        paths.append(folder / f"{number:04d}.wav")
        soundfile.write(paths[-1], envelope * random.standard_normal(len(envelope)), SAMPLING_RATE)
        total += seconds
    return str(folder / "model"), paths, total


def save_base(folder: Path) -> None:
    """A base-size wav2vec2 with random weights."""
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor, Wav2Vec2Model

    torch.manual_seed(0)
    Wav2Vec2Model(Wav2Vec2Config()).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=True).save_pretrained(folder)


def compare(
    folder: str, paths: list[Path], seconds: float, sizes: list[int], rounds: int, device: str
) -> None:
    ways: list[Way] = [("(a) Hugging Face, one at a time, librosa", one_at_a_time, ())]
    ways += [(f"(b) Hugging Face, padded, {size} at once", padded, (size,)) for size in sizes]
    ways += [(f"(c) ours, {precision}", ours, (precision,)) for precision in ("float32", "bfloat16")]
    times: dict[str, list[float]] = {way[0]: [] for way in ways}
    rows: dict[str, np.ndarray] = {}
    memory: dict[str, float] = {}
    rates = []
    work = flop_per_second(folder)
    context = multiprocessing.get_context("spawn")
    for number in range(rounds):
        rates.append(matrix_rate(device))
        for way in ways:
            receiver, sender = context.Pipe(duplex=False)
            process = context.Process(target=measured, args=(way, folder, paths, device, sender))
            process.start()
            sender.close()  # the process has it now; if it fails, receiving ends instead of waiting for ever
            rows[way[0]], taken, memory[way[0]] = receiver.recv()
            process.join()
            times[way[0]].append(taken)
        print(f"\n{len(paths)} recordings, {seconds:.0f} s of audio, {device}, {torch.get_num_threads()} threads; "
              f"medians after round {number + 1} of {rounds}")  # fmt: skip
        report(seconds, statistics.median(rates), work, times, memory, rows)


def report(
    seconds: float,
    rate: float,
    work: float,
    times: dict[str, list[float]],
    memory: dict[str, float],
    rows: dict[str, np.ndarray],
) -> None:
    """A line per way; ratios are taken per round, because a machine's speed drifts."""
    first = next(iter(times))
    print(f"matrix products {rate / 1e9:.0f} GFLOP/s; the model {work / 1e9:.1f} GFLOP per second of audio")
    print(f"{'way':42}{'audio s/s':>10}{'ratio':>7}{'of matrix rate':>16}{'peak MB':>9}{'largest error':>15}")
    for name, taken in times.items():
        speed = seconds / statistics.median(taken)
        ratio = statistics.median(a / b for a, b in zip(times[first], taken, strict=True))
        error = relative_error(rows[name], rows[first])
        share = speed * work / rate
        print(
            f"{name:42}{speed:10.1f}{ratio:7.2f}{share:16.0%}{memory[name] / 1e6:9.0f}{error:15.1e}",
            flush=True,
        )


def flop_per_second(folder: str) -> float:
    """What the model computes per second of audio, counted on one utterance of the mean length."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.randn(1, 16 * SAMPLING_RATE))
    return float(counter.get_total_flops()) / 16


if __name__ == "__main__":
    main()
