"""Recordings in every container, and the ways in which they can be damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

# name -> (extension, format and subtype of libsndfile); each says how long its sound is
CONTAINERS: dict[str, tuple[str, str, str]] = {
    "wav": ("wav", "WAV", "PCM_16"),
    "wav of floats": ("wav", "WAV", "FLOAT"),
    "wavex": ("wav", "WAVEX", "PCM_16"),
    "rf64": ("wav", "RF64", "PCM_16"),
    "w64": ("w64", "W64", "PCM_16"),
    "aiff": ("aiff", "AIFF", "PCM_16"),
    "au": ("au", "AU", "PCM_16"),
    "caf": ("caf", "CAF", "PCM_16"),
    "nist": ("wav", "NIST", "PCM_16"),
    "voc": ("voc", "VOC", "PCM_16"),
    "svx": ("iff", "SVX", "PCM_16"),
    "avr": ("avr", "AVR", "PCM_16"),
    "flac": ("flac", "FLAC", "PCM_16"),
    "vorbis": ("ogg", "OGG", "VORBIS"),
    "opus": ("opus", "OGG", "OPUS"),
    "mp3": ("mp3", "MP3", "MPEG_LAYER_III"),
}


def write(folder: Path, container: str, samples: np.ndarray, rate: int = 16_000, name: str = "a") -> Path:
    """Write a recording in one of CONTAINERS."""
    extension, form, subtype = CONTAINERS[container]
    path = folder / f"{name}.{extension}"
    soundfile.write(path, samples, rate, format=form, subtype=subtype)
    return path


def _put(place: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda data: data[:place] + value + data[place + len(value) :]


def _after(mark: bytes, skip: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda data: _put(data.index(mark) + skip, value)(data)


def _flac(data: bytes) -> bytes:
    return _put(21, bytes([data[21] & 0xF0, 0, 0, 0, 0]))(data)


# name -> (container, what a program that writes into a pipe leaves in its header)
LENGTH_UNKNOWN: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "flac, no samples": ("flac", _flac),
    "wav, 0": ("wav", _put(40, bytes(4))),
    "wav, 0xFFFFFFFF": ("wav", _put(40, b"\xff" * 4)),
    "wav, both 0": ("wav", lambda data: _put(40, bytes(4))(_put(4, bytes(4))(data))),
    "wav, both 0xFFFFFFFF": ("wav", lambda data: _put(40, b"\xff" * 4)(_put(4, b"\xff" * 4)(data))),
    "wav, as sox writes it": ("wav", _put(40, (0x7FFFF000).to_bytes(4, "little"))),
    "rf64, 0": ("rf64", _after(b"ds64", 8, bytes(24))),
    "rf64, all ones": ("rf64", _after(b"ds64", 8, b"\xff" * 24)),
    "w64, 0": ("w64", _after(b"data", 16, bytes(8))),
    "w64, all ones": ("w64", _after(b"data", 16, b"\xff" * 8)),
    "aiff, 0": ("aiff", _after(b"SSND", 4, bytes(4))),
    "aiff, 0xFFFFFFFF": ("aiff", _after(b"SSND", 4, b"\xff" * 4)),
    "au, 0xFFFFFFFF": ("au", _put(8, b"\xff" * 4)),
    "au, 0": ("au", _put(8, bytes(4))),
    "caf, -1": ("caf", _after(b"data", 4, b"\xff" * 8)),
}


def frames_of_mp3(data: bytes) -> list[bytes]:
    """The frames of an MP3 of one rate: all begin with the same two bytes."""
    mark = data[:2]
    frames = []
    while data:
        end = data.find(mark, 4)
        while end >= 0 and data[end + 2] & 0x0C != data[2] & 0x0C:
            end = data.find(mark, end + 1)
        end = len(data) if end < 0 else end
        frames.append(data[:end])
        data = data[end:]
    return frames
