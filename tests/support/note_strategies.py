"""Hypothesis strategies for notes, and ways to compare notes, for property tests."""

from hypothesis import strategies as st

from mt3 import note_sequences
from mt3.note_sequences import Note

PROGRAMS = (0, 24, 33, 40, 127)


def grid_notes(max_step=900):
    """Notes on the 10 ms grid, up to 9 s by default."""
    return st.builds(
        lambda start, length, pitch, velocity, program, is_drum: Note(
            start / 100,
            (start + (1 if is_drum else length)) / 100,
            pitch,
            velocity,
            0 if is_drum else program,
            is_drum,
        ),
        start=st.integers(0, max_step),
        length=st.integers(1, 300),
        pitch=st.integers(0, 127),
        velocity=st.integers(1, 127),
        program=st.sampled_from(PROGRAMS),
        is_drum=st.booleans(),
    )


def note_lists(max_size=30, max_step=900):
    """Lists of notes on the grid, possibly overlapping."""
    return st.lists(grid_notes(max_step), max_size=max_size)


def expressible(notes):
    """What tokens can say: no two sounding notes of one key, each drum once."""
    drums = {(n.start_time, n.pitch): n for n in notes if n.is_drum}
    pitched = note_sequences.trim_overlapping_notes([n for n in notes if not n.is_drum])
    return [*pitched, *drums.values()]


def rounded(notes):
    """Sorted notes with times in steps of 10 ms, to be compared."""
    return sorted(
        (
            round(n.start_time * 100),
            round(n.end_time * 100),
            *(n.pitch, n.velocity, n.program, n.is_drum),
        )
        for n in notes
    )
