"""Transcripts in a file of the user: a table of id and text that replaces the release's transcripts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ser_memory.common.errors import SerError, UsageError, listing
from ser_memory.common.reporting import notice
from ser_memory.extract.corpora import Utterance
from ser_memory.extract.corpora.names import by_id
from ser_memory.extract.tables import read_table, what_it_has

_COLUMNS = ("id", "text")
_PICKLES = (".pkl", ".pickle", ".pck", ".p", ".joblib", ".dill")
_PICKLE_START = b"\x80"  # the first byte of every pickle of protocol 2 and later

_WHY_NOT = (
    "{path} is a Python pickle, and reading a pickle runs the code in it. If you trust the file, convert it with "
    "these two lines (for a dict of id and text), and give the CSV."
)
_CONVERSION = """
  import csv, pickle; texts = pickle.load(open({name!r}, "rb"))
  csv.writer(open("transcripts.csv", "w", newline="", encoding="utf-8")).writerows([("id", "text"), *texts.items()])"""


def read_transcripts(path: Path) -> dict[str, str]:
    """Read id -> text from CSV, TSV or JSON Lines with the columns `id` and `text`; a text may be empty.

    Notices count and name the lines that are not in UTF-8, and the ids given twice with the same text. Raises
    UsageError if the file does not exist, and SerError for a pickle or another kind of file, a missing column, id or
    text, or an id with two different texts.
    """
    if not path.exists():
        raise UsageError(f"There is no transcript file {path}: give --transcripts an existing file.")
    _refuse_pickles(path)
    columns, records = read_table(path, blank="")
    absent = [name for name in _COLUMNS if name not in columns]
    if absent:
        raise SerError(f"{path} lacks the column {listing(absent)}: {what_it_has(path, columns, _COLUMNS)}.")
    _report_other_encodings(path)
    texts: dict[str, str] = {}
    repeated: dict[str, list[int]] = {}  # id -> rows that give it again
    conflicts: set[str] = set()
    for line, record in records:
        name, text = record.get("id"), record.get("text")
        if not name or text is None:
            raise SerError(f"{path}, row {line}, has no {'text' if name else 'id'}: every row needs both.")
        if name in texts:
            repeated.setdefault(name, []).append(line)
            if text != texts[name]:
                conflicts.add(name)
        texts.setdefault(name, text)
    _judge_repeats(path, repeated, conflicts)
    return texts


def with_transcripts(utterances: list[Utterance], texts: dict[str, str]) -> list[Utterance]:
    """The utterances with the texts of `texts`, id -> text; None for utterances that have none there."""
    return [replace(utterance, transcript=texts.get(utterance.id)) for utterance in utterances]


def texts_of(path: Path, texts: dict[str, str], utterances: list[Utterance]) -> dict[str, str]:
    """The texts under the ids of the release; a notice reports those that are not in the release."""
    found, unknown = by_id(texts, [utterance.id for utterance in utterances], path)
    if unknown:
        notice(f"{len(unknown)} ids of {path} are not in the release: {listing(sorted(unknown), most=5)}.")
    return found


def _refuse_pickles(path: Path) -> None:
    try:
        with path.open("rb") as file:
            pickled = file.read(1) == _PICKLE_START
    except OSError as error:
        raise SerError(f"{path} cannot be read: {error.strerror}.") from None
    if pickled or path.suffix.lower() in _PICKLES:
        raise SerError((_WHY_NOT + _CONVERSION).format(path=path, name=path.name))


def _report_other_encodings(path: Path) -> None:
    """Older tables are in Latin-1. That is a guess, so a notice lets the user check it."""
    strange = [
        number for number, line in enumerate(path.read_bytes().split(b"\n"), start=1) if not _is_utf8(line)
    ]
    if strange:
        notice(
            f"{path} is not in UTF-8: it is read as Latin-1, which affects {len(strange)} lines "
            f"({listing(strange, most=5)}). Save it in UTF-8 if letters in these lines are wrong."
        )


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _judge_repeats(path: Path, repeated: dict[str, list[int]], conflicts: set[str]) -> None:
    def named(ids: list[str]) -> str:
        return listing([f"{name!r} (row {repeated[name][0]})" for name in ids], most=5)

    if conflicts:
        ids = [name for name in repeated if name in conflicts]
        raise SerError(
            f"{path} gives {len(ids)} ids a second time with another text, {named(ids)}: "
            "keep one row for each id."
        )
    if repeated:
        notice(
            f"{path} gives {len(repeated)} ids more than once, with the same text: {named(list(repeated))}."
        )
