"""Real servers: many clients at once, broken, slow and cut off uploads, and the page in Debian's Chromium.

With SER_SCREENSHOTS set to a folder, pictures of the page go there.
"""

from __future__ import annotations

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
import soundfile
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from ser_memory.train.predict.predictor import Predictor
from ser_memory.train.predict.settings import PredictSettings
from tests.bundles import save, untrained
from tests.integration.browser import PHONE, Browser, chromium
from tests.models import save_acoustic, save_text

_CLIENTS, _ROUNDS = 50, 6
_MICROPHONE = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@dataclass(frozen=True)
class Server:
    """A process of ser-serve."""

    address: str
    process: subprocess.Popen[str]
    uploads: Path  # its folder for temporary files

    @property
    def megabytes(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    @property
    def handles(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))

    @property
    def held(self) -> int:
        """Files of uploads, which have no name but take space while they are open."""
        files = 0
        for handle in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # closed meanwhile
                files += handle.readlink().is_relative_to(self.uploads)
        return files

    def receiving(self) -> int:
        return int(httpx.get(f"{self.address}/health").json()["uploads"])

    def begin(self, length: int, sent: int, client: str = "127.0.0.1") -> socket.socket:
        """A connection from an address with the beginning of an upload: so many bytes of a recording of `length`."""
        host, port = self.address.removeprefix("http://").split(":")
        connection = socket.create_connection((host, int(port)), 60, (client, 0))
        part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
        connection.sendall(
            b"POST /ratings HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: multipart/form-data; boundary=x\r\n"
            b"Content-Length: %d\r\n\r\n" % (len(part) + length) + part + bytes(sent)
        )
        return connection


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle")
    acoustic = save_acoustic(folder / "acoustic", "wav2vec2 with group norm")
    return save(untrained(acoustic, save_text(folder / "text")), folder / "bundle").folder


