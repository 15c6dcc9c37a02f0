"""--engine ray on a cluster: each node has a network and mounts of its own, and is killed in the middle of the work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path

import pytest

from ser_memory.common import labels
from tests.integration.test_ray import TRAINING
from tests.integration.test_workers import finished, start, whole, world
from tests.train.test_cli import caches, quick, run

pytest.importorskip("ray")
assert caches
assert world
assert whole  # fixtures
RAY = Path(sys.executable).with_name("ray")
HEAD = "10.77.0.1"
# A dead node is noticed after two seconds.
QUICK = json.dumps(
    {"health_check_period_ms": 500, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 2}
)
ADDRESS = ["--engine", "ray", "--address", f"{HEAD}:6379"]


def ip(*arguments: str) -> str:
    made = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"ip {' '.join(arguments)} is not permitted here: {made.stderr}")
    return made.stdout


def pids_of(space: str, name: bytes) -> list[int]:
    """The processes in a node whose command has this name."""
    found = []
    for pid in ip("netns", "pids", space).split():
        with suppress(OSError):
            if Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].rpartition(b"/")[2].startswith(name):
                found.append(int(pid))
    return found


class Cluster:
    """A head with one core, on whose bridge further nodes with one core are."""

    def __init__(self) -> None:
        self._spaces: list[str] = []
        self._folders: list[str] = []
        self.head = self._space(HEAD)
        ip("-n", self.head, "link", "add", "bridge", "type", "bridge")
        ip("-n", self.head, "addr", "add", f"{HEAD}/24", "dev", "bridge")
        ip("-n", self.head, "link", "set", "bridge", "up")
        self._ray(
            self.head,
            HEAD,
            "--head",
            "--port",
            "6379",
            "--include-dashboard",
            "false",
            "--system-config",
            QUICK,
        )

    def inside(self) -> list[str]:
        """What comes before a command on the head."""
        return ["ip", "netns", "exec", self.head]

    @contextmanager
    def node(self, address: str) -> Iterator[str]:
        """A further node, and the name of its namespace."""
        space = self._space(address)
        ip(
            "-n",
            self.head,
            "link",
            "add",
            f"to-{space}"[:15],
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            space,
        )
        ip("-n", self.head, "link", "set", f"to-{space}"[:15], "master", "bridge", "up")
        ip("-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
        ip("-n", space, "link", "set", "eth0", "up")
        self._ray(space, address, "--address", f"{HEAD}:6379")
        try:
            yield space
        finally:
            self.kill(space)
            self._wait_until_dead(address)

    def mount(self, space: str, *arguments: object) -> None:
        """Change what the processes of a node see."""
        (raylet, *_) = pids_of(space, b"raylet")
        mount = ["nsenter", "--target", str(raylet), "--mount", "mount", *map(str, arguments)]
        subprocess.run(mount, check=True)

    def kill(self, space: str) -> None:
        """SIGKILL for all processes of a node."""
        while pids := ip("netns", "pids", space).split():
            for pid in pids:
                if Path(f"/proc/{pid}").exists():
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.05)

    def end(self) -> None:
        for space in self._spaces:
            self.kill(space)
            ip("netns", "del", space)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def _space(self, address: str) -> str:
        name = f"s{os.getpid()}-{address.rpartition('.')[2]}"
        ip("netns", "add", name)
        self._spaces.append(name)
        ip("-n", name, "link", "set", "lo", "up")
        return name

    def _ray(self, space: str, address: str, *options: str) -> None:
        self._folders.append(tempfile.mkdtemp(prefix="ray"))  # short, because sockets are there
        command = [
            str(RAY), "start", "--node-ip-address", address, "--num-cpus", "1", "--temp-dir", self._folders[-1],
            "--disable-usage-stats", *options,
        ]  # fmt: skip
        log = Path(self._folders[-1]) / "start.log"
        with log.open("w") as said:
            made = subprocess.run(
                ["ip", "netns", "exec", space, *command], stdout=said, stderr=said, check=False
            )
        assert made.returncode == 0, log.read_text()

    def _wait_until_dead(self, address: str) -> None:
        alive = (
            "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False);"
            "print([n['NodeManagerAddress'] for n in ray.nodes() if n['Alive']])"
        )
        command = [*self.inside(), sys.executable, "-c", alive, f"{HEAD}:6379"]
        deadline = time.monotonic() + 60
        while address in subprocess.run(command, capture_output=True, text=True, check=True).stdout:
            assert time.monotonic() < deadline


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    if shutil.which("ip") is None or os.geteuid():
        pytest.skip("a cluster of network namespaces needs root")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # there may be a token in this home
        for name in ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        made = Cluster()
        try:
            yield made
        finally:
            made.end()


def stopped_in(space: str, name: bytes) -> bool:
    """Whether a process of a node is stopped in a task of this name, so that the task ends with the node."""
    for pid in pids_of(space, name):
        os.kill(pid, signal.SIGSTOP)
        if pid in pids_of(space, name):
            return True
        os.kill(pid, signal.SIGCONT)
    return False


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 60
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_extraction_loses_a_node(
    cluster: Cluster, world: Path, whole: tuple[bytes, str], tmp_path: Path
) -> None:
    with cluster.node("10.77.0.2") as node:
        process = start(world, tmp_path, *ADDRESS, before=cluster.inside(), workers=None)
        wait_for(lambda: finished(tmp_path) >= 4 and stopped_in(node, b"ray::encode"), process)
        cluster.kill(node)
        assert not (tmp_path / "noises.h5").exists()
        said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert (tmp_path / "noises.h5").read_bytes() == whole[0]
    assert said.replace(str(tmp_path), "CACHE") == whole[1]
    assert errors.count("A process of Ray was lost; its part is done again.") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [".noises.lock", "noises.h5"]


def test_a_node_that_sees_other_files(
    cluster: Cluster,
    world: Path,
    whole: tuple[bytes, str],
    tmp_path: Path,
    other_source: tuple[Path, Path],
) -> None:
    """Another cache folder, which --collect does not need; another release; another ser-memory; another numpy."""
    (source, other), recording = other_source, world / "release/clips/n00.flac"
    cache = tmp_path / "cache"
    cache.mkdir()

    def outcome(*options: str) -> str:
        process = start(world, cache, *ADDRESS, *options, before=cluster.inside(), workers=None)
        errors = process.communicate(timeout=120)[1]
        return errors.splitlines()[-1] if process.returncode else ""

    with cluster.node("10.77.0.3") as node:
        cluster.mount(node, "-t", "tmpfs", "none", cache)
        assert outcome() == (
            f"Error: The node 10.77.0.3 does not see the folder {cache} of --cache: give one that all nodes share."
        )
        assert not outcome("--collect")
        assert (cache / "noises.h5").read_bytes() == whole[0]
        (cache / "noises.h5").unlink()
        cluster.mount(node, "--bind", other, recording)
        assert outcome("--collect") == (
            f"Error: The node 10.77.0.3 sees another release than this one, or none ({recording}): give one that all "
            "nodes share."
        )
        cluster.mount(node, "--bind", other, source)
        assert "Error: The node 10.77.0.3 has other source files of ser-memory" in outcome("--collect")
        noted = next(each for each in metadata.files("numpy") or () if each.name == "METADATA").locate()
        other.write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 1.0.0\n")
        cluster.mount(node, "--bind", other, noted)
        assert outcome("--collect") == (
            f"Error: The node 10.77.0.3 has numpy 1.0.0, and this one has {metadata.version('numpy')}: install the same "
            "on all nodes."
        )
    assert not finished(cache)


@pytest.fixture
def other_source(tmp_path: Path) -> tuple[Path, Path]:
    """A source file of ser-memory, and another version of it."""
    source, other = Path(labels.__file__).resolve(), tmp_path / "other"
    other.write_text(source.read_text() + "\n# another one\n")
    return source, other


def has_other_source(node: str) -> str:
    return (
        f"Error: The node {node} has other source files of ser-memory {metadata.version('ser-memory')} than this one: "
        "install the same on all nodes."
    )


def refused_when_joined_by(
    cluster: Cluster, address: str, other_source: tuple[Path, Path], process: subprocess.Popen[str]
) -> None:
    """Continue a command that is stopped once a node with another source file is there: it ends with the sentence."""
    source, other = other_source
    with cluster.node(address) as node:
        cluster.mount(node, "--bind", other, source)
        process.send_signal(signal.SIGCONT)
        errors = process.communicate(timeout=120)[1]
    assert process.returncode == 1, errors
    assert errors.splitlines()[-1] == has_other_source(address)


def test_a_node_with_another_source_file_takes_the_place_of_a_lost_one(
    cluster: Cluster, world: Path, tmp_path: Path, other_source: tuple[Path, Path]
) -> None:
    """What is finished is kept."""
    with cluster.node("10.77.0.4") as lost:
        process = start(world, tmp_path, *ADDRESS, before=cluster.inside(), workers=None)
        wait_for(lambda: finished(tmp_path) >= 2 and stopped_in(lost, b"ray::encode"), process)
        process.send_signal(signal.SIGSTOP)
        cluster.kill(lost)
    refused_when_joined_by(cluster, "10.77.0.5", other_source, process)
    assert finished(tmp_path) >= 2
    assert not (tmp_path / "noises.h5").exists()


def test_a_node_with_another_source_file_joins_a_training(
    cluster: Cluster, caches: Path, tmp_path: Path, other_source: tuple[Path, Path]
) -> None:
    process = start_training(cluster, caches, tmp_path)
    wait_for(lambda: any((tmp_path / "t").glob("*.safetensors")), process)
    process.send_signal(signal.SIGSTOP)  # so that it gives no task before the mount
    refused_when_joined_by(cluster, "10.77.0.7", other_source, process)


def start_training(cluster: Cluster, caches: Path, folder: Path) -> subprocess.Popen[str]:
    arguments = quick(
        "--cache", caches, *TRAINING, *ADDRESS, "--output", folder / "ray", "--trained", folder / "t"
    )
    return subprocess.Popen(
        [*cluster.inside(), sys.executable, "-m", "ser_memory.train.cli", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_training_loses_a_node(cluster: Cluster, caches: Path, tmp_path: Path) -> None:
    with cluster.node("10.77.0.6") as node:
        process = start_training(cluster, caches, tmp_path)
        wait_for(
            lambda: (
                len(list((tmp_path / "t").glob("*.safetensors"))) >= 2 and stopped_in(node, b"ray::train")
            ),
            process,
        )
        cluster.kill(node)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert run("--cache", caches, *TRAINING, "--output", tmp_path / "alone").exit_code == 0
    for name in ("results.csv", "memory.csv", "epochs.csv", "predictions.h5"):
        assert (tmp_path / "ray" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
