"""The model of one line of notes, against its definition written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from mt3.note_sequences import Note
from mt3.prepare.pitch_hmm import NUM_STATES, REST, PitchHmm

HMM = PitchHmm()


def transitions(hmm):
    """All probabilities, [129, 129]."""
    change = hmm.changes_per_second / hmm.frames_per_second
    matrix = np.full((NUM_STATES, NUM_STATES), change / (NUM_STATES - 1))
    np.fill_diagonal(matrix, 1 - change)
    return matrix


def tracked(rng, frames, silence=0.2):
    """A tracker's pitches and confidences along some notes."""
    pitches = np.repeat(rng.integers(30, 90, -(-frames // 20)), 20)[:frames]
    octave = rng.choice([-12, 0, 12], frames, p=[0.05, 0.9, 0.05])
    confidences = rng.uniform(0.97, 1, frames)
    confidences[rng.random(frames) < silence] = 0.1
    return pitches + octave + rng.normal(0, 0.2, frames), confidences


def test_densities_of_what_the_tracker_says():
    pitches, confidences = np.array([60.3, np.nan]), np.array([0.9, 0.0])
    found = HMM.emissions(pitches, confidences)
    assert found.shape == (2, NUM_STATES)
    assert np.isfinite(found).all()
    sounding = 0.9**7.5
    for note, weight in ((60, 0.95), (72, 0.025), (48, 0.025)):
        density = weight * stats.norm.pdf(0.3, 0, 0.2)
        assert found[0, note] == pytest.approx(math.log(sounding * density))
    assert found[0, REST] == pytest.approx(math.log(1 - sounding))
    assert found[1].argmax() == REST
    assert found[1, REST] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("hmm", [HMM, PitchHmm(changes_per_second=30)])
def test_forward_and_viterbi_are_those_of_the_whole_matrix(hmm, rng):
    matrix = transitions(hmm)
    assert matrix.sum(axis=1) == pytest.approx(1)
    emissions = hmm.emissions(*tracked(rng, 160))
    state = np.exp(emissions[0]) / NUM_STATES
    best, previous = emissions[0] - math.log(NUM_STATES), []
    for row in emissions[1:]:
        state = state @ matrix * np.exp(row)
        moves = best[:, None] + np.log(matrix)
        previous.append(moves.argmax(axis=0))
        best = moves.max(axis=0) + row
    path = [int(best.argmax())]
    for pointers in previous[::-1]:
        path.append(int(pointers[path[-1]]))
    assert hmm.log_likelihood(emissions) == pytest.approx(math.log(state.sum()))
    assert hmm.most_likely_states(emissions).tolist() == path[::-1]
    assert len(set(path)) > 4


def test_every_path_is_counted(rng):
    """Three frames, in which four states alone are possible: all 64 paths."""
    emissions = np.full((3, NUM_STATES), -np.inf)
    states = [3, 60, 61, REST]
    emissions[:, states] = rng.normal(0, 3, (3, 4))
    matrix = transitions(HMM)
    chances = {}
    for path in itertools.product(states, repeat=3):
        chance = 1 / NUM_STATES
        for time, state in enumerate(path):
            chance *= math.exp(emissions[time, state])
            chance *= matrix[path[time - 1], state] if time else 1
        chances[path] = chance
    total = math.log(math.fsum(chances.values()))
    assert HMM.log_likelihood(emissions) == pytest.approx(total)
    found = tuple(HMM.most_likely_states(emissions).tolist())
    assert found == max(chances, key=chances.get)


def test_long_recordings_do_not_underflow(rng):
    emissions = HMM.emissions(*tracked(rng, 4000, silence=0.9))
    assert math.isfinite(HMM.log_likelihood(emissions))


def test_notes_are_runs_of_one_state():
    states = np.array([REST, 60, 60, 62, REST, REST, 62])
    assert HMM.notes(states, program=40) == [
        Note(0.01, 0.03, 60, 100, 40),
        Note(0.03, 0.04, 62, 100, 40),
        Note(0.06, 0.07, 62, 100, 40),
    ]
    assert HMM.notes(np.full(5, REST)) == []
    assert HMM.notes(states[:0]) == []


def test_a_line_is_found_in_spite_of_wrong_octaves(rng):
    """Ten notes of a tenth of a second up to a second, and a rest before each."""
    truth = []
    for pitch in rng.permutation(np.arange(50, 60)):
        truth += [REST] * 12 + [int(pitch)] * int(rng.integers(10, 100))
    truth = np.array(truth)
    sounding = truth != REST
    pitches = truth + rng.normal(0, 0.1, len(truth))
    pitches += 12 * (rng.random(len(truth)) < 0.05)
    pitches[~sounding] = rng.uniform(30, 100, (~sounding).sum())
    confidences = np.where(sounding, 0.97, 0.5)
    states = HMM.most_likely_states(HMM.emissions(pitches, confidences))
    assert np.mean(states == truth) > 0.98
    assert len(HMM.notes(states)) == 10
