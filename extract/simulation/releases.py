"""Simulated releases of the three corpora, in the layouts and with the difficulties of the real releases."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Literal

import numpy as np
import soundfile
from scipy import signal

from ser_memory.common.conventions import SAMPLING_RATE, UNKNOWN
from ser_memory.common.errors import UsageError
from ser_memory.extract.simulation.rooms import HALL, STAGE, STUDIO, Environment, between, place
from ser_memory.extract.simulation.voice import Audio, Gender, Speaker, speak
from ser_memory.extract.simulation.words import sentence

SEED = 2023
FEWEST = 12  # turns of a split or session at any scale, so that all of the traps below occur
NEUTRAL = 0.2  # largest absolute valence of a turn whose emotion category is neutral
WORKERS = 2  # threads: most of the time is spent in filters and transforms, which run in parallel

Trap = Literal["", "no recording", "truncated", "stereo"]
GENDERS: tuple[Gender, Gender] = ("Female", "Male")


@dataclass(frozen=True)
class SimulatedCorpus:
    """The emotions in one corpus, its environment, and how it is rated."""

    number: int
    flavour: str  # a key of words.FLAVOURS
    environment: Environment
    activation: tuple[float, float]  # mean and standard deviation of the felt activation, in [-1, 1]
    valence: tuple[float, float]
    scale: tuple[int, int]
    raters: int


# Natural speech is close to the middle of the scale; acted speech uses more of it.
PODCAST = SimulatedCorpus(0, "podcast", STUDIO, (0.1, 0.35), (0.05, 0.35), (1, 7), raters=5)
IMPROV = SimulatedCorpus(1, "improv", STAGE, (-0.15, 0.45), (0.0, 0.5), (1, 5), raters=7)
IEMOCAP = SimulatedCorpus(2, "iemocap", HALL, (0.2, 0.5), (-0.1, 0.5), (1, 5), raters=2)


@dataclass(frozen=True)
class Turn:
    """One utterance before it is spoken and rated."""

    corpus: SimulatedCorpus
    number: int  # within the corpus: with SEED it determines all random numbers of the turn
    id: str
    wav: str  # below the release's root
    group: str  # split, session or dialog
    speaker: str
    voice: Speaker
    seconds: float | None = None  # approximate length; None is the usual one
    trap: Trap = ""


@dataclass(frozen=True)
class Spoken:
    """A turn after it was spoken, with its ratings: (raters, 3) of activation, valence, dominance."""

    turn: Turn
    emotion: str
    text: str
    seconds: float
    ratings: np.ndarray[tuple[int, int], np.dtype[np.int64]]

    @property
    def consensus(self) -> tuple[float, float, float]:
        """The raters' mean of activation, valence and dominance, on the corpus's scale."""
        activation, valence, dominance = self.ratings.mean(axis=0)
        return float(activation), float(valence), float(dominance)


@dataclass(frozen=True)
class Release:
    """One corpus before it is written, to a folder of its name."""

    name: str
    turns: list[Turn]
    write_labels: Callable[[Path, list[Spoken]], None]


def plan(scale: float = 1.0) -> list[Release]:
    """What `write_releases` writes: three releases of about `scale` times 1,030, 540 and 550 turns.

    A larger scale starts with the same voices and emotions as a smaller one.
    """
    return [
        Release("msp-podcast", list(_podcast(scale)), _write_podcast),
        Release("msp-improv", list(_improv(scale)), _write_improv),
        Release("iemocap", list(_iemocap(scale)), _write_iemocap),
    ]


def write_releases(
    root: Path, scale: float = 1.0, on_turn: Callable[[], None] = lambda: None, distance: float = 1.0
) -> int:
    """Write <root>/msp-podcast, <root>/msp-improv and <root>/iemocap, and return the number of turns.

    `distance` tells how far the rooms of the corpora are from the studio of the first one: at 0 all were recorded in
    it. The same arguments give the same bytes. `on_turn` is called after each turn of the plan. Raises UsageError, and
    writes nothing, if one of the folders exists: it may be the real release.
    """
    releases = plan(scale)
    for release in releases:
        if (root / release.name).exists():
            raise UsageError(
                f"{root / release.name} exists, and simulated recordings do not overwrite it: "
                "give a folder that holds no releases."
            )
    for release in releases:
        folder = root / release.name
        for wav_folder in sorted({(folder / turn.wav).parent for turn in release.turns}):
            wav_folder.mkdir(parents=True, exist_ok=True)
        spoken = []
        with ThreadPoolExecutor(WORKERS) as pool:
            for each in pool.map(partial(_record, folder, distance), release.turns):
                spoken.append(each)
                on_turn()
        release.write_labels(folder, spoken)
    return sum(len(release.turns) for release in releases)


def _record(folder: Path, distance: float, turn: Turn) -> Spoken:
    """Synthesise a turn in its environment, write the recording, and draw its ratings."""
    room = between(STUDIO, turn.corpus.environment, distance)
    activation, valence = _felt(turn.corpus, turn.number)
    rng = _rng(turn.corpus, turn.number, "speech")
    seconds = rng.normal(4.0, 0.3) if turn.seconds is None else turn.seconds
    words = sentence(valence, rng, turn.corpus.flavour, seconds * turn.voice.pace_at(activation))
    voice = speak(words, turn.voice, activation, valence, rng)
    _write_wav(folder / turn.wav, place(voice, room, rng), turn.trap)

    felt = np.array([activation, valence, 0.6 * activation + rng.normal(0.0, 0.2)])
    perceived = felt + rng.normal(0.0, 0.25, size=(turn.corpus.raters, 3))
    low, high = turn.corpus.scale
    ratings = np.rint((low + high + (high - low) * perceived) / 2.0).clip(low, high).astype(np.int64)
    emotion = _emotion(activation, valence)
    return Spoken(turn, emotion, words.capitalize() + ".", len(voice) / SAMPLING_RATE, ratings)


def _write_wav(path: Path, audio: Audio, trap: Trap) -> None:
    if trap == "no recording":
        return
    if trap == "stereo":
        studio = signal.resample_poly(audio, 441, 160).clip(-1.0, 1.0)
        soundfile.write(path, np.stack([studio, studio], axis=1), 44_100, subtype="PCM_16")
    else:
        soundfile.write(path, audio, SAMPLING_RATE, subtype="PCM_16")
    if trap == "truncated":
        path.write_bytes(path.read_bytes()[:30])


def _rng(
    corpus: SimulatedCorpus, number: int, use: Literal["feeling", "speech", "speaker"]
) -> np.random.Generator:
    uses = ("feeling", "speech", "speaker")
    return np.random.default_rng(np.random.SeedSequence([SEED, corpus.number, uses.index(use), number]))


def _felt(corpus: SimulatedCorpus, number: int) -> tuple[float, float]:
    """The felt activation and valence of a turn, in [-1, 1]."""
    rng = _rng(corpus, number, "feeling")
    drawn = [rng.normal(*corpus.activation), rng.normal(*corpus.valence)]
    activation, valence = np.clip(drawn, -1.0, 1.0)
    return float(activation), float(valence)


def _emotion(activation: float, valence: float) -> str:
    """The category in the abbreviation of both MSP corpora: H happy, A angry, S sad, N neutral."""
    if valence > NEUTRAL:
        return "H"
    if valence < -NEUTRAL:
        return "A" if activation > 0.0 else "S"
    return "N"


def _voice(corpus: SimulatedCorpus, person: int) -> Speaker:
    return Speaker.draw(GENDERS[person % 2], _rng(corpus, person, "speaker"))


def _size(turns: int, scale: float) -> int:
    return max(min(FEWEST, turns), round(turns * scale))


# MSP-Podcast: an episode is six turns of one speaker, who is in no other split.

PODCAST_SPLITS = {"Train": 700, "Development": 120, "Test1": 160, "Test2": 40, "Test3": 10}
EPISODE = 6
UNKNOWN_EVERY = 8  # episodes: the speaker is unknown
PODCAST_SILENT_EVERY = 20  # turns: no transcript
PODCAST_TRAPS: dict[int, Trap] = {2: "no recording", 4: "truncated", 6: "stereo"}
PODCAST_LENGTHS = {3: 1.8, 8: 33.0}  # seconds


def _podcast(scale: float) -> Iterator[Turn]:
    for part, (split, usual) in enumerate(PODCAST_SPLITS.items()):
        for i in range(_size(usual, scale)):
            episode, place_in_episode = 1000 * part + i // EPISODE, i % EPISODE
            name = f"MSP-PODCAST_{episode:04d}_{place_in_episode:04d}"
            yield Turn(
                corpus=PODCAST,
                number=100_000 * part + i,
                id=name,
                wav=f"Audios/{name}.wav",
                group=split,
                speaker=UNKNOWN if i // EPISODE % UNKNOWN_EVERY == 1 else str(episode + 1),
                voice=_voice(PODCAST, episode),
                seconds=PODCAST_LENGTHS.get(i) if split == "Train" else None,
                trap=PODCAST_TRAPS.get(i, "") if split == "Train" else "",
            )


def _write_podcast(folder: Path, spoken: list[Spoken]) -> None:
    rows = ["FileName,EmoClass,EmoAct,EmoVal,EmoDom,SpkrID,Gender,Split_Set"]
    texts: dict[str, str] = {}
    for i, each in enumerate(spoken):
        turn = each.turn
        activation, valence, dominance = each.consensus
        labels = f"{each.emotion},{activation:g},{valence:g},{dominance:g}"
        if turn.group == "Test3":
            labels = ",,,"  # withheld
        rows.append(f"{turn.id}.wav,{labels},{turn.speaker},{turn.voice.gender},{turn.group}")
        if i % PODCAST_SILENT_EVERY != 1:
            texts[f"{turn.id}.txt"] = each.text
    _write_texts(folder / "Labels", {"labels_consensus.csv": "\n".join(rows) + "\n"})
    _write_texts(folder / "Transcripts", texts)


# MSP-Improv: six sessions of a woman and a man.

IMPROV_SESSION = 90
IMPROV_SILENT_EVERY = 40  # turns: no transcript
UNRATED_EVERY = 10  # turns: no dominance
SHORT_EVERY = 40  # of the turns in MSP-Improv and IEMOCAP
SHORT = 1.8  # seconds
SCENARIOS = "PRST"
EMOTIONS = {"A": "Angry", "H": "Happy", "S": "Sad", "N": "Neutral"}


def _improv(scale: float) -> Iterator[Turn]:
    for session in range(1, 7):
        for i in range(_size(IMPROV_SESSION, scale)):
            number = 1000 * session + i
            speaker, listener = ("F", "M") if i % 2 == 0 else ("M", "F")
            scenario = SCENARIOS[i // 2 % 4]
            target = f"S{i % 20 + 1:02d}{_emotion(*_felt(IMPROV, number))}"
            actor = f"{speaker}{session:02d}"
            name = f"MSP-IMPROV-{target}-{actor}-{scenario}-{listener}{speaker}{i // 20 + 1:02d}"
            yield Turn(
                corpus=IMPROV,
                number=number,
                id=name,
                wav=f"Audio/session{session}/{target}/{scenario}/{name}.wav",
                group=str(session),
                speaker=actor,
                voice=_voice(IMPROV, 2 * session + i % 2),
                seconds=SHORT if i % SHORT_EVERY == 1 else None,
            )


def _write_improv(folder: Path, spoken: list[Spoken]) -> None:
    blocks = []
    texts: dict[str, str] = {}
    for i, each in enumerate(spoken):
        name, emotion = each.turn.id, EMOTIONS[each.emotion]
        activation, valence, dominance = each.consensus
        shown = f"{dominance:f}" if i % UNRATED_EVERY != 1 else "NaN"
        # Activation is stored from high to low in this corpus.
        lines = [
            f"{name.replace('MSP-', 'UTD-')}.avi; {each.emotion}; "
            f"A:{6 - activation:f} ; V:{valence:f} ; D:{shown} ; N:NaN ; "
        ]
        for rater, (a, v, d) in enumerate(each.ratings, start=1):
            lines.append(f"RATER{rater:04d}; {emotion}; {emotion}; A:{6 - a:f}; V:{v:f}; D:{d:f}; N:NaN;")
        blocks.append("\n".join(lines) + "\n")
        if i % IMPROV_SILENT_EVERY != 1:
            texts[f"{name}.txt"] = each.text
    _write_texts(folder, {"Evalution.txt": "\n".join(blocks)})  # the release's own spelling
    _write_texts(folder / "All_human_transcriptions", texts)


# IEMOCAP: five sessions of a woman and a man, in dialogs of twenty turns.

IEMOCAP_SESSION = 110
DIALOG = 20
SCENES_IMPROVISED = 2  # of four; the others follow a script
CATEGORIES = {
    "A": ("ang", "Anger"),
    "H": ("hap", "Happiness"),
    "S": ("sad", "Sadness"),
    "N": ("neu", "Neutral state"),
}


def _iemocap(scale: float) -> Iterator[Turn]:
    for session in range(1, 6):
        for i in range(_size(IEMOCAP_SESSION, scale)):
            order, speaker = i // DIALOG, "FM"[i % 2]
            scene = f"impro{order + 1:02d}" if order % 4 < SCENES_IMPROVISED else f"script01_{order + 1}"
            dialog = (
                f"Ses{session:02d}{'FM'[order % 2]}_{scene}"  # the letter is the speaker who wears markers
            )
            name = f"{dialog}_{speaker}{i % DIALOG // 2:03d}"
            yield Turn(
                corpus=IEMOCAP,
                number=1000 * session + i,
                id=name,
                wav=f"Session{session}/sentences/wav/{dialog}/{name}.wav",
                group=f"Session{session}/dialog/{{}}/{dialog}.txt",
                speaker=f"{session:02d}{speaker}",
                voice=_voice(IEMOCAP, 2 * session + i % 2),
                seconds=SHORT if i % SHORT_EVERY == 1 else None,
            )


def _write_iemocap(folder: Path, spoken: list[Spoken]) -> None:
    for file, dialog in groupby(spoken, key=lambda each: each.turn.group):
        ratings = ["% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]", ""]
        texts = []
        end = 5.0
        for each in dialog:
            start, end = end, end + each.seconds
            short, category = CATEGORIES[each.emotion]
            activation, valence, dominance = each.consensus
            ratings.append(
                f"[{start:.4f} - {end:.4f}]\t{each.turn.id}\t{short}"
                f"\t[{valence:.4f}, {activation:.4f}, {dominance:.4f}]"
            )
            for rater, (a, v, d) in enumerate(each.ratings, start=2):
                ratings += [f"C-E{rater}:\t{category};\t()", f"A-E{rater}:\tval {v}; act {a}; dom  {d};\t()"]
            ratings += [f"A-{each.turn.speaker[-1]}1:\tval  ; act  ; dom   ;\t()", ""]
            texts.append(f"{each.turn.id} [{start:08.4f}-{end:08.4f}]: {each.text}")
        texts.append(f"M: [{end:08.4f}-{end + 1.0:08.4f}]: Okay.")  # a line that belongs to no turn
        for kind, lines in (("EmoEvaluation", ratings), ("transcriptions", texts)):
            path = folder / file.format(kind)
            _write_texts(path.parent, {path.name: "\n".join(lines) + "\n"})
            # A Mac writes such a file beside every file that it copies.
            (path.parent / f"._{path.name}").write_bytes(b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X")


def _write_texts(folder: Path, files: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8", newline="\n")
