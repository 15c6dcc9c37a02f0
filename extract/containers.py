"""What a recording's container says about its length: whether sound is missing, and whether that can be told at all.

libsndfile reads what is left of a file that was cut off, and reports no error. Its callers must compare the length in
the header with the file.
"""

from __future__ import annotations

import io
import mmap
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

_UNKNOWN = 0x7FFF_0000  # bytes: programs that do not know a length yet write this or more into 32 bits
_UNKNOWN_64 = 1 << 62  # and this or more into 64 bits
_TAIL = 1 << 17  # bytes: the last page of an Ogg stream, 65,307 at most, begins within them
_MOST_CHUNKS = 10_000  # a file of zeros would have one in every eight bytes
_START = 64  # bytes that tell the containers apart
_DS64_DATA, _HEADER_W64 = 8, 24
_SYNC, _EOS = 0xE0, 4

Order = Literal["little", "big"]


@dataclass(frozen=True)
class Stated:
    """The length that a container states, compared with the file."""

    present: int = 0  # bytes of sound in the file
    lacking: int = 0  # bytes of sound that the header promises beyond the end of the file
    ends_early: bool = False  # the stream has no end
    known: bool = True  # False: the container does not say how long the sound is
    samples: int | None = None  # per channel, counted in the stream itself
    patch: tuple[int, bytes] | None = None  # where to write which bytes so that libsndfile reads all of it


