"""Small releases in the true layouts, with every trap the real ones hold; names and words are made up.

Each builder writes a release into a folder and returns the truth about it. Every turn that is not usable
has one fault only, so the reason for which it is dropped does not depend on the order of checks.
"""

from __future__ import annotations

import csv
import io
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

RESOURCE_FORK = b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X        \x00\xff"


@dataclass(frozen=True)
class Truth:
    """What `ser-extract` should make of a release, with its own transcripts and 3 to 30 seconds allowed."""

    corpus: str  # for common.manifests.load: a shipped name or the path of a manifest
    kept: tuple[str, ...]  # ids, in the reader's order
    dropped: dict[str, tuple[str, ...]]  # reason -> ids
    unlisted: tuple[str, ...] = ()  # ids of recordings that the user's table does not name


def write_iemocap(root: Path, *, concatenated: bool = False) -> Truth:
    """Five sessions; `concatenated` keeps all labels in one file at the root, dialogs in reverse."""
    dialogs: dict[str, list[str]] = {}
    for turn, triple, _, _ in _IEMOCAP:
        block = (
            f"[6.2901 - 8.2357]\t{turn}\tneu\t{triple}\nC-E2:\tNeutral;\t()\nC-F1:\tNeutral;\t()\n"
            "A-E3:\tval 3; act 2; dom  2;\t()\nA-F1:\tval  ; act  ;  dom  ;\t()\n\n"  # a blank self-report
        )
        dialogs.setdefault(turn.rpartition("_")[0], []).append(block)
    header = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
    if concatenated:
        blocks = ["".join(blocks) for blocks in reversed(dialogs.values())]
        _text(root / "IEMOCAP_EmoEvaluation.txt", header + "".join(blocks))
        _bytes(root / "._IEMOCAP_EmoEvaluation.txt", RESOURCE_FORK)
    for dialog, blocks in dialogs.items():
        session = root / f"Session{int(dialog[3:5])}"
        labels = session / "dialog" / "EmoEvaluation"
        if not concatenated:
            _text(labels / f"{dialog}.txt", header + "".join(blocks))
            _bytes(labels / f"._{dialog}.txt", RESOURCE_FORK)
        again = f"[6.2901 - 8.2357]\t{dialog}_F000\tneu\t[1.0000, 1.0000, 1.0000]\n"
        for repeats in ("Attribute", "Categorical", "Self-evaluation"):
            _text(labels / repeats / f"{dialog}_e2.txt", again)
        turns = [row for row in _IEMOCAP if row[0].rpartition("_")[0] == dialog]
        lines = ["M: [BREATHING]"]  # words between turns have no id
        lines += [f"{turn} [006.2901-008.2357]: {words}" for turn, _, _, words in turns if words is not None]
        lines += [f"{dialog}_MXX0 [010.0000-011.0000]: Right."]  # spoken, but neither cut out nor rated
        spoken = session / "dialog" / "transcriptions"
        _bytes(spoken / f"{dialog}.txt", "\n".join(lines).encode("latin-1"))
        _bytes(spoken / f"._{dialog}.txt", RESOURCE_FORK)
        recordings = session / "sentences" / "wav" / dialog
        for turn, _, sound, _ in turns:
            _recording(recordings / f"{turn}.wav", sound)
            _bytes(recordings / f"._{turn}.wav", RESOURCE_FORK)
        _recording(session / "dialog" / "wav" / f"{dialog}.wav", "short")  # the whole dialog: no turn
    _recording(root / "Session3/sentences/wav/Ses03M_script03_2/Ses03M_script03_2_F009.wav", "fine")
    return Truth(
        "iemocap",
        kept=(
            "Ses01F_impro01_F000",
            "Ses01F_impro01_M004",
            "Ses02M_impro01_F000",
            "Ses03M_script03_2_M007",
            "Ses04F_impro02_F000",
            "Ses05M_impro03_M000",
            "Ses05M_impro03_F001",
        ),
        dropped={
            "too short": ("Ses01F_impro01_F001",),
            "too long": ("Ses01F_script01_1b_M000",),
            "missing": ("Ses02M_impro01_M001",),
            "unreadable": ("Ses03M_script03_2_F008",),
            "no label": ("Ses03M_script03_2_F009",),
            "no transcript": ("Ses04F_impro02_M000",),
        },
    )


