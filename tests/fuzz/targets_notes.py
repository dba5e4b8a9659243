"""Files of notes (MIDI, JSON, JSON lines, CSV) and beats, read and scored."""

from __future__ import annotations

import contextlib
import pathlib

import numpy as np

from mt3.beats.grid import read_beats
from mt3.errors import MidiError
from mt3.midi import events, note_arrays, reader
from mt3.note_sequences import Note, validate_notes
from mt3.outputs import reading
from mt3.scoring import conventions
from mt3.scoring.files import score_files
from tests.fuzz.target import Target
from tests.support import midi_files
from tests.support.midi_files import header, off, on, pedal, program, tempo, track_bytes
from tests.support.note_files import write_notes

_NOTES = [
    Note(0.5, 1.0, 60, 90, 0, False),
    Note(0.75, 1.5, 64, 1, 40, False),
    Note(1.0, 1.01, 38, 127, 0, True),
    Note(3599.99, 3600.5, 127, 100, 127, False),
]


def _midi_seeds(folder: pathlib.Path) -> list[pathlib.Path]:
    tracks = [
        [tempo(0, 400_000), program(40), on(0, 60), pedal(10, 127), off(240, 60)],
        [on(5, 38, channel=9), off(9, 38, channel=9), on(0, 61), pedal(90, 0)],
    ]
    paths = [midi_files.write_midi(folder / "band.mid", *tracks)]
    paths.append(midi_files.write_midi(folder / "scale.mid", midi_files.scale(0)))
    day = b"\xff\xff\xff\x7f"
    body = b"\0\x90\x3c\x40" + day + b"\x80\x3c\0" + b"\0\xff\x2f\0"
    made = {
        "ticks_0.mid": header(division=0) + track_bytes(body),
        "ticks_1.mid": header(division=1) + track_bytes(body),
        "ticks_32767.mid": header(division=32767) + track_bytes(body),
        "frames.mid": header(division=0xE728) + track_bytes(body),
        "long_track.mid": header() + track_bytes(body, size=0xFFFFFFFF),
        "many_tracks.mid": header(65535) + 300 * track_bytes(body[:8] + body[-4:]),
        "riff.rmi": b"RIFF\0\0\0\0RMIDdata\0\0\0\0" + paths[1].read_bytes(),
    }
    for name, data in made.items():
        paths.append(folder / name)
        paths[-1].write_bytes(data)
    return paths


def _read_midi(path: pathlib.Path) -> None:
    passed_over: list[str] = []
    try:
        notes = reader.read_midi(path, log=passed_over.append)
    except MidiError:
        # The other pairing may read it or not, for reasons of its own.
        with contextlib.suppress(MidiError):
            reader.read_song(path)
        raise
    _check(notes)
    _check(reader.read_midi(path, pairing="first"))
    _check(note_arrays.to_notes(reader.read_song(path).notes))
    assert events.plain_bytes(path).startswith(b"MThd")
    assert len(passed_over) < 100


def _check(notes: list[Note]) -> None:
    validate_notes(notes)
    assert all(note.end_time <= 2 * reader.MOST_SECONDS for note in notes)
    assert all(note.start_time <= note.end_time for note in notes)


def _score(path: pathlib.Path) -> None:
    """Compares a file with itself, by one of the conventions."""
    names = list(conventions.CONVENTIONS)
    convention = names[path.stat().st_size % len(names)]
    report = score_files(path, path, convention=convention)
    assert not any("MemoryError" in text for text in report.failures.values())
    for song in report.songs:
        assert not np.isinf(list(song.scores.values())).any()


def _results_seeds(folder: pathlib.Path) -> list[pathlib.Path]:
    return [
        write_notes(folder / "song", _NOTES, format)
        for format in ("json", "jsonl", "csv")
    ]


def _read_results(path: pathlib.Path) -> None:
    notes = reading.read_notes(path)
    _check(notes)
    _score(path)


_BEATS = """# seconds and number
0.5 1
1.0 2
1.52 3
2.0\t1
2.5 2
3.25 3
"""


def _beats_seeds(folder: pathlib.Path) -> list[pathlib.Path]:
    (folder / "numbered.beats").write_text(_BEATS)
    (folder / "plain.beats").write_text("0.1\n0.6\n1.2\n1.9\n2.4\n")
    return [folder / "numbered.beats", folder / "plain.beats"]


def _read_beats(path: pathlib.Path) -> None:
    """Reads beats and uses them as sheet music and MIDI files do."""
    beats = read_beats(path)
    times = np.array([0.0, 0.3, 5.0, 100.0])
    assert np.isfinite(beats.to_beats(times)).all()
    assert np.isfinite(beats.to_seconds(times)).all()
    assert np.isfinite(beats.tempo)
    assert len(beats.tempo_map()) <= len(beats.times)
    beats.time_signatures()
    beats.from_zero()
    beats.moved(1.0)
    beats.to_dict()


TARGETS = (
    Target("midi", _midi_seeds, _read_midi, quick=40),
    Target("results", _results_seeds, _read_results, quick=40),
    Target("beats", _beats_seeds, _read_beats, quick=60),
)
