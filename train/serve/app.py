"""The server's addresses: the page, its health, and ratings of uploads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus
from importlib import resources
from typing import Any, BinaryIO, cast

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect

from ser_memory.common import __version__
from ser_memory.train.predict.predictor import Predictor
from ser_memory.train.serve.answers import HealthAnswer, RatingAnswer
from ser_memory.train.serve.limits import Places, Rate, RefusedError, bounded
from ser_memory.train.serve.rater import Rater
from ser_memory.train.serve.settings import ServeSettings

LOCAL = ("127.0.0.1", "localhost")

_TEXT = 10_000  # characters of what was said
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "frame-ancestors 'none'"
)
_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {
                    "file": {"type": "string", "format": "binary", "description": "a recording"},
                    "text": {"type": "string", "description": "what is said in it, if that is known"},
                },
            }
        }
    },
}


def make_app(predictor: Predictor, settings: ServeSettings) -> FastAPI:
    """The server as an ASGI application."""
    places, rate = Places(settings.max_waiting), Rate(settings.max_per_minute)
    # An upload takes its place when it is complete, so that slow clients keep nobody waiting. While it arrives it costs
    # little: there is room for all that one client may begin in a minute, and for others besides.
    arriving = Places(settings.max_per_minute + settings.max_waiting)
    rater = Rater(predictor, places, settings.max_minutes)

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        yield
        rater.close()

    # The usual pages of documentation load scripts from elsewhere; /openapi.json is there.
    app = FastAPI(title="ser-serve", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    if settings.host in LOCAL:
        # Otherwise a page of the web could reach this address under a name of its own.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOCAL))
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(HTTPException, _failed)

    page = resources.files("ser_memory.train.serve").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/", response_class=HTMLResponse)
    async def root() -> HTMLResponse:
        """The page."""
        return HTMLResponse(page, headers={"Content-Security-Policy": _POLICY})

    @app.get("/health")
    async def health() -> HealthAnswer:
        """What the server is, and how much it has to do."""
        return HealthAnswer(
            status="ok",
            model=predictor.title,
            dimensions=list(predictor.dimensions),
            uploads=arriving.taken + places.taken,
            max_megabytes=settings.max_megabytes,
            max_minutes=settings.max_minutes,
        )

    @app.post("/ratings", openapi_extra={"requestBody": _BODY})
    async def ratings(request: Request) -> RatingAnswer:
        """Rate a recording of any format and length that the limits allow."""
        rate.take(request.client.host if request.client else "")
        receive = bounded(request.receive, request.headers.get("content-length"), settings.max_megabytes)
        places.refuse_if_full()  # before the recording is sent in vain
        async with _form(Request(request.scope, receive), arriving) as form:
            with places.one():
                return RatingAnswer.of(await rater.rate(_file(form), _text(form)))

    return app


@asynccontextmanager
async def _form(request: Request, arriving: Places) -> AsyncIterator[FormData]:
    """The body of an upload, once it is complete; its file is gone after the block.

    Raises RefusedError if it is no multipart form, does not come to an end, or if too many arrive.
    """
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise RefusedError(415, "The body must be multipart/form-data with a recording in the field file.")
    try:
        with arriving.one():
            form = await request.form(max_files=1, max_fields=1)
    except ClientDisconnect:
        raise RefusedError(400, "The upload was broken off.") from None
    try:
        yield form
    finally:
        await form.close()


def _file(form: FormData) -> BinaryIO:
    """The recording, in a file without a name. Raises RefusedError if there is none."""
    upload = form.get("file")
    if not isinstance(upload, UploadFile) or not upload.size:
        raise RefusedError(422, "There is no recording in the field file: send one.")
    file = cast(Any, upload.file)
    file.rollover()  # a small one is in memory only
    file.flush()
    return cast(BinaryIO, file)


def _text(form: FormData) -> str | None:
    """What is said, if that is known. Raises RefusedError if it is too long."""
    text = form.get("text")
    if not isinstance(text, str):
        return None
    if len(text) > _TEXT:
        raise RefusedError(422, f"The text has {len(text)} characters, and {_TEXT} are allowed.")
    return text.strip() or None


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    if error.status == HTTPStatus.REQUEST_TIMEOUT:
        headers["Connection"] = "close"  # else the rest of the body is awaited and ignored
    return JSONResponse({"error": str(error)}, error.status, headers)


async def _failed(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)
