"""Grids of what sounds, against the notes they were made of."""

import dataclasses

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


def test_places_of_notes():
    rows = grids.note_rows(
        notes_to_array(
            [
                *NOTES,
                Note(0.01, 0.5, 61, 50, 0),  # in the first window: frame -3.4
                Note(-1.0, 0.05, 62, 100, 0),  # ends before frame 1
                Note(0.2, 0.4, 110, 100, 0),  # above the grid
            ]
        ),
        7,
    )[None]
    found = grids.places(rows, CONFIG, 21, 88)
    begins = [False, True, False, True, False, False, False]
    assert np.asarray(found.begins)[0].tolist() == begins
    assert np.asarray(found.tied)[0].tolist() == [True] + [False] * 6
    assert np.asarray(found.timed)[0].tolist() == [False, True] + [False] * 5
    assert np.asarray(found.frame)[0, [0, 1, 3]].tolist() == [1, 22, 1]
    assert np.asarray(found.pitch)[0, [0, 1, 3]].tolist() == [50 - 21, 60 - 21, 61 - 21]
    # 0.4 s are 25 frames, less the 4 to the middle of a window.
    np.testing.assert_allclose(found.time[0, 1], 25 - 4 - 21, atol=1e-5)
    hits = grids.places(rows, CONFIG, 0, 128, drums=True)
    assert np.asarray(hits.begins)[0].nonzero()[0].tolist() == [2]
    assert (int(hits.frame[0, 2]), int(hits.pitch[0, 2])) == (28, 38)
    np.testing.assert_allclose(hits.time[0, 2], 0.5 / 0.016 - 4 - 27, atol=1e-5)


def test_context_moves_notes_and_keeps_their_grids():
    """Times count from the middle's start; what lies before it is on the grid, too."""
    context = dataclasses.replace(CONFIG, context_frames=8)
    moved = ROWS.copy()
    moved[..., :2] -= np.where(moved[..., 3:4] >= 0, context.context_seconds, 0)
    assert (moved[0, :3, 0] < 0).sum() == 1
    early = grids.note_rows(notes_to_array([Note(-0.05, 0.2, 70)]), 1)[None]
    for make in (grids.onset_grid, grids.sounding_grid, grids.next_event):
        np.testing.assert_array_equal(make(moved, context), make(ROWS, CONFIG))
    onsets = np.asarray(grids.onset_grid(early, context))[0]
    assert np.argwhere(onsets).tolist() == [[1, 70], [2, 70]]
    for ours, theirs in zip(
        grids.places(moved, context, 21, 88),
        grids.places(ROWS, CONFIG, 21, 88),
        strict=True,
    ):
        np.testing.assert_allclose(ours[:, :3], theirs[:, :3], atol=1e-4)
