"""From a pitch tracker's frames to notes: a hidden Markov model of one line of notes.

The states are the 128 MIDI pitches and, as the last one, a rest. In each frame the
tracker says a pitch p (in semitones, MIDI's scale) and how sure it is, c in 0..1.

    P(not rest)          c^7.5
    p | note n           0.95 N(n, 0.2) + 0.025 N(n + 12, 0.2) + 0.025 N(n - 12, 0.2):
                         semitones, with the tracker an octave off now and then
    p | rest             says nothing: a density of 1 per semitone
    from frame to frame  a change with probability 2 / 100 (two notes a second, 100
                         frames a second), to each of the other states alike
    first frame          all states alike

A change goes to all others alike, so one step of both recursions takes O(states):

    forward   a'(s) = b(s) (stay a(s) + move (sum a - a(s)))
    Viterbi   d'(s) = b(s) max(stay d(s), move max d)

(The best predecessor for a move may be s itself, but then staying is more likely.)

The model has no onsets: a pitch that is repeated without a gap is one note.

The numbers are those of Simon et al., "Scaling Polyphonic Transcription with Mixtures
of Monophonic Transcriptions" (ISMIR 2022). The density of a rest's pitch, the change's
spread over the other states and the first frame are not given there.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from mt3.note_sequences import Note
from mt3.vocabularies import NUM_PITCHES

NUM_STATES = NUM_PITCHES + 1
REST = NUM_PITCHES
VELOCITY = 100
# A tracker is never quite sure; of logarithms, too.
_LEAST_PROBABILITY = 1e-6


@dataclasses.dataclass(frozen=True)
class PitchHmm:
    """The model's numbers.

    Attributes:
      frames_per_second: of the tracker.
      sigma: standard deviation of the tracker's pitch, in semitones.
      octave_error: probability that it is an octave too high or too low, together.
      confidence_power: P(not rest) is the confidence to this power.
      changes_per_second: how often the state changes.
    """

    frames_per_second: float = 100.0
    sigma: float = 0.2
    octave_error: float = 0.05
    confidence_power: float = 7.5
    changes_per_second: float = 2.0

    def emissions(self, pitches: np.ndarray, confidences: np.ndarray) -> np.ndarray:
        """Returns log densities of what the tracker said, float64 [frames, 129].

        Args:
          pitches: in semitones, 69 is 440 Hz; [frames]. Where the confidence is 0 they
            may be NaN.
          confidences: 0..1, [frames].
        """
        away = np.nan_to_num(pitches, nan=-99.0)[:, None] - np.arange(NUM_PITCHES)
        density = (1 - self.octave_error) * self._normal(away)
        density += self.octave_error / 2 * self._normal(away - 12)
        density += self.octave_error / 2 * self._normal(away + 12)
        sounding = np.clip(confidences, 0, 1) ** self.confidence_power
        sounding = np.clip(sounding, _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
        result = np.empty((len(pitches), NUM_STATES))
        # Far from every pitch the densities vanish.
        result[:, :REST] = np.log(np.maximum(density, 1e-300))
        result[:, :REST] += np.log(sounding)[:, None]
        result[:, REST] = np.log1p(-sounding)
        return result

    def log_likelihood(self, emissions: np.ndarray) -> float:
        """Returns the log density of all frames, by the forward recursion.

        Args:
          emissions: [frames, 129].
        """
        stay, move = self._transitions()
        total = 0.0
        state = np.full(NUM_STATES, 1 / NUM_STATES)
        for number, row in enumerate(emissions):
            if number:
                state = (stay - move) * state + move
            peak = row.max()
            state = state * np.exp(row - peak)
            norm = state.sum()
            state /= norm
            total += math.log(norm) + peak
        return total

    def most_likely_states(self, emissions: np.ndarray) -> np.ndarray:
        """Returns the most likely series of states, int [frames], by Viterbi.

        Args:
          emissions: [frames, 129].
        """
        stay, move = np.log(self._transitions())
        every = np.arange(NUM_STATES)
        previous = np.empty(emissions.shape, np.int64)
        score = np.zeros(NUM_STATES)
        for number, row in enumerate(emissions):
            best = int(score.argmax())
            moved = score[best] + move > score + stay
            previous[number] = np.where(moved, best, every)
            score = np.where(moved, score[best] + move, score + stay) + row
        states = np.empty(len(emissions), np.int64)
        state = int(score.argmax())
        for number in range(len(emissions) - 1, -1, -1):
            states[number] = state
            state = previous[number, state]
        return states

    def notes(self, states: np.ndarray, program: int = 0) -> list[Note]:
        """Returns the notes of a series of states [frames], in seconds from its start.

        A note begins with the first frame of its state and ends with the next state's
        first frame, or with the last frame.
        """
        changes = np.flatnonzero(np.diff(states)) + 1
        edges = np.concatenate([[0], changes, [len(states)]])
        return [
            Note(
                start_time=first / self.frames_per_second,
                end_time=last / self.frames_per_second,
                pitch=int(states[first]),
                velocity=VELOCITY,
                program=program,
            )
            for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
            if first < last and states[first] != REST
        ]

    def _transitions(self) -> tuple[float, float]:
        """Returns the probabilities of staying, and of moving to one certain other."""
        change = self.changes_per_second / self.frames_per_second
        return 1 - change, change / (NUM_STATES - 1)

    def _normal(self, away: np.ndarray) -> np.ndarray:
        scale = self.sigma * math.sqrt(2 * math.pi)
        return np.exp(-0.5 * (away / self.sigma) ** 2) / scale
