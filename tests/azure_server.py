"""A local server with the protocol of Azure's fast transcription and the faults of a real service."""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.policy import HTTP
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.extract.audio import load
from ser_memory.extract.transcripts.engines.azure import wav
from tests.http_server import serving_http

KEY = "0123456789abcdef-this-key-must-never-be-seen"


@dataclass
class Request:
    """One request as the server saw it."""

    id: str  # of the recording, "" if it was not registered
    definition: dict[str, Any]
    stored: bool  # whether its transcript was in the store when the request arrived
    fault: str


@dataclass
class Azure:
    """What the server knows and has seen. `fault` names the fault of the n-th request, "" for none."""

    texts: dict[str, str] = field(
        default_factory=dict
    )  # id -> its reply; every other id has a text of its own
    fault: Callable[[int, str], str] = lambda n, name: ""
    store: Path | None = None
    delay: float = 0.0  # seconds per reply
    key: str = KEY
    endpoint: str = ""
    requests: list[Request] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    mutex: threading.Lock = field(default_factory=threading.Lock)
    known: dict[str, str] = field(default_factory=dict)  # digest of the samples -> id

    def register(self, recordings: dict[str, Path]) -> None:
        for name, path in recordings.items():
            self.known[_digest(wav(load(path)))] = name

    def text(self, name: str) -> str:
        return self.texts.get(name, f"This is what {name} said.")

    def asked(self) -> list[str]:
        return [request.id for request in self.requests]


@contextmanager
def serving(azure: Azure) -> Iterator[Azure]:
    with serving_http(_handler(azure)) as azure.endpoint:
        yield azure


def _digest(data: bytes) -> str:
    with wave.open(io.BytesIO(data)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, SAMPLING_RATE)
        return hashlib.sha256(file.readframes(file.getnframes())).hexdigest()


def _handler(azure: Azure) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            with azure.mutex:
                azure.at_once += 1
                azure.most_at_once = max(azure.most_at_once, azure.at_once)
            try:
                self.answer(body)
            finally:
                with azure.mutex:
                    azure.at_once -= 1

        def answer(self, body: bytes) -> None:
            address = urlsplit(self.path)
            if address.path != "/speechtotext/transcriptions:transcribe":
                self.reply(404, {"error": {"code": "NotFound", "message": "Resource not found"}})
                return
            assert parse_qs(address.query) == {"api-version": ["2025-10-15"]}
            if self.headers["Ocp-Apim-Subscription-Key"] != azure.key:
                given = self.headers["Ocp-Apim-Subscription-Key"]
                self.reply(
                    401, {"error": {"code": "401", "message": f"Access denied, the key {given} is invalid"}}
                )
                return
            parts = _form(self.headers["Content-Type"], body)
            definition, name = json.loads(parts["definition"]), azure.known.get(_digest(parts["audio"]), "")
            with azure.mutex:
                number = len(azure.requests)
                fault = azure.fault(number, name)
                azure.requests.append(Request(name, definition, _is_stored(azure.store, name), fault))
            time.sleep(azure.delay)
            self.fail(fault, name) if fault else self.reply(200, _transcription(azure.text(name)))

        def fail(self, fault: str, name: str) -> None:
            good = json.dumps(_transcription(azure.text(name))).encode()
            if fault.startswith("429"):  # "429" or "429 after SECONDS"
                after = fault.rpartition(" ")[2] if "after" in fault else None
                message = {"error": {"code": "429", "message": "Requests have exceeded the call rate limit"}}
                self.reply(429, message, {"Retry-After": after} if after else {})
            elif fault.isdigit():
                self.reply(int(fault), {"error": {"code": fault, "message": f"It is a {fault}"}})
            elif fault == "truncated":  # the connection ends before the body does
                self.send(200, good[: len(good) // 2], {"Content-Length": str(len(good))})
                self.close_connection = True
            elif fault == "half":  # the body is whole, and half a document
                self.send(200, good[: len(good) // 2], {"Content-Length": str(len(good) // 2)})
            elif fault == "strange":
                self.reply(200, {"something": "else"})
            elif fault == "reset":
                self.close_connection = True
            elif fault == "slow":
                time.sleep(0.3)
                self.reply(200, _transcription(azure.text(name)))

        def reply(self, status: int, content: dict[str, Any], headers: dict[str, str] | None = None) -> None:
            data = json.dumps(content).encode()
            self.send(status, data, {"Content-Length": str(len(data)), **(headers or {})})

        def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _form(content_type: str, body: bytes) -> dict[str, bytes]:
    message = BytesParser(policy=HTTP).parsebytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    assert message.get_content_type() == "multipart/form-data"
    parts: dict[str, bytes] = {}
    for part in message.iter_parts():
        data = part.get_payload(decode=True)
        assert isinstance(data, bytes)
        parts[str(part.get_param("name", header="content-disposition"))] = data
    assert set(parts) == {"definition", "audio"}
    return parts


def _transcription(text: str) -> dict[str, Any]:
    phrase = {
        "offsetMilliseconds": 40,
        "durationMilliseconds": 2000,
        "text": text,
        "locale": "en-US",
        "confidence": 0.93,
    }
    return {
        "durationMilliseconds": 3200,
        "combinedPhrases": [{"text": text}] if text else [],
        "phrases": [phrase] if text else [],
    }


def _is_stored(store: Path | None, name: str) -> bool:
    if store is None or not store.exists():
        return False
    return any(json.loads(line)["id"] == name for line in store.read_bytes().split(b"\n")[:-1])
