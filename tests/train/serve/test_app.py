"""The addresses of the server, without a network; real servers are tests of tests/integration."""

from __future__ import annotations

import asyncio
import gc
import io
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import soundfile

from ser_memory.train.predict.predictor import Predictor
from ser_memory.train.predict.settings import PredictSettings
from ser_memory.train.serve.app import make_app
from ser_memory.train.serve.settings import ServeSettings
from tests.bundles import save, untrained
from tests.models import save_text


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    folder = tmp_path_factory.mktemp("world")
    text = save_text(folder / "text")
    return Predictor(
        save(untrained("log-mel", text), folder / "bundle").folder, PredictSettings(device="cpu")
    )


def sound(seconds: float = 5.0) -> bytes:
    written = io.BytesIO()
    noise = np.random.default_rng(1).normal(0, 0.1, round(seconds * 16_000))
    soundfile.write(written, noise, 16_000, format="WAV")
    return written.getvalue()


@pytest.fixture(scope="module")
def ask(predictor: Predictor) -> Callable[..., httpx.Response]:
    """A function that sends a request to the server with some settings, from one address."""

    def send(method: str, path: str, settings: ServeSettings | None = None, **request: Any) -> httpx.Response:
        async def talk() -> httpx.Response:
            transport = httpx.ASGITransport(make_app(predictor, settings or ServeSettings()))
            async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
                return await client.request(method, path, **request)

        return asyncio.run(talk())

    return send


def test_a_recording_is_rated_as_by_the_predictor(
    ask: Callable[..., httpx.Response], predictor: Predictor, tmp_path: Path
) -> None:
    (tmp_path / "long.wav").write_bytes(sound(40))
    (expected,) = predictor.predict([tmp_path / "long.wav"], ["it was a good day"])
    answer = ask("POST", "/ratings", files={"file": ("x", sound(40))}, data={"text": " it was a good day "})
    content = answer.json()
    assert answer.status_code == 200
    assert content["values"] == expected.values
    assert (content["seconds"], content["text"]) == (40.0, "it was a good day")
    assert [moment["values"] for moment in content["track"]] == [moment.values for moment in expected.track]
    assert len(content["track"]) == 2
    assert content["flags"] == list(expected.flags)


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ({"files": {"file": ("x", b"broken")}}, 422, "The recording has no audio track that can be read"),
        ({"files": {"file": ("x", sound()[:-9000])}}, 422, "The recording has no audio track"),
        ({"files": {"file": ("x", b"")}}, 422, "There is no recording in the field file"),
        ({"files": {"other": ("x", b"1")}}, 422, "There is no recording in the field file"),
        (
            {"files": {"file": ("x", sound())}, "data": {"text": "so " * 4000}},
            422,
            "The text has 12000 characters",
        ),
        ({"data": {"file": "x"}}, 415, "must be multipart/form-data"),
        (
            {"content": b"abc", "headers": {"content-type": "multipart/form-data; boundary=x"}},
            400,
            "Invalid multipart data",
        ),
        ({"files": {"file": ("x", bytes(1_100_000))}}, 413, "larger than 1 MB"),
        ({"files": {"file": ("x", sound(13))}}, 413, "0.2 minutes long, and 0.2 are allowed"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(
    request_: dict[str, Any], status: int, says: str, ask: Callable[..., httpx.Response]
) -> None:
    handles = len(list(Path("/dev/fd").iterdir()))
    answer = ask("POST", "/ratings", ServeSettings(max_megabytes=1, max_minutes=0.2), **request_)
    assert answer.status_code == status
    assert says in answer.json()["error"]
    assert "/dev/" not in answer.text
    assert abs(len(list(Path("/dev/fd").iterdir())) - handles) < 3


def test_a_cut_off_upload_is_gone_at_once(predictor: Predictor) -> None:
    """Its file is closed, and not when the garbage collector comes."""
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'
    messages: list[dict[str, Any]] = [
        {"type": "http.request", "body": part + bytes(2_000_000), "more_body": True},  # enough for a file
        {"type": "http.disconnect"},
    ]
    scope = {
        "type": "http", "method": "POST", "path": "/ratings", "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"multipart/form-data; boundary=x")],
    }  # fmt: skip
    answers: list[MutableMapping[str, Any]] = []
    held: list[int] = []

    async def receive() -> dict[str, Any]:
        held.append(handles())
        return messages.pop(0)

    async def send(message: MutableMapping[str, Any]) -> None:
        answers.append(message)

    def handles() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    async def talk() -> None:
        await make_app(predictor, ServeSettings())(scope, receive, send)
        held.append(handles())

    gc.disable()
    try:
        asyncio.run(talk())
    finally:
        gc.enable()
    before, during, after = held
    assert answers[0]["status"] == 400
    assert (during, after) == (before + 1, before)


def test_other_names_of_this_address_are_refused(ask: Callable[..., httpx.Response]) -> None:
    assert ask("GET", "/health", headers={"host": "example.org"}).status_code == 400
    public = ServeSettings(host="0.0.0.0")
    assert ask("GET", "/health", public, headers={"host": "example.org"}).status_code == 200


def test_the_page_allows_nothing_from_elsewhere(ask: Callable[..., httpx.Response]) -> None:
    page = ask("GET", "/")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "https://" not in page.text
    assert ask("GET", "/docs").json() == {"error": "Not Found"}
    assert "multipart/form-data" in ask("GET", "/openapi.json").text


def test_what_it_is(ask: Callable[..., httpx.Response]) -> None:
    assert ask("GET", "/health").json() == {
        "status": "ok", "model": "finetune of seed 0 after P+M", "dimensions": ["activation", "valence"], "uploads": 0,
        "max_megabytes": 25.0, "max_minutes": 30.0,
    }  # fmt: skip
