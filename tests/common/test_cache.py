"""The cache: plain HDF5, whole or not at all, and refused in one sentence when it is not."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from ser_memory.common.cache import COLUMNS, CacheInfo, FeatureCache, write_cache
from ser_memory.common.errors import SerError


def info(**changes: Any) -> CacheInfo:
    facts: dict[str, Any] = {
        "corpus": "c", "release": "1", "scale_min": 1.0, "scale_max": 5.0,
        "acoustic_encoder": "a", "acoustic_revision": "r", "acoustic_pooling": "mean", "acoustic_layers": "last",
        "text_encoder": "t", "text_revision": "r", "text_pooling": "CLS", "transcriber": "release",
        "min_duration": 3.0, "max_duration": 30.0, "sampling_rate": 16000, "precision": "float32", "limit": 0,
        "created_by": "tests", "fingerprint": "f", "dropped": {"too short": ["x", "ü"]},
    }  # fmt: skip
    return CacheInfo(**{**facts, **changes})


def columns(n: int = 5) -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "id": [f"utterance-{i}" for i in range(n)],
        "speaker": ["Unknown", "zoë"] * (n // 2) + ["7"] * (n % 2),
        "gender": ["Unknown"] * n,
        "split": ["train", "validation", "test", "test2", "train"][:n] + ["train"] * (n - 5),
        "transcript": ["", "ça va?", "日本語", "a\nb", "x" * 5000][:n] + ["y"] * (n - 5),
        "duration": random.uniform(3, 30, n),
        "activation": random.uniform(1, 5, n),
        "valence": random.uniform(1, 5, n),
        "dominance": [np.nan] * n,
        "acoustic": random.standard_normal((n, 8)),
        "text": random.standard_normal((n, 4)),
    }


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "c.h5"
    written = columns()
    write_cache(path, info(), written)
    cache = FeatureCache(path)
    assert len(cache) == 5
    assert cache.info == info()
    for name in COLUMNS:
        read = cache.read(name)
        if read.dtype == object:
            assert list(read) == list(written[name])
        else:
            assert read.dtype == np.float32
            np.testing.assert_array_equal(read, np.asarray(written[name], np.float32))
    assert cache.describe() == {"train": 2, "validation": 1, "test": 1, "test2": 1}
    assert [item.name for item in path.parent.iterdir()] == ["c.h5"]


def test_plain_h5py_reads_it(tmp_path: Path) -> None:
    write_cache(tmp_path / "c.h5", info(), columns())
    with h5py.File(tmp_path / "c.h5") as file:
        assert file.attrs["format"] == "ser-feature-cache"
        assert file.attrs["format_version"] == 1
        assert file["transcript"][2].decode() == "日本語"
        assert file["acoustic"].shape == (5, 8)
        assert len(file.attrs["digest"]) == 64


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    for name in ("one.h5", "two.h5"):
        write_cache(tmp_path / name, info(), columns())
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


@pytest.mark.parametrize("column", ["acoustic", "text", "activation", "duration"])
def test_a_value_that_is_not_finite_is_refused_by_id(column: str, tmp_path: Path) -> None:
    bad = columns()
    bad[column] = np.array(bad[column])
    bad[column][3] = np.nan
    with pytest.raises(SerError, match=f"The {column} of utterance-3 is not finite"):
        write_cache(tmp_path / "c.h5", info(), bad)
    assert not list(tmp_path.iterdir())


def test_columns_must_fit(tmp_path: Path) -> None:
    for change, message in (
        ({"id": ["a"] * 5}, "must be unique"),
        ({"speaker": ["a"] * 4}, "equal length"),
    ):
        with pytest.raises(SerError, match=message):
            write_cache(tmp_path / "c.h5", info(), {**columns(), **change})
    with pytest.raises(SerError, match="missing: text"):
        write_cache(tmp_path / "c.h5", info(), {k: v for k, v in columns().items() if k != "text"})


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def edit(change: Callable[[h5py.File], None]) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            change(file)

    return apply


def shorten(file: h5py.File) -> None:
    values = file["valence"][:2]
    del file["valence"]
    file["valence"] = values


def textual(file: h5py.File) -> None:
    del file["activation"]
    file["activation"] = ["x"] * 50


SPOILED: dict[str, tuple[Callable[[Path], object], str]] = {
    "absent": (lambda path: path.unlink(), "There is no cache at .*: make it with ser-extract --corpus c"),
    "text": (lambda path: path.write_text("hello"), "is not a feature cache, its format is not HDF5: give a file"),
    "empty": (lambda path: path.write_bytes(b""), "was cut off, it is empty: run ser-extract .* --overwrite"),
    "zeros": (lambda path: path.write_bytes(bytes(9000)), "was cut off, it has no content: run"),
    "few bytes": (lambda path: path.write_bytes(path.read_bytes()[:20]), r"is damaged or was cut off \(incorrect"),
    "cut off": (cut, "was cut off, [0-9,]+ of its [0-9,]+ bytes are there: run"),
    "other HDF5": (edit(lambda file: file.attrs.__delitem__("format")), "not a feature cache"),
    "other version": (edit(lambda file: file.attrs.__setitem__("format_version", 2)), "has format version 2, .* reads 1"),
    "no attribute": (edit(lambda file: file.attrs.__delitem__("scale_min")), "lacks the attributes scale_min"),
    "no data set": (edit(lambda file: file.__delitem__("text")), "lacks the data sets text"),
    "short data set": (edit(shorten), "do not fit together"),
    "text for numbers": (edit(textual), "its data set activation is not numbers"),
    "bad JSON": (edit(lambda file: file.attrs.__setitem__("dropped", "{")), "dropped is not JSON"),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILED)
def test_what_is_no_whole_cache_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    write_cache(path, info(), columns(50))
    spoil, message = SPOILED[case]
    spoil(path)
    with pytest.raises(SerError, match=message) as caught:
        FeatureCache(path)
    assert "\n" not in str(caught.value)


def test_a_cache_that_another_program_writes_is_not_damaged(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    write_cache(path, info(), columns())
    program = "import h5py, sys; f = h5py.File(sys.argv[1], 'a'); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", program, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(
            SerError, match=r"Another program has .* open for writing, such as a notebook: close"
        ):
            FeatureCache(path)
        other.communicate()
    FeatureCache(path)


def test_a_program_that_was_killed_while_it_wrote(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    write_cache(path, info(), columns())
    program = "import h5py, os, sys; f = h5py.File(sys.argv[1], 'a'); os._exit(1)"
    subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    with pytest.raises(SerError, match=r"marked as open for writing: close .* If none has, .* --overwrite\."):
        FeatureCache(path)


FAILURES = {
    "no locks": (errno.ENOLCK, "unable to lock file, errno = 37, error message = 'No locks available'",
                 r"its disk gives no locks \(No locks available\): set HDF5_USE_FILE_LOCKING=FALSE and"),
    "locked": (errno.EACCES, "unable to lock file, errno = 13, error message = 'Permission denied'", "Another program has"),
    "denied": (errno.EACCES, "unable to open file: errno = 13, error message = 'Permission denied'", "no permission"),
    "handles": (errno.EMFILE, "unable to open file: errno = 24, error message = 'Too many open files'", "too many files"),
    "vanished disk": (errno.EIO, "file read failed: errno = 5, error message = 'Input/output error'",
                      "the disk reports 'Input/output error'. Check that it is connected"),
    "number in the text": (None, "file read failed: errno = 116, error message = 'Stale file handle'",
                           "the disk reports 'Stale file handle'"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_of_the_system_is_not_called_damage(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.h5"
    write_cache(path, info(), columns())
    number, text, says = FAILURES[case]

    def fails(*_: object) -> None:
        whole = f"Unable to synchronously open file ({text})"
        raise OSError(whole) if number is None else OSError(number, whole)

    monkeypatch.setattr(h5py, "File", fails)
    with pytest.raises(SerError, match=says) as caught:
        FeatureCache(path)
    assert not {"remove", "damaged", "--overwrite"} & set(str(caught.value).split())


def test_a_cache_that_cannot_be_written_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, text, says in (
        (
            errno.ENOLCK,
            "unable to lock file, errno = 37, error message = 'No locks available'",
            "FILE_LOCKING=FALSE",
        ),
        (
            errno.EROFS,
            "errno = 30, error message = 'Read-only file system'",
            "Read-only file system.: solve that, or give",
        ),
        (
            errno.ENOSPC,
            "errno = 28, error message = 'No space left on device'",
            "device.: it needs about 1 MB of free",
        ),
    ):

        def fails(*_: object, number: int = number, text: str = text, **__: object) -> None:
            raise OSError(number, f"Unable to synchronously create file ({text})")

        monkeypatch.setattr(h5py, "File", fails)
        with pytest.raises(SerError, match=says):
            write_cache(tmp_path / "c.h5", info(), columns())


def test_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder.h5").mkdir()
    (tmp_path / "link.h5").symlink_to("/nowhere/c.h5")
    os.mkfifo(tmp_path / "pipe.h5")
    for name, says in (
        ("folder.h5", "it is a folder. Give the file of a cache"),
        ("link.h5", "is a link to /nowhere/c.h5, which does not exist"),
        ("pipe.h5", "is not a file but a pipe or a device"),
        ("c.jsonl", "There is no file .*c.jsonl: give the file of a cache, which ends in .h5"),
    ):
        with pytest.raises(SerError, match=says):
            FeatureCache(tmp_path / name)


@pytest.mark.parametrize("change", ["replaced", "edited"])
def test_a_cache_that_changes_between_two_readings_is_refused(change: str, tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    write_cache(path, info(), columns())
    cache = FeatureCache(path)
    if change == "replaced":
        write_cache(path, info(), columns())
    else:
        edit(lambda file: file["valence"].__setitem__(0, 2.0))(path)
    for reading in (cache.describe, cache.validate, lambda: cache.mapped("text"), cache.refuse_altered):
        with pytest.raises(SerError, match="was replaced or changed while it was being used: run the same"):
            reading()
    with pytest.raises(SerError, match="was replaced or changed"):
        FeatureCache(path, cache.version)
    FeatureCache(path).validate()


def test_a_full_disk_leaves_the_old_cache(tmp_path: Path) -> None:
    """A file-size limit makes the writes fail as a full disk does."""
    path = tmp_path / "c.h5"
    write_cache(path, info(), columns())
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(SerError, match=r"could not be written .* MB of free space"):
            write_cache(path, info(fingerprint="new"), columns(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["c.h5"]


def test_a_kill_while_writing_leaves_the_old_cache(tmp_path: Path) -> None:
    path = tmp_path / "c.h5"
    write_cache(path, info(), columns())
    before = path.read_bytes()
    program = (
        "import sys; from pathlib import Path; from tests.common.test_cache import columns, info\n"
        "from common.cache import write_cache\n"
        "many = columns(20000); print('go', flush=True)\n"
        "while True: write_cache(Path(sys.argv[1]), info(fingerprint='new'), many)\n"
    )
    for delay in (0.0, 0.01, 0.03):
        writer = subprocess.Popen(
            [sys.executable, "-c", program, str(path)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(Path.cwd())},
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        try:
            writer.wait(timeout=delay)
        except subprocess.TimeoutExpired:
            writer.kill()
        writer.wait()
        writer.stdout.close()
        cache = FeatureCache(path)
        assert path.read_bytes() == before or (cache.info.fingerprint == "new" and len(cache) == 20_000)