def stated(path: Path) -> Stated | None:
    """What the file says, or None for a container that this module does not know. Raises OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(_START)
        for signature, look in _CONTAINERS:
            if signature(start):
                return look(file, size)
    return None


def patched(path: Path, patch: tuple[int, bytes]) -> io.RawIOBase:
    """The file, opened for reading, with the length that its writer left out. Raises OSError."""
    return _Patched(path, *patch)


class _Patched(io.FileIO):
    """A file of which some bytes are read as others."""

    def __init__(self, path: Path, place: int, content: bytes) -> None:
        super().__init__(path)
        self._place, self._content = place, content

    def readinto(self, buffer: Any) -> int:
        start = self.tell()
        view = memoryview(buffer).cast("B")
        count = super().readinto(view)
        first, last = max(self._place, start), min(self._place + len(self._content), start + count)
        if first < last:
            view[first - start : last - start] = self._content[first - self._place : last - self._place]
        return count


# --- containers of chunks: an id and a length before each ---


@dataclass(frozen=True)
class _Layout:
    """How a container writes its chunks."""

    first: int  # where the first chunk begins
    id_bytes: int
    length_bytes: int
    order: Order
    sound: tuple[bytes, ...]  # ids of the chunk that holds the sound, or their beginnings
    align: int = 2
    counts_header: bool = False  # the length covers the id and the length itself
    offset: int = 0  # bytes of the sound chunk before the sound


def _chunks(file: BinaryIO, layout: _Layout) -> Iterator[tuple[bytes, int, int, int]]:
    """Id, place of the length, length of the content and place of the content of each chunk."""
    place = layout.first
    header = layout.id_bytes + layout.length_bytes
    for _ in range(_MOST_CHUNKS):
        file.seek(place)
        read = file.read(header)
        if len(read) < header:
            return
        length = int.from_bytes(read[layout.id_bytes :], layout.order)
        content = length - header if layout.counts_header else length
        yield read[: layout.id_bytes], place + layout.id_bytes, max(0, content), place + header
        place += header + max(0, content)
        place += -place % layout.align if layout.align > 2 else max(0, content) % layout.align  # noqa: PLR2004


def _in_chunks(layout: _Layout) -> Callable[[BinaryIO, int], Stated]:
    limit = _UNKNOWN if layout.length_bytes == 4 else _UNKNOWN_64  # noqa: PLR2004

    def look(file: BinaryIO, size: int) -> Stated:
        ds64: tuple[int, int] | None = None
        for kind, length_at, size_told, content in _chunks(file, layout):
            where, length = length_at, size_told
            if kind == b"ds64":
                file.seek(content + _DS64_DATA)
                ds64 = content + _DS64_DATA, int.from_bytes(file.read(8), "little")
            if not kind.startswith(layout.sound):
                continue
            present = max(0, size - content)
            width, most = layout.length_bytes, limit
            if ds64 is not None and length >= _UNKNOWN:
                (where, length), width, most = ds64, 8, _UNKNOWN_64
            blank = length <= layout.offset and present > layout.offset
            if length >= most or (blank and not _holds_chunks(file, layout, content + length, size)):
                told = present + (layout.id_bytes + width if layout.counts_header else 0)
                return Stated(present, known=False, patch=(where, told.to_bytes(width, layout.order)))
            return Stated(min(present, length), max(0, length - present))
        return Stated(known=False)

    return look


def _holds_chunks(file: BinaryIO, layout: _Layout, place: int, size: int) -> bool:
    """Whether the rest of the file is chunks to its end: then a sound chunk of no bytes before it is really empty."""
    end = place
    rest = _Layout(place, layout.id_bytes, layout.length_bytes, layout.order, (), layout.align,
                   layout.counts_header)  # fmt: skip
    for kind, _, length, content in _chunks(file, rest):
        if not kind[:4].isascii() or not kind[:4].decode().isprintable():
            return False
        end = content + length
    return abs(size - end) <= layout.align


def _in_au(order: Order) -> Callable[[BinaryIO, int], Stated]:
    def look(file: BinaryIO, size: int) -> Stated:
        file.seek(4)
        offset, length = (int.from_bytes(file.read(4), order) for _ in range(2))
        present = max(0, size - offset)
        if length >= _UNKNOWN or (not length and present):
            return Stated(present, known=False, patch=(8, min(present, _UNKNOWN - 1).to_bytes(4, order)))
        return Stated(min(present, length), max(0, length - present))

    return look


# --- other headers with a length ---


def _in_nist(file: BinaryIO, size: int) -> Stated:
    file.seek(0)
    header = file.read(1 << 14)
    fields = dict(re.findall(rb"^(\w+) -\w+ (\S+)", header, re.MULTILINE))
    try:
        offset = int(header.split(b"\n")[1])
        length = int(fields[b"sample_count"]) * int(fields.get(b"channel_count", 1))
        length *= int(fields.get(b"sample_n_bytes", 2))
    except (IndexError, KeyError, ValueError):
        return Stated(known=False)
    present = max(0, size - offset)
    return Stated(min(present, length), max(0, length - present), known=length > 0)


def _in_voc(file: BinaryIO, size: int) -> Stated:
    file.seek(20)
    place = int.from_bytes(file.read(2), "little")
    sound = 0
    while True:
        file.seek(place)
        header = file.read(4)
        if not header or header[0] == 0:  # the end, which some programs leave out
            return Stated(sound)
        length = int.from_bytes(header[1:], "little")
        place += 4 + length
        sound += length
        if place > size:
            return Stated(max(0, sound - (place - size)), place - size)


def _in_avr(file: BinaryIO, size: int) -> Stated:
    file.seek(0)
    header = file.read(128)
    channels = 2 if header[12:14] == b"\xff\xff" else 1
    width = max(1, int.from_bytes(header[14:16], "big") // 8)
    length = int.from_bytes(header[26:30], "big") * channels * width
    present = max(0, size - 128)
    return Stated(min(present, length), max(0, length - present))


# --- streams ---


def _in_ogg(file: BinaryIO, size: int) -> Stated:
    """The last page must be whole and say that it is the last."""
    file.seek(max(0, size - _TAIL))
    tail = file.read()
    place = tail.rfind(b"OggS")
    while place >= 0:
        header = tail[place : place + 27]
        if len(header) < 27 or header[4]:  # noqa: PLR2004  the version is 0
            if len(header) < 27:  # noqa: PLR2004
                return Stated(ends_early=True)
            place = tail.rfind(b"OggS", 0, place)
            continue
        sizes = tail[place + 27 : place + 27 + header[26]]
        whole = len(sizes) == header[26] and place + 27 + len(sizes) + sum(sizes) <= len(tail)
        return Stated(ends_early=not (whole and header[5] & _EOS))
    return Stated(ends_early=True)


def _in_flac(file: BinaryIO, _: int) -> Stated:
    file.seek(0)
    start = file.read(10)
    place = _after_id3(start)
    file.seek(place)
    info = file.read(26)
    if info[:4] != b"fLaC":  # after ID3 there is more often MPEG audio
        return Stated(known=False)
    return Stated(known=bool(int.from_bytes(info[21:26], "big") & 0xF_FFFF_FFFF))


_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}
_KILOBITS = {  # MPEG 1 or not, layer -> by index
    (True, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (True, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (True, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (False, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (False, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (False, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
_MPEG1 = 3
_LOST_FRAMES = 2  # frames by which counts may differ: some programs count the frame that holds the count


@dataclass(frozen=True)
class _Frame:
    """One frame of MPEG audio."""

    size: int  # bytes; 0 if its header does not say it
    samples: int
    side: int  # bytes between its header and a Xing header
    kind: tuple[int, int, int]  # version, layer and rate, which all frames of a file share


def _in_mpeg(file: BinaryIO, _: int) -> Stated:
    """Xing, Info and VBRI headers have a number of frames. Otherwise only an incomplete last frame can be told."""
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:  # hours of it need no memory
        place = _after_id3(data[:10])
        if data[place : place + 4] == b"fLaC":
            return _in_flac(file, 0)
        return _in_mpeg_frames(data, place)


def _in_mpeg_frames(data: mmap.mmap, place: int) -> Stated:
    end = len(data) - 128 if data[-128:-125] == b"TAG" else len(data)
    first = _first_frame(data, place, end)
    if first is None:
        return Stated(known=False)
    place, frame = first
    told = _told_frames(data, place, frame)
    if told is not None:
        place += frame.size
    count, partial = _count_frames(data, place, end, frame)
    if told is None:
        return Stated(ends_early=partial, known=False, samples=count * frame.samples)
    return Stated(ends_early=count < told - _LOST_FRAMES or (partial and count < told))


def _after_id3(data: bytes) -> int:
    if data[:3] != b"ID3" or len(data) < 10:  # noqa: PLR2004
        return 0
    size = 0
    for byte in data[6:10]:
        size = size << 7 | byte & 0x7F
    return 10 + size


def _frame_at(data: mmap.mmap, place: int) -> _Frame | None:
    header = data[place : place + 4]
    if len(header) < 4 or header[0] != 0xFF or header[1] & _SYNC != _SYNC:  # noqa: PLR2004
        return None
    version, layer = header[1] >> 3 & 3, 4 - (header[1] >> 1 & 3)
    bits, rate, padding = header[2] >> 4, header[2] >> 2 & 3, header[2] >> 1 & 1
    if version == 1 or layer == 4 or bits == 15 or rate == 3:  # noqa: PLR2004  values that do not exist
        return None
    hertz, mpeg1 = _RATES[version][rate], version == _MPEG1
    bits_per_second = 1000 * _KILOBITS[mpeg1, layer][bits]
    samples = {1: 384, 2: 1152, 3: 1152 if mpeg1 else 576}[layer]
    slots = samples // (32 if layer == 1 else 8) * bits_per_second // hertz + padding
    size = slots * (4 if layer == 1 else 1)
    mono = header[3] >> 6 == 3  # noqa: PLR2004
    side = (17 if mono else 32) if mpeg1 else (9 if mono else 17)
    return _Frame(size if bits else 0, samples, side, (version, layer, hertz))


def _first_frame(data: mmap.mmap, place: int, end: int) -> tuple[int, _Frame] | None:
    """The first header that another one follows where its frame ends."""
    while 0 <= place < end:
        frame = _frame_at(data, place)
        if frame is not None and frame.size:
            after = _frame_at(data, place + frame.size)
            if place + frame.size >= end or (after is not None and after.kind == frame.kind):
                return place, frame
        place = data.find(b"\xff", place + 1, end)
    return None


def _told_frames(data: mmap.mmap, place: int, frame: _Frame) -> int | None:
    xing = place + 4 + frame.side
    if data[xing : xing + 4] in (b"Xing", b"Info") and data[xing + 7] & 1:
        return int.from_bytes(data[xing + 8 : xing + 12], "big")
    vbri = place + 36
    if data[vbri : vbri + 4] == b"VBRI":
        return int.from_bytes(data[vbri + 14 : vbri + 18], "big")
    return None


def _count_frames(data: mmap.mmap, place: int, end: int, first: _Frame) -> tuple[int, bool]:
    """The number of whole frames, and whether the last one is incomplete."""
    count = 0
    while place < end:
        frame = _frame_at(data, place)
        if frame is None or not frame.size or frame.kind != first.kind:
            found = _first_frame(data, place + 1, end)
            if found is None or found[1].kind != first.kind:
                break
            place, frame = found
        if place + frame.size > end:
            return count, True
        count += 1
        place += frame.size
    return count, False


def _starts(*signatures: bytes) -> Callable[[bytes], bool]:
    return lambda start: start.startswith(signatures)


_RIFF = _Layout(12, 4, 4, "little", (b"data",))
_CONTAINERS: tuple[tuple[Callable[[bytes], bool], Callable[[BinaryIO, int], Stated]], ...] = (
    (_starts(b"RIFF", b"RF64", b"BW64"), _in_chunks(_RIFF)),
    (_starts(b"RIFX"), _in_chunks(_Layout(12, 4, 4, "big", (b"data",)))),
    (_starts(b"FORM"), _in_chunks(_Layout(12, 4, 4, "big", (b"SSND", b"BODY"), offset=8))),
    (_starts(b"riff\x2e\x91\xcf\x11"), _in_chunks(_Layout(40, 16, 8, "little", (b"data",), 8, True))),
    (_starts(b"caff"), _in_chunks(_Layout(8, 4, 8, "big", (b"data",), 1, offset=4))),
    (_starts(b".snd"), _in_au("big")),
    (_starts(b"dns."), _in_au("little")),
    (_starts(b"NIST_1A"), _in_nist),
    (_starts(b"Creative Voice File\x1a"), _in_voc),
    (_starts(b"2BIT"), _in_avr),
    (_starts(b"OggS"), _in_ogg),
    (_starts(b"fLaC"), _in_flac),
    (lambda start: start[:3] == b"ID3" or (start[:1] == b"\xff" and start[1:2] >= b"\xe0"), _in_mpeg),
)
