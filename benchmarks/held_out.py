"""The pieces that models are scored on: rendered the same every time, or recorded.

`make_pieces` renders MIDI files, `find_recordings` takes recordings with their notes.
Rendered tunes are played in two versions: "all instruments", as they are, and
"piano", all their pitched parts on one piano. On top of these, where asked for:

* "solos": a part of a tune, alone, on a typical instrument of each group (piano,
  guitar, bass, strings, winds, brass, keys, synth);
* "sums": two or three of these solos together, with the drums of their tune.

Which part is given to which instrument depends on the tunes alone, nothing is drawn:
of each tune with drums, its fullest parts that are not copies of one another, and the
groups in turn. Every solo is heard again in a sum, so the two scores can be compared.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mt3 import outputs
from mt3.audio import formats, reading
from mt3.errors import DataError
from mt3.midi import note_arrays, reader
from mt3.note_sequences import Note
from mt3.synthesis import orchestration, soundfont
from mt3.vocabularies import midi_class

SAMPLE_RATE = 16000
PEAK = 0.7
# A whole tune is followed by so much, in which its last notes die away.
TAIL_SECONDS = 1.0
ALL, PIANO, SOLOS, SUMS = "all instruments", "piano", "solos", "sums"
RECORDINGS = "recordings"

DRUMS = "drums"
# General MIDI families by group of instruments, as the families are numbered.
_FAMILIES = {
    "piano": (0,),
    "guitar": (3,),
    "bass": (4,),
    "strings": (5, 6),
    "winds": (8, 9),
    "brass": (7,),
    "keys": (1, 2),
    "synth": (10, 11, 12),
    "other": (13, 14, 15),
}
GROUPS = (*_FAMILIES, DRUMS)
_GROUP_OF_FAMILY = {
    family: group for group, families in _FAMILIES.items() for family in families
}
# What plays the solos of a group, in turn: one program for each solo.
SOLOISTS = {
    "piano": (0, 0, 1, 4),
    "guitar": (25, 27, 24, 26),
    "bass": (33, 32, 34, 38),
    "strings": (40, 42, 40, 48),
    "winds": (73, 65, 71, 68),
    "brass": (56, 57, 60, 61),
    "keys": (16, 11, 19, 12),
    "synth": (80, 81, 87, 89),
}
# They can play chords, but their parts hardly ever do.
_ONE_VOICE = frozenset([*range(32, 44)])
# Parts are chosen by what they play here, whatever length is rendered.
_CHOICE_SECONDS = 30.0
_FEWEST_NOTES = 20
_MOST_SHARED = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Piece:
    """A piece of music with the notes that sound in it.

    Attributes:
      name: unique, and a relative path: the source, the set, the tune.
      group: of a solo, its group; else "".
      array: its notes, as a note array.
      seconds: its length.
      source: the soundfont that plays it, or the samples that were recorded.
    """

    name: str
    group: str
    array: np.ndarray
    seconds: float
    source: soundfont.SoundFont | np.ndarray

    @property
    def notes(self) -> list[Note]:
        """The notes that sound."""
        return note_arrays.to_notes(self.array)

    @functools.cached_property
    def samples(self) -> np.ndarray:
        """The audio, float32 [samples] at `SAMPLE_RATE`; rendered with this `PEAK`."""
        if isinstance(self.source, np.ndarray):
            return self.source
        samples = self.source.render(self.array, seconds=self.seconds)
        peak = float(np.abs(samples).max(initial=0.0))
        return samples * np.float32(PEAK / max(peak, 1e-6))


def group_of(program: int, is_drum: bool = False) -> str:
    """Returns the group of an instrument."""
    if is_drum:
        return DRUMS
    return _GROUP_OF_FAMILY[midi_class(program)]


def make_pieces(
    files: Sequence[Path],
    font: soundfont.SoundFont,
    seconds: float | None,
    *,
    solos: bool = False,
) -> dict[str, list[Piece]]:
    """Makes the pieces of some tunes.

    Args:
      files: MIDI files.
      font: what plays them.
      seconds: how much of each tune from its beginning; None for all of it.
      solos: also make solos and sums.

    Returns:
      Pieces by set, in the order of the tunes.
    """
    tunes = [(path.stem, reader.read_song(path).notes) for path in files]
    pieces: dict[str, list[Piece]] = {ALL: [], PIANO: []}
    for stem, notes in tunes:
        for kind, version in (
            (ALL, notes),
            (PIANO, orchestration.solo(notes, 0)),
        ):
            pieces[kind].append(_rendered(kind, stem, "", version, font, seconds))
    if solos:
        pieces |= {SOLOS: [], SUMS: []}
        for stem, drums, parts in _assign_solos(tunes):
            for group, number, part in parts:
                name = f"{group}-{number}-{stem}"
                solo = _rendered(SOLOS, name, group, part, font, seconds)
                pieces[SOLOS].append(solo)
            together = np.concatenate([drums, *(part for _, _, part in parts)])
            pieces[SUMS].append(_rendered(SUMS, stem, "", together, font, seconds))
    return pieces


def _rendered(
    kind: str,
    name: str,
    group: str,
    notes: np.ndarray,
    font: soundfont.SoundFont,
    seconds: float | None,
) -> Piece:
    """Cuts the beginning of a piece, and leaves out what makes no sound."""
    if seconds is None:
        seconds = float(notes["end_time"].max(initial=0.0)) + TAIL_SECONDS
    notes = note_arrays.resolve_overlaps(_beginning(notes, seconds))
    notes = notes[font.audible(notes, {})]
    name = f"{font.path.stem}/{kind.replace(' ', '-')}/{name}"
    return Piece(name, group, notes, seconds, font)


def _beginning(notes: np.ndarray, seconds: float) -> np.ndarray:
    """Returns the notes that begin within the first seconds, cut at their end."""
    notes = notes[notes["start_time"] < seconds]
    notes["end_time"] = np.minimum(notes["end_time"], seconds)
    return notes


def find_recordings(folder: Path, seconds: float | None) -> dict[str, list[Piece]]:
    """Finds recordings, each beside a MIDI file of its notes with the same stem.

    Args:
      folder: searched to any depth.
      seconds: how much of each recording from its beginning; None for all of it.

    Returns:
      Pieces by set: the folder below `folder`, or "recordings" for those beside it.

    Raises:
      AudioError, MidiError: a file cannot be read.
      DataError: a recording without notes, or no recording.
    """
    sets: dict[str, list[Piece]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in formats.SUFFIXES or not path.is_file():
            continue
        midis = [path.with_suffix(suffix) for suffix in reader.MIDI_SUFFIXES]
        midi = next((midi for midi in midis if midi.is_file()), None)
        if midi is None:
            raise DataError(
                f"{path}: accuracy: has no notes; expected a MIDI file "
                f"({', '.join(reader.MIDI_SUFFIXES)}) of the same stem beside it"
            )
        place = path.relative_to(folder)
        samples = reading.read_audio(path, SAMPLE_RATE)
        if seconds is not None:
            samples = samples[: round(seconds * SAMPLE_RATE)]
        length = len(samples) / SAMPLE_RATE
        notes = _beginning(note_arrays.to_array(reader.read_midi(midi)), length)
        name = f"{RECORDINGS}/{place.with_suffix('')}"
        kind = place.parts[0] if len(place.parts) > 1 else RECORDINGS
        sets.setdefault(kind, []).append(Piece(name, "", notes, length, samples))
    if not sets:
        raise DataError(f"{folder}: accuracy: holds no audio; expected recordings")
    return sets


def _assign_solos(
    tunes: Sequence[tuple[str, np.ndarray]],
) -> Iterator[tuple[str, np.ndarray, list[tuple[str, int, np.ndarray]]]]:
    """Yields (tune, its drums, [(group, number, notes)]), until all groups are served.

    Of three tunes in a row the first gives two parts, the others three where they
    have as many. Tunes without drums, or with one part, give none.
    """
    groups, turns = list(SOLOISTS), len(SOLOISTS["piano"])
    given = used = 0
    for stem, notes in tunes:
        drums = notes[notes["is_drum"]]
        left = len(groups) * turns - given
        if not left:
            return
        # No sum is left with a single part.
        two = left in (2, 4) or (used % 3 == 0 and left != 3)
        parts = _fullest_parts(notes)[: 2 if two else 3]
        if len(parts) < 2 or left - len(parts) == 1:
            continue
        if not (drums["start_time"] < _CHOICE_SECONDS).any():
            continue
        used += 1
        solos = []
        for part in parts:
            turn, index = divmod(given, len(groups))
            group = groups[index]
            program = SOLOISTS[group][turn]
            if program in _ONE_VOICE:
                part = orchestration.melody(part)
            solos.append((group, turn + 1, orchestration.solo(part, program)))
            given += 1
        yield stem, drums, solos


def _fullest_parts(notes: np.ndarray) -> list[np.ndarray]:
    """Returns the pitched parts with most notes, without those that double another."""
    parts = [
        orchestration.keep_tracks(notes, [track])
        for track in orchestration.tracks(notes)
    ]
    early = [part[part["start_time"] < _CHOICE_SECONDS] for part in parts]
    chosen: list[int] = []
    for index in sorted(range(len(parts)), key=lambda i: -len(early[i])):
        if len(early[index]) >= _FEWEST_NOTES and all(
            _shared(early[index], early[other]) <= _MOST_SHARED for other in chosen
        ):
            chosen.append(index)
    return [parts[index] for index in chosen]


def _shared(part: np.ndarray, other: np.ndarray) -> float:
    """Returns the share of a part's notes that another one plays too, in any octave."""
    keys = [
        np.round(p["start_time"] * 50).astype(np.int64) * 12 + p["pitch"] % 12
        for p in (part, other)
    ]
    return float(np.isin(keys[0], keys[1]).mean())


def write_pieces(pieces: Sequence[Piece], folder: Path) -> None:
    """Writes audio (32-bit WAV, so exactly what models hear) and reference (MIDI).

    Args:
      pieces: what to write.
      folder: where to; each piece's name is the path below it.
    """
    import soundfile

    for piece in pieces:
        audio = folder / f"{piece.name}.wav"
        audio.parent.mkdir(parents=True, exist_ok=True)
        record = outputs.Transcription(
            piece.notes, duration=piece.seconds, source=piece.name
        )
        outputs.write(record, folder / piece.name, ["mid"])
        with outputs.atomic_file(audio) as stream:
            soundfile.write(
                stream, piece.samples, SAMPLE_RATE, format="WAV", subtype="FLOAT"
            )
