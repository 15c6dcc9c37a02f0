"""ser-serve: ratings of uploads, and a page to try them, from one bundle."""

from __future__ import annotations

import ipaddress
import logging
import os
import socket
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click

from ser_memory.common import __version__
from ser_memory.common.console import Command, say
from ser_memory.common.errors import SerError
from ser_memory.common.options import options_of
from ser_memory.common.reporting import Silent, notice, reporting_to
from ser_memory.train.predict.settings import PREDICTOR, PredictSettings
from ser_memory.train.serve.settings import ServeSettings

EXAMPLES = """
\b
Examples:
  ser-serve runs/first/bundles/gem-random-1000
  ser-serve model --port 9000 --max-megabytes 5 --max-per-minute 10
"""
_NEEDED = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
# oneDNN keeps what it has prepared for the last 1,024 shapes, and every length of a recording is a new one: memory would
# grow by hundreds of megabytes. A recording has a few dozen shapes.
_ONEDNN = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
_GRACE = 30  # seconds for what is being rated when the server is stopped


@click.command("ser-serve", cls=Command, epilog=EXAMPLES)
@click.argument("bundle", type=click.Path(path_type=Path))
@options_of(ServeSettings, *PREDICTOR)
@click.version_option(__version__, package_name="ser-memory", message="ser-memory %(version)s")
def main(bundle: Path, **options: Any) -> None:
    """Serve a BUNDLE of ser-train, or a folder of several seeds' bundles: a page, and ratings of uploads as JSON.

    The page takes files and the microphone, and needs no other server. POST /ratings takes a recording in the field file
    and perhaps what is said in the field text; GET /health says what is served. Uploads are in files without a name, which
    are gone after the answer, whatever happens. Addresses and names of files are not logged.
    """
    settings, model = ServeSettings.take(options), PredictSettings.take(options)
    missing = [package for module, package in _NEEDED.items() if find_spec(module) is None]
    if missing:
        raise SerError(f"ser-serve needs {' and '.join(missing)}: pip install 'ser-memory[serve]'.")
    if not _is_local(settings.host):
        notice(
            f"Everybody who can reach {settings.host} can use this server: it asks for no password, and encrypts nothing."
        )
    with _listening(settings) as listener:
        _serve(bundle, settings, model, listener)


def _serve(bundle: Path, settings: ServeSettings, model: PredictSettings, listener: socket.socket) -> None:
    os.environ.setdefault(*_ONEDNN)  # read when torch is first used
    import numpy as np
    import uvicorn

    from ser_memory.common.conventions import SAMPLING_RATE
    from ser_memory.train.predict.predictor import Predictor
    from ser_memory.train.serve.app import make_app

    predictor = Predictor(bundle, model)
    # Loads the encoder: what is wrong with it is said now and not at the first upload.
    with reporting_to(Silent()):
        predictor.predict([np.zeros(SAMPLING_RATE, np.float32)])
    logging.getLogger("python_multipart").setLevel(
        logging.CRITICAL
    )  # a broken upload is the client's to know
    config = uvicorn.Config(
        make_app(predictor, settings),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=_GRACE,
    )
    host, port = listener.getsockname()[:2]
    place = f"[{host}]" if ":" in host else host
    say(f"{predictor.title} at http://{place}:{port}/ (Ctrl-C ends it)")
    with suppress(KeyboardInterrupt):  # uvicorn sends it again once it has stopped
        uvicorn.Server(config).run(sockets=[listener])


def _listening(settings: ServeSettings) -> socket.socket:
    """A socket at the host and port. Raises SerError if there can be none."""
    try:
        kind, _, _, _, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(kind)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise SerError(
            f"The server cannot listen at {settings.host}, port {settings.port} ({error.strerror}): give another --port or "
            "--host."
        ) from error
    return listener


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    main()
