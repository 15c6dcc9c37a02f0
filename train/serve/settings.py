"""The options of the server. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass

from ser_memory.common.options import Options, option


@dataclass(frozen=True)
class ServeSettings(Options):
    """Where the server listens, and how much it takes."""

    title = "Server"
    host: str = option(
        "127.0.0.1", help="Address to listen at; with another than this machine's own, others can reach it."
    )
    port: int = option(8000, minimum=0, maximum=65_535, help="Port to listen at; 0 is any that is free.")
    max_megabytes: float = option(25.0, minimum=0, above=True, help="Largest upload in megabytes.")
    max_minutes: float = option(30.0, minimum=0, above=True, help="Longest recording in minutes.")
    max_per_minute: int = option(60, minimum=1, help="Uploads that one client may send within a minute.")
    max_waiting: int = option(
        32,
        minimum=1,
        help="Uploads that wait or are rated at the same time; others are asked to come back.",
    )
