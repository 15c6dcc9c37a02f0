"""PyTorch modules as ONNX files that are compared with their origin."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ser_memory.common.errors import SerError

if TYPE_CHECKING:
    from torch import Tensor, nn

Floats = npt.NDArray[np.float32]

OUTPUT = "predictions"
_OPSET = 18  # the oldest that PyTorch writes without converting
_ONE_FILE = 1_900_000_000  # bytes of weights; protobuf has room for 2 GiB in a file
_ROUNDS = 5  # of which the median time is reported


@dataclass(frozen=True)
class Comparison:
    """What ONNX Runtime and PyTorch make of the same inputs."""

    n: int  # inputs
    difference: float  # the largest, absolute; relative to the largest value where that is above 1


def require_onnx() -> None:
    """Raise SerError if a package of the extra is missing."""
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        needed = " and ".join(missing)
        raise SerError(f"--onnx needs {needed}, which cannot be imported: pip install 'ser-memory[onnx]'.")


def write_graph(
    module: nn.Module,
    path: Path,
    inputs: Mapping[str, Tensor],
    free: Mapping[int, str],
    notes: Mapping[str, str],
) -> None:
    """Write a module with one output of (N, K) as an ONNX file; weights beyond 1.9 GB go to `path` + `.data`.

    Args:
        module: in evaluation mode.
        path: where to.
        inputs: by the argument's name an example, of any size along the free axes.
        free: by the number of an axis, in all inputs the same, its name.
        notes: what the file says about itself, by key.

    Raises SerError if PyTorch cannot trace the module.
    """
    import torch

    with _quiet(), torch.no_grad():
        try:
            program = torch.onnx.export(
                module,
                kwargs=dict(inputs),
                dynamo=True,
                dynamic_shapes={name: dict(free) for name in inputs},
                input_names=list(inputs),
                output_names=[OUTPUT],
                opset_version=_OPSET,
                verbose=False,
            )
        except Exception as error:  # every model that cannot be traced fails in its own way
            raise SerError(
                f"PyTorch cannot write {path.name} ({_cause(error)}): give another version of torch or transformers, or "
                "export the head alone with --head-only."
            ) from error
        assert program is not None  # dynamo always returns a program
        _describe(program.model, notes)
        values = (value.const_value for value in program.model.graph.initializers.values())
        weights = sum(int(value.nbytes) for value in values if value is not None)
        program.save(path, external_data=weights > _ONE_FILE)


def _cause(error: BaseException) -> str:
    """The first line of the error that began it: the exporter wraps it into pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")


def _describe(model: Any, notes: Mapping[str, str]) -> None:
    """Add the notes, and remove what the exporter says about each node: lines of source files and their folders."""
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    model.graph.metadata_props.clear()
    model.metadata_props.clear()
    model.metadata_props.update(notes)


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter warns about packages and its own internals, on which its result does not depend."""
    logs = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)


def runner(path: Path) -> Callable[..., Floats]:
    """A function of the inputs by name that runs an ONNX file on the CPU; it returns the output."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(**inputs: Floats) -> Floats:
        output: Floats = session.run([OUTPUT], inputs)[0]
        return output

    return run


def compare(ours: Sequence[Floats], theirs: Sequence[Floats]) -> Comparison:
    """The largest difference between the outputs for the same inputs; NaN if one is not finite."""
    a, b = np.concatenate(ours).astype(np.float64), np.concatenate(theirs).astype(np.float64)
    return Comparison(len(a), float(np.abs(a - b).max() / max(1.0, np.abs(b).max())))


def refuse_different(name: str, found: Comparison, allowed: float) -> None:
    """Raise SerError if the difference is larger than allowed, or not a number."""
    if not found.difference <= allowed:
        raise SerError(
            f"{name} differs from PyTorch by {found.difference:.2g} where {allowed:g} is allowed, so it was not written: "
            "give another version of onnxruntime or torch."
        )


def median_seconds(run: Callable[[], object]) -> float:
    """Of a few calls, after one that is not counted."""
    run()
    taken = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))