@contextmanager
def serving(bundle: Path, uploads: Path, *options: str) -> Iterator[Server]:
    uploads.mkdir()
    command = [
        sys.executable,
        "-m",
        "ser_memory.train.serve.cli",
        str(bundle),
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    with subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env={**os.environ, "TMPDIR": str(uploads), "PYTHONUNBUFFERED": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " at http://127.0.0.1:" in line, line + process.stdout.read()
        server = Server(line.split(" at ")[1].split("/ ")[0], process, uploads)
        for _ in range(100):
            try:
                httpx.get(f"{server.address}/health")
                break
            except httpx.ConnectError:
                time.sleep(0.05)
        try:
            yield server
        finally:
            process.terminate()


def eventually(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError


def sounds(n: int) -> list[bytes]:
    """Recordings of 3 to 8 s in several formats."""
    made = []
    for number in range(n):
        random = np.random.default_rng(number)
        written = io.BytesIO()
        noise = random.normal(0, 0.1, round(random.uniform(3, 8) * 16_000))
        soundfile.write(written, noise, 16_000, format=("WAV", "FLAC", "OGG", "MP3")[number % 4])
        made.append(written.getvalue())
    return made


def test_many_clients_at_once(bundle: Path, tmp_path: Path) -> None:
    """Every request has its answer, and that answer is its own; memory and open files do not grow."""
    uploads = sounds(_CLIENTS)
    broken = [b"", b"broken", bytes(1_000_000), uploads[0][:2000], b"RIFF" + bytes(40)]
    predictor = Predictor(bundle, PredictSettings(device="cpu"))
    expected = []
    for number, upload in enumerate(uploads):
        (tmp_path / str(number)).write_bytes(upload)
        (rating,) = predictor.predict([tmp_path / str(number)])
        expected.append(rating.values)

    seen: Counter[int] = Counter()
    waits: list[float] = []

    def ask(number: int) -> None:
        bad = number % 5 == 0
        content = broken[number // 5 % len(broken)] if bad else uploads[number]
        with httpx.Client(timeout=120) as client:
            for _ in range(200):
                start = time.monotonic()
                answer = client.post(f"{server.address}/ratings", files={"file": ("x", content)})
                seen[answer.status_code] += 1
                if answer.status_code != 503:
                    break
                assert 1 <= int(answer.headers["retry-after"]) < 60
                time.sleep(0.2)  # sooner than asked, so that the queue stays full
        waits.append(time.monotonic() - start)
        if bad:
            assert answer.status_code == 422, answer.text
            assert answer.json()["error"].endswith(".")
        else:
            assert answer.status_code == 200, answer.text
            assert answer.json()["values"] == pytest.approx(expected[number], abs=1e-5)

    limits = ("--max-per-minute", "100000", "--max-waiting", "20")
    with serving(bundle, tmp_path / "uploads", *limits) as server, ThreadPoolExecutor(_CLIENTS) as clients:
        used, handles = [server.megabytes], [server.handles]
        start = time.monotonic()
        for _ in range(_ROUNDS):
            list(clients.map(ask, range(_CLIENTS)))
            used.append(server.megabytes)
            handles.append(server.handles)
        seconds = time.monotonic() - start
        health = httpx.get(f"{server.address}/health").json()
    low, middle, high = np.percentile(waits, [5, 50, 95])
    print(
        f"{_ROUNDS * _CLIENTS / seconds:.1f} requests/s; latency {low:.2f}, {middle:.2f}, {high:.2f} s (5, 50, 95 %); "
        f"{dict(seen)}; MB {[round(each) for each in used]}; handles {handles}"
    )
    assert (seen[200], seen[422], set(seen) <= {200, 422, 503}) == (40 * _ROUNDS, 10 * _ROUNDS, True)
    assert seen[503] > 0
    assert health["uploads"] == 0
    # What is not freed would grow with every round; the heap may grow by a step once.
    assert np.median(np.diff(used[1:])) < 3
    assert used[-1] < used[1] + 60
    assert max(handles[-2:]) <= handles[1] + 5
    assert list((tmp_path / "uploads").iterdir()) == []


def test_a_client_that_sends_too_many_is_told_when_to_come_back(bundle: Path, tmp_path: Path) -> None:
    (upload,) = sounds(1)
    with serving(bundle, tmp_path / "uploads", "--max-per-minute", "2") as server:
        answers = [httpx.post(f"{server.address}/ratings", files={"file": upload}) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert 0 < int(answers[-1].headers["retry-after"]) <= 60


def test_slow_clients_keep_nobody_waiting(bundle: Path, tmp_path: Path) -> None:
    """Clients that send a byte a second are more than the places; another is served, and they are sent away."""
    (upload,) = sounds(1)
    stop = threading.Event()

    def trickle(connections: list[socket.socket]) -> None:
        while not stop.wait(1):
            for connection in connections:
                with suppress(OSError):  # the server has closed it
                    connection.send(b"0")

    with serving(bundle, tmp_path / "uploads", "--max-waiting", "2") as server, ExitStack() as opened:
        slow = [opened.enter_context(server.begin(1_000_000, 80_000)) for _ in range(10)]
        opened.enter_context(ThreadPoolExecutor(1)).submit(trickle, slow)
        opened.callback(stop.set)
        eventually(lambda: server.receiving() == len(slow))
        answer = httpx.post(f"{server.address}/ratings", files={"file": upload}, timeout=60)
        assert answer.status_code == 200, answer.text
        for connection in slow:
            with connection.makefile("rb") as file:
                said = file.read()  # to the end: the server closes the connection
            assert b" 408 " in said.split(b"\r\n")[0]
            assert b"less than 8 kB per second" in said
        assert (server.receiving(), server.held) == (0, 0)


def test_uploads_that_arrive_are_limited_too(bundle: Path, tmp_path: Path) -> None:
    """One client has room for all that it may send in a minute, and leaves room for others."""
    limits = ("--max-waiting", "2", "--max-per-minute", "3")
    clients = ["127.0.0.2"] * 3 + ["127.0.0.3"] * 2
    with serving(bundle, tmp_path / "uploads", *limits) as server:
        with ExitStack() as opened:
            for client in clients:
                opened.enter_context(server.begin(1_000_000, 400_000, client))
            eventually(lambda: server.receiving() == len(clients))
            full = httpx.post(f"{server.address}/ratings", files={"file": b"x"})
            assert (full.status_code, int(full.headers["retry-after"]) > 0) == (503, True)
        eventually(lambda: server.receiving() == 0)
        assert httpx.post(f"{server.address}/ratings", files={"file": b"x"}).status_code == 422


def test_nothing_of_a_cut_off_upload_stays(bundle: Path, tmp_path: Path) -> None:
    """Its file is gone when the connection is, or with the answer to a body that lacks its end."""
    with serving(bundle, tmp_path / "uploads", "--max-megabytes", "5") as server:
        with server.begin(4_000_000, 3_000_000):
            eventually(lambda: server.held == 1)
        eventually(lambda: server.held == server.receiving() == 0)
        with server.begin(3_000_000, 3_000_000) as connection:
            assert b" 422 " in connection.recv(100)
            eventually(lambda: server.held == server.receiving() == 0)
        assert list(server.uploads.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_of_an_upload_stays_when_the_server_is_killed(
    how: signal.Signals, bundle: Path, tmp_path: Path
) -> None:
    upload = io.BytesIO()
    soundfile.write(upload, np.random.default_rng(0).normal(0, 0.1, 120 * 16_000), 16_000, format="WAV")
    with serving(bundle, tmp_path / "uploads") as server, ThreadPoolExecutor(8) as clients:
        waiting = [
            clients.submit(
                httpx.post, f"{server.address}/ratings", files={"file": upload.getvalue()}, timeout=60
            )
            for _ in range(8)
        ]
        for _ in range(200):
            if httpx.get(f"{server.address}/health").json()["uploads"] > 2:
                break
            time.sleep(0.02)
        server.process.send_signal(how)
        server.process.wait(60)
        answered = sum(each.exception() is None for each in waiting)
        assert server.process.stdout is not None
        said = server.process.stdout.read()
    assert list((tmp_path / "uploads").iterdir()) == []
    if how != signal.SIGKILL:
        assert answered > 2  # what it had taken it has rated
    if how == signal.SIGINT:
        assert (server.process.returncode, said) == (0, "")


def test_what_cannot_be_served_is_said_in_a_sentence(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path / "uploads") as server:
        port = server.address.rpartition(":")[2]
        command = [sys.executable, "-m", "ser_memory.train.serve.cli", str(bundle)]
        taken = subprocess.run([*command, "--port", port], capture_output=True, text=True, check=False)
    assert (taken.returncode, taken.stderr.count("\n")) == (1, 1)
    assert f"cannot listen at 127.0.0.1, port {port} (Address already in use)" in taken.stderr
    none = subprocess.run([*command[:-1], str(tmp_path / "x"), "--host", "0.0.0.0", "--port", "0"],
                          capture_output=True, text=True, check=False)  # fmt: skip
    assert "asks for no password" in none.stderr
    assert none.returncode != 0


def figures(browser: Browser) -> dict[str, float]:
    """The ratings that the page shows, once it does."""
    WebDriverWait(browser.driver, 30).until(
        lambda driver: (
            driver.find_element(By.ID, "result").is_displayed()
            or driver.find_element(By.ID, "error").is_displayed()
        )
    )
    assert browser.run("return document.getElementById('error').textContent") == ""
    rows = browser.run(
        "return [...document.querySelectorAll('#values tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    return {name: float(value) for name, value in rows}


def test_the_page_rates_a_file(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    noise = np.random.default_rng(3).normal(0, 0.1, 100 * 16_000)
    soundfile.write(path, noise * np.repeat(np.linspace(0.05, 1, 100), 16_000), 16_000)
    (tmp_path / "broken.wav").write_bytes(b"broken")
    (expected,) = Predictor(bundle, PredictSettings(device="cpu")).predict([path])
    with serving(bundle, tmp_path / "uploads") as server, chromium() as browser:
        browser.open(f"{server.address}/")
        browser.driver.find_element(By.ID, "file").send_keys(str(path))
        browser.driver.find_element(By.ID, "send").click()
        assert figures(browser) == pytest.approx(expected.values, abs=0.0051)
        lines = browser.run(
            "return [...document.querySelectorAll('#track path')].map(p => p.getAttribute('d'))"
        )
        assert [line.count("H") for line in lines] == [len(expected.track)] * 2
        photograph(browser, "serve")
        browser.driver.find_element(By.ID, "file").send_keys(str(tmp_path / "broken.wav"))
        browser.driver.find_element(By.ID, "send").click()
        WebDriverWait(browser.driver, 30).until(
            lambda driver: "no audio track" in driver.find_element(By.ID, "error").text
        )
        assert all(each.startswith((server.address, "data:")) for each in browser.requests())
        assert [line for line in browser.complaints() if "422" not in line] == []


def test_the_page_rates_what_the_microphone_hears(bundle: Path, tmp_path: Path) -> None:
    with serving(bundle, tmp_path / "uploads") as server, chromium(switches=_MICROPHONE) as browser:
        browser.open(f"{server.address}/", width=PHONE, dark=True)
        button = browser.driver.find_element(By.ID, "record")
        button.click()
        WebDriverWait(browser.driver, 10).until(lambda _: button.text == "Stop and rate")
        time.sleep(4)
        button.click()
        assert set(figures(browser)) == {"activation", "valence"}
        assert 3 < float(browser.run("return parseFloat(document.getElementById('flags').textContent)")) < 6
        assert browser.run("return document.documentElement.scrollWidth") <= PHONE
        assert browser.complaints() == []
        photograph(browser, "serve-phone")


def photograph(browser: Browser, name: str) -> None:
    if os.environ.get("SER_SCREENSHOTS"):
        browser.photograph(Path(os.environ["SER_SCREENSHOTS"]) / f"{name}.png")
