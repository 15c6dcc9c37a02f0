"""A local server with the protocol of the Hugging Face hub for models, as far as pushing and downloading one need it."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import urlsplit

from tests.http_server import serving_http

TOKEN = "hf_this-token-must-never-be-seen"
USER = "me"  # whose token it is


@dataclass(frozen=True)
class Commit:
    oid: str
    summary: str
    files: dict[str, bytes]


@dataclass
class Repository:
    private: bool
    commits: list[Commit] = field(default_factory=list)

    def commit(self, summary: str, files: dict[str, bytes]) -> Commit:
        """Add or replace files."""
        number = len(self.commits)
        oid = hashlib.sha1(f"{number} {summary}".encode()).hexdigest()
        self.commits.append(Commit(oid, summary, {**self.files, **files}))
        return self.commits[-1]

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1].files if self.commits else {}


@dataclass
class Hub:
    """What the server has and has seen. `fault` gives the status of a request that fails, by method and path; 0 for none.

    A status below zero closes the connection without a reply, once the request was obeyed.
    """

    fault: Callable[[str], int] = lambda request: 0
    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    storage: dict[str, bytes] = field(default_factory=dict)  # of large files, by SHA-256
    requests: list[str] = field(default_factory=list)

    def create(self, name: str, *, private: bool) -> Repository:
        """A repository with its first commit."""
        self.repositories[name] = Repository(private)
        self.repositories[name].commit("initial commit", {".gitattributes": b"*.safetensors filter=lfs\n"})
        return self.repositories[name]


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    with serving_http(_handler(hub)) as hub.endpoint:
        yield hub


class _RefusalError(Exception):
    def __init__(self, status: int, message: str, code: str = "", **more: str) -> None:
        super().__init__(message)
        self.status, self.code, self.more = status, code, more


def is_large(path: str) -> bool:
    return path.endswith(".safetensors")


def _oid(path: str, content: bytes) -> str:
    """As Git has it; of a large file its SHA-256."""
    if is_large(path):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.answer(self.body())

        do_PUT = do_GET = do_HEAD = do_POST  # noqa: N815

        def body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length", 0)))
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found

        def answer(self, body: bytes) -> None:
            path = urlsplit(self.path).path
            request = f"{self.command} {path}"
            hub.requests.append(request)
            status = hub.fault(request)
            try:
                if status > 0:
                    raise _RefusalError(status, f"It is a {status}")
                if not path.startswith("/storage/") and self.headers["Authorization"] != f"Bearer {TOKEN}":
                    raise _RefusalError(401, "Invalid username or password.")
                for pattern, reply in _ROUTES.items():
                    found = re.fullmatch(pattern, request)
                    if found is not None:
                        content = reply(hub, body, *found.groups())
                        break
                else:
                    raise _RefusalError(404, "Sorry, we can't find the page you are looking for.")
            except _RefusalError as error:
                self.send(error.status, json.dumps({"error": str(error), **error.more}).encode(),
                          {"X-Error-Message": str(error), "X-Error-Code": error.code})  # fmt: skip
                return
            if status < 0:
                self.close_connection = True
            elif isinstance(content, tuple):
                self.send(200, *content)
            else:
                self.send(200, json.dumps(content).encode(), {})

        def send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **headers}
            for name, value in headers.items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def _known(hub: Hub, name: str) -> Repository:
    if name not in hub.repositories:
        raise _RefusalError(404, "Repository not found", "RepoNotFound")
    return hub.repositories[name]


def _at(hub: Hub, name: str, revision: str) -> Commit:
    commits = _known(hub, name).commits
    return commits[-1] if revision == "main" else next(each for each in commits if each.oid == revision)


def _create(hub: Hub, body: bytes) -> dict[str, Any]:
    asked = json.loads(body)
    name = f"{asked['organization']}/{asked['name']}"
    if asked["organization"] != USER:
        raise _RefusalError(403, f'You don\'t have the rights to create a model under the namespace "{USER}"')
    if name in hub.repositories:
        raise _RefusalError(409, "You already created this model repo", url=f"{hub.endpoint}/{name}")
    hub.create(name, private=asked.get("visibility") == "private" or bool(asked.get("private")))
    return {"url": f"{hub.endpoint}/{name}"}


def _info(hub: Hub, body: bytes, name: str, revision: str | None) -> dict[str, Any]:
    return {"id": name, "sha": _at(hub, name, revision or "main").oid, "private": _known(hub, name).private}


def _validate(hub: Hub, body: bytes) -> dict[str, Any]:
    missing = not json.loads(body)["content"].startswith("---\n")
    return {
        "errors": [],
        "warnings": [{"message": "empty or missing yaml metadata in repo card"}] if missing else [],
    }


def _preupload(hub: Hub, body: bytes, name: str) -> dict[str, Any]:
    there = _known(hub, name).files
    return {
        "files": [
            {
                "path": path,
                "uploadMode": "lfs" if is_large(path) else "regular",
                "shouldIgnore": False,
                "oid": _oid(path, there[path]) if path in there else None,
            }
            for path in (each["path"] for each in json.loads(body)["files"])
        ]
    }


def _batch(hub: Hub, body: bytes, name: str) -> dict[str, Any]:
    _known(hub, name)
    objects = [{"oid": each["oid"], "size": each["size"]} for each in json.loads(body)["objects"]]
    for each in objects:
        if each["oid"] not in hub.storage:
            each["actions"] = {
                "upload": {"href": f"{hub.endpoint}/storage/{each['oid']}"},
                "verify": {"href": f"{hub.endpoint}/api/verify"},
            }
    return {"transfer": "basic", "objects": objects}


def _store(hub: Hub, body: bytes, oid: str) -> dict[str, Any]:
    if hashlib.sha256(body).hexdigest() != oid:
        raise _RefusalError(400, "The content has another SHA-256")
    hub.storage[oid] = body
    return {}


def _verify(hub: Hub, body: bytes) -> dict[str, Any]:
    asked = json.loads(body)
    if len(hub.storage.get(asked["oid"], b"")) != asked["size"]:
        raise _RefusalError(404, "Object not found")
    return {}


def _commit(hub: Hub, body: bytes, name: str) -> dict[str, Any]:
    repository = _known(hub, name)
    lines = [json.loads(line) for line in body.splitlines()]
    assert lines[0]["key"] == "header"
    header, files = lines[0]["value"], dict[str, bytes]()
    if header.get("parentCommit", repository.commits[-1].oid) != repository.commits[-1].oid:
        raise _RefusalError(412, "A commit has happened since. Please refresh and try again.")
    for line in lines[1:]:
        value = line["value"]
        large = line["key"] == "lfsFile"
        files[value["path"]] = hub.storage[value["oid"]] if large else base64.b64decode(value["content"])
    made = repository.commit(header["summary"], files)
    return {"commitUrl": f"{hub.endpoint}/{name}/commit/{made.oid}", "commitOid": made.oid}


def _tree(hub: Hub, body: bytes, name: str, revision: str) -> list[dict[str, Any]]:
    return [
        {
            "type": "file",
            "path": path,
            "size": len(content),
            "oid": hashlib.sha1(content).hexdigest(),
            **(
                {"lfs": {"oid": _oid(path, content), "size": len(content), "pointerSize": 134}}
                if is_large(path)
                else {}
            ),
        }
        for path, content in _at(hub, name, revision).files.items()
    ]


def _resolve(hub: Hub, body: bytes, name: str, revision: str, path: str) -> tuple[bytes, dict[str, str]]:
    commit = _at(hub, name, revision)
    if path not in commit.files:
        raise _RefusalError(404, "Entry not found", "EntryNotFound")
    content = commit.files[path]
    return content, {
        "X-Repo-Commit": commit.oid,
        "ETag": f'"{_oid(path, content)}"',
        "Content-Type": "application/octet-stream",
    }


_NAME = r"([\w.-]+/[\w.-]+)"
_ROUTES: dict[str, Callable[..., Any]] = {
    "POST /api/repos/create": _create,
    "POST /api/validate-yaml": _validate,
    "POST /api/verify": _verify,
    rf"GET /api/models/{_NAME}(?:/revision/(\w+))?": _info,
    rf"POST /api/models/{_NAME}/preupload/main": _preupload,
    rf"POST /{_NAME}\.git/info/lfs/objects/batch": _batch,
    r"PUT /storage/(\w+)": _store,
    rf"POST /api/models/{_NAME}/commit/main": _commit,
    rf"GET /api/models/{_NAME}/tree/(\w+)": _tree,
    rf"(?:GET|HEAD) /{_NAME}/resolve/(\w+)/(.+)": _resolve,
}
