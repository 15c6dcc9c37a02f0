"""Fast transcription of Azure AI Speech: one request per recording, through Microsoft's client."""

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

from ser_memory.common.conventions import SAMPLING_RATE
from ser_memory.common.errors import SerError, UsageError
from ser_memory.extract.transcripts.engines.contract import (
    RefusedError,
    TranscriberOptions,
    Transcription,
    TryAgainError,
)

if TYPE_CHECKING:
    from ser_memory.extract.audio import Waveform

ENDPOINT_VARIABLE, KEY_VARIABLE = "AZURE_SPEECH_ENDPOINT", "AZURE_SPEECH_API_KEY"  # as in Microsoft's samples
EXTRA = "azure"

_API = "2025-10-15"  # fixed, so that the texts do not change with the client's release
_TIMEOUT = 120.0  # seconds to wait for the reply to one request
_LOCALE = re.compile(r"[a-z]{2,3}(-[A-Za-z0-9]+)+")
_LOCAL = {"localhost", "127.0.0.1", "::1"}
_OK, _UNAUTHORISED, _FORBIDDEN, _NOT_FOUND, _TIMED_OUT, _TOO_MANY = 200, 401, 403, 404, 408, 429
_SERVER_ERRORS, _UNAVAILABLE = 500, 503


def load(options: TranscriberOptions) -> AzureTranscriber:
    """Connect to the endpoint in the environment, with the key in the environment.

    Raises UsageError if a variable is missing, the endpoint is no https address, the language has no region, or the
    package is missing.
    """
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
            f"{ENDPOINT_VARIABLE} is {endpoint!r}: set it to an address with https, since every request contains "
            "the key, such as https://westeurope.api.cognitive.microsoft.com."
        )
    if options.language is not None and not _LOCALE.fullmatch(options.language):
        raise UsageError(
            f"--language {options.language!r} is not a locale: Azure needs a language and a region, such as en-US."
        )
    return AzureTranscriber(endpoint.rstrip("/"), key, options.language, options.concurrency, _TIMEOUT)


def version(options: TranscriberOptions) -> str:
    """The version of the transcriber that `load` would return; needs neither key nor package."""
    return _version(options.language)


def _version(locale: str | None) -> str:
    return f"api {_API}, {locale or 'language detected'}"


class AzureTranscriber:
    """The service at one endpoint. Threads may share it. No message and no representation contains the key."""

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
            retry_policy=RetryPolicy.no_retries(),  # retries.py does it, for all requests together
            api_version=_API,
            read_timeout=timeout,
            connection_timeout=timeout,
        )
        self.version = _version(locale)

    def transcribe(self, waveforms: list[Waveform]) -> list[Transcription]:
        return [self._one(waveform) for waveform in waveforms]

    def close(self) -> None:
        self._client.close()

    def _one(self, waveform: Waveform) -> Transcription:
        from azure.ai.transcription.models import TranscriptionContent, TranscriptionOptions
        from azure.core.exceptions import AzureError, HttpResponseError

        content = TranscriptionContent(
            # By default the service replaces swear words by asterisks, and their emotion is lost.
            definition=TranscriptionOptions(
                locales=[self._locale] if self._locale else None, profanity_filter_mode="None"
            ),
            audio=("audio.wav", wav(waveform), "audio/wav"),
        )
        try:
            reply = self._client.transcribe(content)
            return _transcription(reply)
        except HttpResponseError as error:
            problem = self._http_problem(error)
        except AzureError as error:
            problem = TryAgainError(f"Azure cannot be reached ({self._plain(error)})")
        except (AttributeError, KeyError, TypeError, ValueError):
            problem = _broken_reply()
        # Raised outside the handler: the client's exception holds the request and its key, and must not be kept.
        raise problem

    def _http_problem(self, error: Any) -> Exception:
        """The error to raise for a reply that is not a transcription."""
        status = error.status_code
        if status is None or status == _OK:
            return _broken_reply()
        reason = f"Azure says HTTP {status}, {self._plain(error)}"
        if status == _UNAUTHORISED:
            return SerError(
                f"{reason}: check that {KEY_VARIABLE} is a key of the resource at {ENDPOINT_VARIABLE}."
            )
        if status == _FORBIDDEN:
            return SerError(
                f"{reason}: the key is not allowed to transcribe; check the resource's quota, network rules and region."
            )
        if status == _NOT_FOUND:
            return SerError(
                f"{reason}: check {ENDPOINT_VARIABLE}, and that its region has fast transcription."
            )
        if status in (_TIMED_OUT, _TOO_MANY) or status >= _SERVER_ERRORS:
            return TryAgainError(reason, _retry_after(error), busy=status in (_TOO_MANY, _UNAVAILABLE))
        return RefusedError(reason)

    def _plain(self, error: Exception) -> str:
        """The service's own message on one line of at most 200 characters, with *** in place of the key."""
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
    """The bytes of a 16-bit WAV file of a (samples,) float32 waveform at 16 kHz; values beyond -1 and 1 are clipped."""
    samples = (np.clip(waveform, -1.0, 1.0) * 32767.0).round().astype("<i2")
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setnchannels(1)
        writer.setsampwidth(2)
        writer.setframerate(SAMPLING_RATE)
        writer.writeframes(samples.tobytes())
    return file.getvalue()


def _broken_reply() -> TryAgainError:
    return TryAgainError("Azure's reply was cut off or is not a transcription")


def _transcription(reply: Any) -> Transcription:
    """Raises TypeError or AttributeError for a reply that is not a transcription."""
    text = " ".join(phrase.text.strip() for phrase in reply.combined_phrases).strip()
    phrases = reply.phrases or []
    weights = [max(1, phrase.duration_milliseconds or 0) for phrase in phrases]
    confidences = [phrase.confidence for phrase in phrases]
    confidence = None
    if phrases and None not in confidences:
        confidence = float(np.average(confidences, weights=weights))
    language = next((phrase.locale for phrase in phrases if phrase.locale), None)
    return Transcription(text, language, confidence, status=f"HTTP {_OK}")


def _retry_after(error: Any) -> float | None:
    """Seconds that the service asks to wait, from any of the headers that Azure uses; None if it does not say."""
    headers = error.response.headers if error.response is not None else {}
    try:
        for name in ("retry-after-ms", "x-ms-retry-after-ms"):
            if headers.get(name):
                return max(0.0, float(headers[name]) / 1000)
        value = headers.get("Retry-After", "")
        if value.strip().replace(".", "", 1).isdigit():
            return float(value)
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()) if value else None
    except (TypeError, ValueError):
        return None