_IEMOCAP = [  # turn, [valence, activation, dominance], recording, words
    ("Ses01F_impro01_F000", "[2.5000, 3.5000, 4.5000]", "fine", "Excuse me."),
    ("Ses01F_impro01_M004", "[1.0000, 5.0000, 3.0000]", "fine", "Do you have your forms?"),
    ("Ses01F_impro01_F001", "[2.5000, 2.5000, 2.5000]", "short", "Yeah."),
    ("Ses01F_script01_1b_M000", "[3.0000, 3.0000, 3.0000]", "long", "Well, it is a long story."),
    ("Ses02M_impro01_F000", "[4.6667, 2.0000, 2.3333]", "fine", "Did you get the letter?"),
    ("Ses02M_impro01_M001", "[4.0000, 2.0000, 2.0000]", "none", "Yes."),
    ("Ses03M_script03_2_M007", "[1.5000, 4.0000, 4.0000]", "fine", "At the caf\xe9 \x85 again."),
    ("Ses03M_script03_2_F008", "[1.5000, 4.5000, 4.0000]", "broken", "So?"),
    ("Ses04F_impro02_F000", "[2.0000, 3.0000, 3.0000]", "fine", "I am going now."),
    ("Ses04F_impro02_M000", "[2.0000, 3.0000, 3.0000]", "fine", None),
    ("Ses05M_impro03_M000", "[5.0000, 4.0000, 3.0000]", "fine", "We are getting married!"),
    ("Ses05M_impro03_F001", "[4.5000, 3.0000, 3.0000]", "fine", ""),  # nothing was said
]


def write_msp_improv(
    root: Path,
    *,
    audio: str = "Audio",
    labels: str = "Evalution.txt",
    transcripts: str = "All_human_transcriptions",
) -> Truth:
    """Six sessions; `audio` may be ".", `labels` "Evaluation.txt" and `transcripts` "Text"."""
    lines: list[str] = []
    for turn, ratings, sound, words in _MSP_IMPROV:
        if ratings:
            lines += [
                f"{turn.replace('MSP-', 'UTD-', 1)}.avi; A; {ratings} ; ",
                "ev2012_11; Angry; Angry,Frustrated; A:2.000000 ; V:9.000000 ; D:3.000000 ; N:4.000000 ; ",
                "ev2012_34; Neutral; Neutral,; A:3.000000 ; V:3.000000 ; D:NaN ; N:NaN ; ",
                "",
            ]
        sentence, speaker, scenario = turn.split("-")[2:5]
        folder = root / audio / f"session{int(speaker[1:])}" / sentence / scenario
        _recording(folder / f"{turn}.wav", sound)
        _bytes(folder / f"._{turn}.wav", RESOURCE_FORK)
        below = transcripts if transcripts == "Text" else f"{transcripts}/Part{1 + len(lines) % 2}"
        if words is not None:
            _text(root / below / f"{turn}.txt", words + "\n")
            _bytes(root / below / f"._{turn}.txt", RESOURCE_FORK)
    _text(root / labels, "\n".join(lines))
    return Truth(
        "msp-improv",
        kept=(
            "MSP-IMPROV-S01A-F01-P-FM01",
            "MSP-IMPROV-S01A-M01-P-FM02",
            "MSP-IMPROV-S02H-F02-R-MF01",
            "MSP-IMPROV-S05A-F05-P-MF02",
            "MSP-IMPROV-S06H-M06-P-FM04",
        ),
        dropped={
            "too short": ("MSP-IMPROV-S03N-M03-S-FM01",),
            "missing": ("MSP-IMPROV-S04S-F04-T-MF01",),
            "no transcript": ("MSP-IMPROV-S04S-M04-P-MM03",),
            "unreadable": ("MSP-IMPROV-S05A-M05-R-FM07",),
            "too long": ("MSP-IMPROV-S06H-F06-P-MF05",),
            "no label": ("MSP-IMPROV-S06H-F06-P-MF09",),
        },
    )


