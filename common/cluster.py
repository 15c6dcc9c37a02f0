"""Ray: on this machine for the time of a run, or a cluster whose nodes have the same versions and see the same files."""

from __future__ import annotations

import io
import logging
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ser_memory.common import nodes
from ser_memory.common.errors import SerError
from ser_memory.common.files import write_whole

_PATIENCE = 120.0  # seconds for a node to start a process


def refuse_no_ray() -> None:
    """Raise SerError if Ray is not installed."""
    if find_spec("ray") is None:
        raise SerError("--engine ray needs the package ray: pip install 'ser-memory[ray]'")


@contextmanager
def connected(address: str | None, cores: int) -> Iterator[Any]:
    """Ray, whose handlers of signals are not wanted.

    `address` is of a cluster; None starts a Ray with so many cores on this machine. Raises SerError.
    """
    ray: Any = import_module("ray")
    where = {"address": address} if address else {"address": "local", "num_cpus": cores}
    own = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        _refuse_unreachable(address or "")
        ray.init(**where, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        if "ersion mismatch" in str(error):
            raise SerError(
                f"The cluster at --address {address} has another version of Ray or Python than this machine: install "
                f"the same on all nodes ({' '.join(str(error).split())})."
            ) from None
        raise SerError(
            f"Ray cannot be reached at --address {address or 'local'} ({str(error).splitlines()[0]}): start it "
            "with ray start --head and name its address, or leave --address out."
        ) from None
    import_module("ray.cloudpickle").register_pickle_by_value(sys.modules[nodes.__name__])
    if threading.current_thread() is threading.main_thread():
        for number, handler in own.items():
            signal.signal(number, handler)
    with redirect_stdout(_FirstLines()):  # Ray prints there that a node died, even while it shuts down
        try:
            yield ray
        finally:
            ray.shutdown()


class _FirstLines(io.TextIOBase):
    """The first line of each text, to standard error: after it, Ray prints what a dead node noted of its state."""

    def write(self, text: str) -> int:
        first, _, rest = text.partition("\n")
        sys.stderr.write(first if rest else text)
        return len(text)


def _refuse_unreachable(address: str) -> None:
    """Raise OSError if nothing answers at `host:port`: Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if port.isdigit() and host:
        socket.create_connection((host, int(port)), timeout=10).close()


def living(ray: Any) -> list[dict[str, Any]]:
    """The nodes of the cluster that can be given work."""
    return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) > 0]


@contextmanager
def alike(
    ray: Any, address: str | None, folders: Mapping[str, Path], files: Mapping[str, Sequence[Path]]
) -> Iterator[nodes.Common]:
    """What all nodes have, and those that join in the block must have: `nodes.Guarded` and `nodes.carry_out` see to it.

    Raises SerError, naming the node, if one has other versions, or does not see what this process does.

    Args:
        ray: connected.
        address: of the cluster; None for this machine alone, which is like itself.
        folders: that all nodes must share, by the names of the options. A file is there for the check.
        files: that must be the same on all nodes, by what they are.
    """
    if address is None:
        yield nodes.Common(nodes.versions(), nodes.source(), [])
        return
    with ExitStack() as marks:
        seen = [_mark(marks, option, folder.resolve()) for option, folder in folders.items()]
        for what, paths in files.items():
            for path in (str(path.absolute()) for path in paths):
                wrong = f"sees another {what} than this one, or none ({path}): give one that all nodes share."
                seen.append((path, nodes.look(path), wrong))
        common = nodes.Common(nodes.versions(), nodes.source(), seen)
        there = import_module("ray.util.scheduling_strategies").NodeAffinitySchedulingStrategy
        fault = ray.remote(num_cpus=0, max_retries=0)(nodes.fault)
        asked = {
            node["NodeManagerAddress"]: fault.options(
                scheduling_strategy=there(node["NodeID"], soft=False)
            ).remote(common)
            for node in living(ray)
        }
        for node, reference in asked.items():
            try:
                found = ray.get(reference, timeout=_PATIENCE)
            except ray.exceptions.RayError as error:
                found = f"cannot be used ({str(error).strip().splitlines()[-1]}): look at it with ray status."
            if found:
                raise SerError(f"The node {node} {found}")
        yield common


def _mark(marks: ExitStack, option: str, folder: Path) -> tuple[str, str, str]:
    path = folder / f".{uuid.uuid4().hex}.seen"
    marks.callback(path.unlink, missing_ok=True)
    write_whole(path, uuid.uuid4().hex)
    return (
        str(path),
        nodes.look(str(path)),
        f"does not see the folder {folder} of {option}: give one that all nodes share.",
    )
