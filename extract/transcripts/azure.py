"""Azure AI Speech, fast transcription: one request per recording, through Microsoft's own client."""

from __future__ import annotations

import io
import os
import re
import wave
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from ser_memory.common.errors import SerError, UsageError
from ser_memory.extract.transcripts.contract import Heard, Options, RefusedError, TryAgainError

if TYPE_CHECKING:
    from ser_memory.extract.audio import Waveform

ENDPOINT_VARIABLE, KEY_VARIABLE = "AZURE_SPEECH_ENDPOINT", "AZURE_SPEECH_API_KEY"  # as in Microsoft's samples
EXTRA = "azure"

_API = "2025-10-15"  # told to the client, so that what it hears does not change with its release
_TIMEOUT = 120.0  # seconds for the reply to one recording
_LOCALE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)+")
_LOCAL = {"localhost", "127.0.0.1", "::1"}
_OK, _UNAUTHORISED, _FORBIDDEN, _NOT_FOUND, _TIMED_OUT, _TOO_MANY = 200, 401, 403, 404, 408, 429
_SERVER_ERRORS, _UNAVAILABLE = 500, 503


def load(options: Options) -> AzureTranscriber:
    """From the two environment variables. Raises UsageError when one is missing or makes no sense."""
    endpoint, key = os.environ.get(ENDPOINT_VARIABLE, "").strip(), os.environ.get(KEY_VARIABLE, "").strip()
    absent = [name for name, value in ((ENDPOINT_VARIABLE, endpoint), (KEY_VARIABLE, key)) if not value]
    if absent:
        raise UsageError(
            f"Azure needs the environment variable{'s' * (len(absent) > 1)} {' and '.join(absent)}: both are under "
            "'Keys and Endpoint' of your Speech resource in the Azure portal."
        )
    address = urlsplit(endpoint)
    if not address.hostname or not (address.scheme == "https" or address.hostname in _LOCAL):
        raise UsageError(
            f"{ENDPOINT_VARIABLE} is {endpoint!r}: it is an address such as "
            "https://westeurope.api.cognitive.microsoft.com, with https, since the key travels with every request."
        )
    if options.language is not None and not _LOCALE.fullmatch(options.language):
        raise UsageError(
            f"--language {options.language!r} is no locale: Azure takes a language and a region, such as en-US."
        )
    return AzureTranscriber(endpoint.rstrip("/"), key, options.language, options.concurrency, _TIMEOUT)


def version(options: Options) -> str:
    """The version of the transcriber that `load` would give; needs neither key nor package."""
    return _version(options.language)


def _version(locale: str | None) -> str:
    return f"api {_API}, {locale or 'language detected'}"


class AzureTranscriber:
    """The service behind one endpoint; threads may share it. The key is in no message and no representation."""

    name = "azure"
    batch_size = 1
    paid = True

    def __init__(self, endpoint: str, key: str, locale: str | None, concurrency: int, timeout: float) -> None:
        try:
            from azure.ai.transcription import TranscriptionClient
            from azure.core.credentials import AzureKeyCredential
            from azure.core.pipeline.policies import RetryPolicy
        except ImportError:
            raise UsageError(
                "The transcriber azure needs the package azure-ai-transcription: "
                f"pip install 'ser-memory[{EXTRA}]'."
            ) from None
        self.concurrency = concurrency
        self._key = key
        self._locale = locale
        self._client = TranscriptionClient(
            endpoint,
            AzureKeyCredential(key),
            retry_policy=RetryPolicy.no_retries(),  # ours knows of the other requests: patience.py
            api_version=_API,
            read_timeout=timeout,
            connection_timeout=timeout,
        )
        self.version = _version(locale)

    def transcribe(self, waveforms: list[Waveform]) -> list[Heard]:
        return [self._one(waveform) for waveform in waveforms]

    def close(self) -> None:
        self._client.close()

    def _one(self, waveform: Waveform) -> Heard:
        from azure.ai.transcription.models import TranscriptionContent, TranscriptionOptions
        from azure.core.exceptions import AzureError, HttpResponseError

        content = TranscriptionContent(
            # By default swear words come back as asterisks, and emotion with them.
            definition=TranscriptionOptions(
                locales=[self._locale] if self._locale else None, profanity_filter_mode="None"
            ),
            audio=("audio.wav", wav(waveform), "audio/wav"),
        )
        try:
            reply = self._client.transcribe(content)
            return _heard(reply)
        except HttpResponseError as error:
            problem = self._http_problem(error)
        except AzureError as error:
            problem = TryAgainError(f"Azure cannot be reached ({self._plain(error)})")
        except (AttributeError, KeyError, TypeError, ValueError):
            problem = TryAgainError("Azure's reply was cut off or is no transcription")
        # Outside the handler, so that the client's exception, which holds the request and its key, is not kept.
        raise problem

    def _http_problem(self, error: Any) -> Exception:
        """What a reply other than a transcription means."""
        status = error.status_code
        if status is None or status == _OK:
            return TryAgainError("Azure's reply was cut off or is no transcription")
        told = f"Azure says HTTP {status}, {self._plain(error)}"
        if status == _UNAUTHORISED:
            return SerError(
                f"{told}: check that {KEY_VARIABLE} is a key of the resource at {ENDPOINT_VARIABLE}."
            )
        if status == _FORBIDDEN:
            return SerError(
                f"{told}: the key is not allowed to transcribe; check the resource's quota, network rules and region."
            )
        if status == _NOT_FOUND:
            return SerError(f"{told}: check {ENDPOINT_VARIABLE}, and that its region has fast transcription.")
        if status in (_TIMED_OUT, _TOO_MANY) or status >= _SERVER_ERRORS:
            return TryAgainError(told, _retry_after(error), busy=status in (_TOO_MANY, _UNAVAILABLE))
        return RefusedError(told)

    def _plain(self, error: Exception) -> str:
        """The service's own words on one line, without the key should it repeat it."""
        inner = getattr(error, "error", None)
        words = (
            getattr(inner, "message", None)
            or getattr(error, "reason", None)
            or str(error)
            or "no reason given"
        )
        line = " ".join(str(words).split()).replace(self._key, "***")
        return line[:200].rstrip(".")


def wav(waveform: Waveform) -> bytes:
    """(samples,) float32 at 16 kHz -> a WAV file of 16 bits."""
    samples = (np.clip(waveform, -1.0, 1.0) * 32767.0).round().astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(16_000)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def _heard(reply: Any) -> Heard:
    """Raises TypeError or AttributeError for a reply that is no transcription."""
    text = " ".join(phrase.text.strip() for phrase in reply.combined_phrases).strip()
    phrases = reply.phrases or []
    weights = [max(1, phrase.duration_milliseconds or 0) for phrase in phrases]
    sure = [phrase.confidence for phrase in phrases]
    confidence = None
    if phrases and None not in sure:
        confidence = float(np.average(sure, weights=weights))
    language = next((phrase.locale for phrase in phrases if phrase.locale), None)
    return Heard(text, language, confidence, status=f"HTTP {_OK}")


def _retry_after(error: Any) -> float | None:
    """Seconds that the service asks to wait, in any of the headers Azure uses; None where it does not say."""
    headers = error.response.headers if error.response is not None else {}
    try:
        for name in ("retry-after-ms", "x-ms-retry-after-ms"):
            if headers.get(name):
                return max(0.0, float(headers[name]) / 1000)
        told = headers.get("Retry-After", "")
        if told.strip().replace(".", "", 1).isdigit():
            return float(told)
        return max(0.0, (parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds()) if told else None
    except (TypeError, ValueError):
        return None