_MSP_IMPROV = [  # turn, averaged ratings, recording, words
    ("MSP-IMPROV-S01A-F01-P-FM01", "A:2.142857 ; V:3.800000 ; D:3.2 ; N:3.6", "fine", "How can I not?"),
    ("MSP-IMPROV-S01A-M01-P-FM02", "A:1.000000 ; V:5.000000 ; D:NaN ; N:NaN", "fine", "Then stay."),
    ("MSP-IMPROV-S02H-F02-R-MF01", "A:5.000000 ; V:1.000000 ; D:2.5 ; N:3.0", "fine", "It is my turn."),
    ("MSP-IMPROV-S03N-M03-S-FM01", "A:3.000000 ; V:3.000000 ; D:3.0 ; N:3.0", "short", "Fine."),
    ("MSP-IMPROV-S04S-F04-T-MF01", "A:4.000000 ; V:2.000000 ; D:2.0 ; N:4.0", "none", "I was late."),
    ("MSP-IMPROV-S04S-M04-P-MM03", "A:4.000000 ; V:2.000000 ; D:2.0 ; N:4.0", "fine", None),
    ("MSP-IMPROV-S05A-F05-P-MF02", "A:2.000000 ; V:2.000000 ; D:4.0 ; N:4.0", "fine", "Give it back."),
    ("MSP-IMPROV-S05A-M05-R-FM07", "A:2.000000 ; V:2.000000 ; D:4.0 ; N:4.0", "broken", "No."),
    ("MSP-IMPROV-S06H-F06-P-MF05", "A:2.500000 ; V:4.000000 ; D:3.0 ; N:4.0", "long", "A long joke."),
    ("MSP-IMPROV-S06H-M06-P-FM04", "A:2.500000 ; V:4.500000 ; D:3.0 ; N:4.0", "fine", "That is great."),
    ("MSP-IMPROV-S06H-F06-P-MF09", "", "fine", "Nobody rated this."),
]


def write_msp_podcast(
    root: Path, *, version: str = "1.11", audio: str = "Audios", withheld: str = "blank"
) -> Truth:
    """Release 1.8 (no transcripts) or later; `audio` may be "audio_16kHz", `withheld` rows "absent"."""
    old = version == "1.8"
    rows = [_PODCAST_HEADER]
    for name, ratings, speaker, gender, split, sound, words in _MSP_PODCAST:
        if ratings is not None and not (split == "Test3" and withheld == "absent"):
            spelling = "Validation" if old and split == "Development" else split
            rows.append([f"{name}.wav", "N" if any(ratings) else "", *ratings, speaker, gender, spelling])
        _recording(root / audio / f"{name}.wav", sound)
        if words is not None and not old:
            _text(root / "Transcripts" / f"{name}.txt", words + "\n")
    spelling = "labels_concensus.csv" if old else "labels_consensus.csv"
    _text(root / "Labels" / spelling, _separated(rows, ","), encoding="utf-8-sig")
    kept = (
        "MSP-PODCAST_0001_0008",
        "MSP-PODCAST_0001_0019",
        "MSP-PODCAST_0002_0033",
        "MSP-PODCAST_1023_0235",
        "MSP-PODCAST_0004_0002",
    )
    unheard = ("MSP-PODCAST_0006_0001",)
    return Truth(
        "msp-podcast",
        kept=() if old else kept,
        dropped={
            "missing": ("MSP-PODCAST_0003_0001",),
            "too short": ("MSP-PODCAST_0004_0003",),
            "too long": ("MSP-PODCAST_0005_0001",),
            "unreadable": ("MSP-PODCAST_0005_0002",),
            "no transcript": (*kept, *unheard) if old else unheard,
            "no label": ("MSP-PODCAST_0007_0001", "MSP-PODCAST_0008_0001"),
        },
    )


_PODCAST_HEADER = ["FileName", "EmoClass", "EmoAct", "EmoVal", "EmoDom", "SpkrID", "Gender", "Split_Set"]
_MSP_PODCAST = [  # name, (activation, valence, dominance), speaker, gender, split, recording, words
    ("MSP-PODCAST_0001_0008", ("4.2", "4.0", "4.6"), "1", "Female", "Train", "fine", "And that is why."),
    ("MSP-PODCAST_0001_0019", ("7", "1", "6.4"), "Unknown", "Unknown", "Train", "fine", "Never again!"),
    ("MSP-PODCAST_0002_0033", ("3.0", "4.4", "3.2"), "12", "Male", "Development", "fine", "Sure."),
    ("MSP-PODCAST_1023_0235", ("2.5", "3.5", "3.0"), "127", "Male", "Test1", "stereo", "So we went."),
    ("MSP-PODCAST_0003_0001", ("5.0", "2.0", "5.0"), "13", "Female", "Test1", "none", "What?"),
    ("MSP-PODCAST_0004_0002", ("1", "7", "1"), "Unknown", "Male", "Test2", "fine", ""),  # nothing was said
    ("MSP-PODCAST_0004_0003", ("4.0", "4.0", "4.0"), "14", "Male", "Test2", "short", "Hm."),
    ("MSP-PODCAST_0005_0001", ("4.0", "4.0", "4.0"), "15", "Female", "Train", "long", "Once upon a time."),
    ("MSP-PODCAST_0005_0002", ("4.0", "4.0", "4.0"), "15", "Female", "Train", "broken", "Then."),
    ("MSP-PODCAST_0006_0001", ("4.0", "4.8", "4.0"), "16", "Male", "Train", "fine", None),
    ("MSP-PODCAST_0007_0001", ("", "", ""), "Unknown", "Unknown", "Test3", "fine", "Withheld."),
    ("MSP-PODCAST_0008_0001", None, "", "", "", "fine", "Nobody rated this."),
]


