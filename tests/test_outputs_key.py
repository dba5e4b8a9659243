"""Keys of pieces."""

from __future__ import annotations

import pytest

from mt3.note_sequences import Note
from mt3.outputs.key import Key, estimate_key

MAJOR = (0, 2, 4, 5, 7, 9, 11, 12, 7, 4, 0)
NAMES = (
    "C Db D Eb E F F# G Ab A Bb B",
    "Cm C#m Dm Ebm Em Fm F#m Gm G#m Am Bbm Bm",
)
MINOR = (0, 2, 3, 5, 7, 8, 11, 12, 7, 3, 0)


def melody(tonic, scale):
    return [Note(i / 2, i / 2 + 0.5, 48 + tonic + step) for i, step in enumerate(scale)]


@pytest.mark.parametrize("tonic", range(12))
@pytest.mark.parametrize("minor", [False, True])
def test_scales_have_their_keys(tonic, minor):
    key = estimate_key(melody(tonic, MINOR if minor else MAJOR))
    assert key.name == NAMES[minor].split()[tonic]
    assert key.minor is minor


def test_drums_and_silence_have_no_key():
    drums = [Note(0, 1, 36, is_drum=True), Note(1, 2, 38, is_drum=True)]
    assert estimate_key(drums) is None
    assert estimate_key([]) is None
    assert estimate_key(drums + melody(2, MAJOR)).name == "D"


def test_every_pitch_class_alike_has_no_key():
    assert estimate_key([Note(0, 1, 60 + step) for step in range(12)]) is None


def test_transposed_keys():
    for fifths in range(-5, 7):
        for semitones in range(-24, 25):
            moved = Key(fifths, False).transposed(semitones)
            assert abs(moved.fifths) <= 6
            assert (7 * moved.fifths - 7 * fifths - semitones) % 12 == 0
