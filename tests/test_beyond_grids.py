"""Grids of what sounds, against the notes they were made of."""

import numpy as np

from mt3 import configs, spectrograms
from mt3.beyond import grids
from mt3.note_sequences import Note, notes_to_array

CONFIG = configs.ModelConfig(
    network={},
    spectrogram=spectrograms.SpectrogramConfig(hop_width=256),
    inputs_length=64,
)
NOTES = [
    Note(-0.5, 0.3, 50, 100, 40),
    Note(0.4, 0.9, 60, 80, 9),
    Note(0.5, 0.51, 38, 100, 0, is_drum=True),
]
ROWS = grids.note_rows(notes_to_array(NOTES), 6)[None]


def test_rows():
    np.testing.assert_allclose(ROWS[0, :3, 3], [5, 1, grids.DRUMS])
    assert ROWS[0, :3, 4].tolist() == [100, 80, 100]
    assert (ROWS[0, 3:, 3:] == -1).all()
    assert grids.note_rows(notes_to_array(NOTES), 2) is None


def test_classes_come_from_the_number_of_programs(monkeypatch):
    """Both numbers are 128, so only another number of pitches shows a confusion."""
    monkeypatch.setattr(grids.vocabularies, "NUM_PITCHES", 88)
    notes = notes_to_array([Note(0, 1, 60, program=program) for program in range(128)])
    rows = grids.note_rows(notes, 128)
    assert rows[:, 3].tolist() == [program // 8 for program in range(128)]


def test_onsets_and_what_sounds():
    # A frame's window is centred 4 frames of 16 ms after its start.
    onsets = np.asarray(grids.onset_grid(ROWS, CONFIG))[0]
    assert onsets.shape == (64, 128)
    assert np.argwhere(onsets).tolist() == [[21, 60], [22, 60]]
    drums = np.asarray(grids.onset_grid(ROWS, CONFIG, drums=True))[0]
    assert np.argwhere(drums).tolist() == [[27, 38], [28, 38]]
    sounding = np.asarray(grids.sounding_grid(ROWS, CONFIG))[0]
    assert sounding[:, 50].nonzero()[0].tolist() == list(range(15))
    assert sounding[:, 60].nonzero()[0].tolist() == list(range(21, 52))
    assert set(np.unique(sounding)) == {0.0, 1.0}
    classes = np.asarray(grids.sounding_grid(ROWS, CONFIG, classes=True))[0]
    assert classes.any(axis=0).nonzero()[0].tolist() == [1, 5]
    assert (classes[:, 5] == sounding[:, 50]).all()


def test_notes_beyond_the_segment_leave_no_trace():
    rows = grids.note_rows(notes_to_array([Note(3.0, 4.0, 60)]), 2)[None]
    assert not np.asarray(grids.onset_grid(rows, CONFIG)).any()
    assert not np.asarray(grids.sounding_grid(rows, CONFIG)).any()
    # What began long before and ends long after sounds throughout.
    rows = grids.note_rows(notes_to_array([Note(-3.0, 40.0, 60)]), 2)[None]
    assert np.asarray(grids.sounding_grid(rows, CONFIG))[0, :, 60].all()


def test_next_event():
    following = np.asarray(grids.next_event(ROWS, CONFIG))[0]
    # Events at 0.3, 0.4, 0.5 and 0.9 s, that is at frames 15, 21, 27 and 52; drums
    # have no offset.
    assert following.shape == (64,)
    assert following[[0, 14, 15, 20, 21, 27, 28, 52]].tolist() == [
        *(15, 1, 6, 1, 6, 25, 24, 63),
    ]
    # What ends after the segment is never reached in it.
    rows = grids.note_rows(notes_to_array([Note(-1.0, 5.0, 60)]), 1)[None]
    assert (np.asarray(grids.next_event(rows, CONFIG)) == 63).all()


def test_picking_what_lies_at_onsets():
    grid = np.zeros((1, 64, 88, 2), np.float32)
    grid[0, 22, 60 - 21] = (3.0, 4.0)
    picked, inside = grids.at_onsets(grid, ROWS, CONFIG, 21)
    assert np.asarray(inside)[0].tolist() == [False, True, False, False, False, False]
    assert np.asarray(picked)[0, 1].tolist() == [3.0, 4.0]
