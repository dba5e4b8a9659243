"""Which instrument plays each note, from made-up notes."""

import numpy as np
import pytest

from mt3.beyond import names
from mt3.frame_heads import NUM_CLASSES

PIANO, BASS, STRINGS = 0, 4, 6


def heard(*notes):
    """Notes as (start in seconds, pitch, {class: logit})."""
    starts, pitches, classes = zip(*notes, strict=True) if notes else ((), (), ())
    logits = np.zeros((len(notes), NUM_CLASSES), np.float32)
    for row, values in zip(logits, classes, strict=True):
        row[list(values)] = list(values.values())
    start, pitch = np.array(starts, float), np.array(pitches, int)
    return names.HeardNotes(start, start + 0.5, pitch, logits, start * 0 + 0.9)


def name(*notes, allowed=None):
    return names.name_notes(heard(*notes), allowed).tolist()


def test_a_note_near_others_is_named_as_they_are():
    clear = [(0.5 * i, 60 + i % 5, {STRINGS: 6.0}) for i in range(8)]
    wrong = (2.2, 62, {PIANO: 6.0})
    assert name(*clear, wrong, wrong) == [STRINGS] * 10
    assert name(wrong, wrong) == [PIANO] * 2


def test_instruments_keep_their_registers():
    """Whole recording's shares would give all notes to the one that plays most."""
    high = [(0.2 * i, 72 + i % 4, {PIANO: 3.0, STRINGS: 1.0}) for i in range(40)]
    low = [(0.8 * i, 36 + i % 4, {PIANO: 1.0, STRINGS: 1.2}) for i in range(8)]
    assert name(*high, *low) == [PIANO] * 40 + [STRINGS] * 8


def test_one_instrument_alone_plays_everything():
    """Its unclear low notes would be another one's, were they not so few."""
    high = [(0.2 * i, 60 + i % 8, {STRINGS: 4.0}) for i in range(40)]
    low = [(2.0 * i, 48, {BASS: 2.0, STRINGS: 1.0}) for i in range(3)]
    assert name(*high, *low) == [STRINGS] * 43
    narrow = names.votes_nearby(heard(*high, *low), names.SEMITONES).argmax(axis=1)
    assert narrow.tolist() == [STRINGS] * 40 + [BASS] * 3


def test_instruments_change_in_the_course_of_a_recording():
    first = [(i, 60, {PIANO: 2.0}) for i in range(30)]
    later = [(1000.0 + i, 60, {STRINGS: 2.0}) for i in range(20)]
    assert name(*first, *later) == [PIANO] * 30 + [STRINGS] * 20


def test_an_instrument_of_one_note_is_a_mistake():
    played = [(i, 70, {PIANO: 5.0}) for i in range(4)]
    played += [(i, 40, {BASS: 5.0}) for i in range(2)]
    assert name(*played, (1.0, 90, {9: 5.0})) == [PIANO] * 4 + [BASS] * 2 + [PIANO]
    # Where nothing else is left, the likeliest stays.
    assert name((0.0, 40, {9: 5.0}), (1.0, 90, {3: 7.0})) == [3, 3]
    assert name((0.0, 40, {9: 5.0})) == [9]
    assert name() == []


def test_names_that_were_not_asked_for_have_no_vote():
    allowed = np.isin(np.arange(NUM_CLASSES), [PIANO, BASS])
    low = [(i, 40, {9: 50.0, BASS: 1.0}) for i in range(2)]
    high = [(i, 80, {9: 900.0, PIANO: 1.0}) for i in range(2)]
    assert name(*low, *high, allowed=allowed) == [BASS] * 2 + [PIANO] * 2


@pytest.mark.parametrize("semitones", [names.SEMITONES, names.WIDE_SEMITONES])
def test_votes_fade_with_pitch_and_time(semitones):
    """By the formula, for notes at the beginnings of stretches."""
    rng = np.random.default_rng(1)
    start = 20.0 * rng.integers(0, 12, 50)
    pitch = rng.integers(21, 109, 50)
    logits = rng.normal(0, 3, (50, NUM_CLASSES)).astype(np.float32)
    notes = names.HeardNotes(start, start + 1, pitch, logits, start * 0 + 1)
    distance = np.abs(pitch[:, None] - pitch) / semitones
    near = np.exp(-distance - np.abs(start[:, None] - start) / 100)
    wanted = near @ names.probabilities(logits)
    votes = names.votes_nearby(notes, semitones)
    np.testing.assert_allclose(votes, wanted, rtol=1e-5)


@pytest.mark.parametrize("allowed", [None, np.arange(NUM_CLASSES) != PIANO])
def test_votes_until_now_are_those_of_earlier_notes(allowed):
    rng = np.random.default_rng(2)
    pitch = rng.integers(21, 109, (5, 8))
    logits = rng.normal(0, 3, (5, 8, NUM_CLASSES))
    votes = names.Votes(allowed)
    said = np.zeros((0, NUM_CLASSES))
    for i in range(5):
        votes.add(pitch[i], logits[i], 20.0)
        said = np.exp(-0.2) * said
        said = np.concatenate([said, names.probabilities(logits[i], allowed)])
        distance = np.abs(pitch[i][:, None] - pitch[: i + 1].ravel())
        wanted = (np.exp(-distance / names.SEMITONES) @ said).argmax(axis=1)
        assert votes.classes(pitch[i]).tolist() == wanted.tolist()


def test_one_instrument_alone_plays_everything_until_now():
    """Low notes are the strings' until a bass has played enough."""
    votes = names.Votes()
    low, high = np.array([48]), np.full(8, 60)
    logits = np.zeros((8, NUM_CLASSES))
    logits[:, STRINGS] = 4.0
    votes.add(high, logits, 3.0)
    unclear = np.zeros((1, NUM_CLASSES))
    unclear[0, [BASS, STRINGS]] = 2.0, 1.0
    votes.add(low, unclear, 3.0)
    assert votes.classes(low).tolist() == [STRINGS]
    clear = np.zeros((4, NUM_CLASSES))
    clear[:, BASS] = 5.0
    votes.add(np.full(4, 40), clear, 3.0)
    assert votes.classes(np.array([40, 48, 60])).tolist() == [BASS, BASS, STRINGS]