def write_table(root: Path, *, kind: str = "csv") -> Truth:
    """A corpus of one's own, as csv, tsv or jsonl, and the manifest that describes it beside the labels."""
    header = ["path", "arousal", "valence", "person", "gender", "split", "transcript", "duration"]
    if kind == "jsonl":
        objects = [dict(zip(header, row, strict=True)) for row in _TABLE]
        text = "\n".join(json.dumps({k: v for k, v in row.items() if v is not None}) for row in objects)
    else:
        cells = [[("" if cell is None else str(cell)) for cell in row] for row in _TABLE]
        text = _separated([header, *cells], "\t" if kind == "tsv" else ",")
    _text(root / f"labels.{kind}", text + "\n\n")
    for row in _TABLE:
        _recording(root / "clips" / Path(str(row[0])).name, _TABLE_SOUNDS[Path(str(row[0])).stem])
    _recording(root / "clips" / "c9.wav", "fine")
    _text(root / "manifest.toml", TABLE_MANIFEST.replace("labels.csv", f"labels.{kind}"))
    return Truth(
        str(root / "manifest.toml"),
        kept=("c1", "c2", "c3", "c4"),
        dropped={
            "no transcript": ("c5",),
            "missing": ("c6",),
            "too short": ("c7",),
            "no label": ("c8",),
        },
        unlisted=("c9",),
    )


TABLE_MANIFEST = """\
name = "clinic"
title = "Clinic recordings"
layout = "table"
scale = { min = 0, max = 10 }
protocol = "given"

[protocols.given]
by = "split"
train = ["fit"]
validation = ["tune"]
test = "*"

[protocols.people]
by = "speaker"
train = ["anna", "Unknown"]
test = ["01"]

[files]
labels = ["labels.csv"]
audio = ["clips"]

[columns]
file = "path"
activation = "arousal"
speaker = "person"
"""
_TABLE: list[list[str | float | None]] = [
    # found below the root and in the audio folder
    ["clips/c1.wav", 0, 10, "anna", "f", "fit", 'She said "no", twice.', 3.2],
    ["c2.wav", 9.5, 0, "01", "Male", "tune", "two\nlines", 3.2],
    ["c3.wav", "2.25", "7", None, None, "check", "Ärger", 3.2],
    ["c4.wav", 5, 5, "01", "m", "fit", "yes", 3.2],
    ["c5.wav", 5, 5, "anna", "female", "fit", None, 3.2],
    ["c6.wav", 5, 5, "anna", "F", "check", "gone", 3.2],
    ["c7.wav", 5, 5, "anna", "F", "check", "short", 1.0],
    ["c8.wav", None, 5, "anna", "F", "check", "half a label", 3.2],
]
_TABLE_SOUNDS = {f"c{i}": "fine" for i in (1, 2, 3, 4, 5, 8)} | {"c6": "none", "c7": "short"}

# The contract tests build a release for every registered reader from here: layout -> builder.
BUILDERS: dict[str, Callable[[Path], Truth]] = {
    "iemocap": write_iemocap,
    "msp-improv": write_msp_improv,
    "msp-podcast": write_msp_podcast,
    "table": write_table,
}


def _recording(path: Path, sound: str) -> None:
    """A quiet noise of its own for every name: fine, short, long, stereo, broken or, for `none`, no file."""
    seconds, rate, channels = {
        "fine": (3.2, 16_000, 1),
        "short": (1.0, 16_000, 1),
        "long": (30.5, 8_000, 1),
        "stereo": (3.2, 44_100, 2),
    }.get(sound, (0.0, 16_000, 1))
    if sound == "broken":
        _bytes(path, b"RIFF, but not a recording")
    if not seconds:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(zlib.crc32(path.name.encode())).normal(
        0, 0.05, (int(seconds * rate), channels)
    )
    soundfile.write(path, noise.astype(np.float32), rate, subtype="PCM_16")


def _separated(rows: list[list[str]], delimiter: str) -> str:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _text(path: Path, text: str, encoding: str = "utf-8") -> None:
    _bytes(path, text.encode(encoding))


def _bytes(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
