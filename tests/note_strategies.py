"""Hypothesis strategies for notes, shared by the property tests."""

from hypothesis import strategies as st

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
