"""Which instrument plays each note: classes of notes that were read from frames.

The note head says of every note by itself how likely each of the 16 MIDI classes is.
In a mixture it is often wrong, but an instrument stays in its register, so the notes
around say more. `name_notes` looks at all notes of a recording together:

1. Each note gets the class that is the likeliest on average over the notes near it,
   itself included. A note counts by exp(-d / 3 - t / 100) at d semitones and t seconds
   (in steps of 20 s).
2. One instrument alone plays everything if all notes get the same class by
   exp(-d / 8 - t / 100): a second one needs a register of its own.
3. Classes that were not asked for count nowhere.
4. An instrument that is heard in one note only is a mistake: its note goes to the
   others.

`Votes` is the first three rules for a recording that has not ended: only notes until
now.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mt3.frame_heads import NUM_CLASSES
from mt3.vocabularies import NUM_PITCHES

# Distances over which what a note says fades to 1 / e: semitones by the first rule and
# by the second, and seconds.
SEMITONES, WIDE_SEMITONES, SECONDS = 3.0, 8.0, 100.0
# Notes are added up by pitch within stretches of this length.
STRETCH_SECONDS = 20.0
# Fewest notes of an instrument.
FEWEST = 2


class HeardNotes(NamedTuple):
    """The N pitched notes of a recording, by onset."""

    start: np.ndarray  # float64 [N], seconds
    end: np.ndarray  # float64 [N], seconds
    pitch: np.ndarray  # int64 [N], MIDI
    logits: np.ndarray  # float32 [N, NUM_CLASSES]: of the note's class
    confidence: np.ndarray  # float32 [N], 0..1: that the note begins


def name_notes(notes: HeardNotes, allowed: np.ndarray | None = None) -> np.ndarray:
    """Decides the class of each note.

    Args:
      notes: all notes of the recording, also those that are too short to be written.
      allowed: bool [NUM_CLASSES], classes that may play, at least one; None for all.

    Returns:
      MIDI classes, int64 [N].
    """
    if not len(notes.pitch):
        return np.zeros(0, np.int64)
    names = votes_nearby(notes, WIDE_SEMITONES, allowed).argmax(axis=1)
    if (names == names[0]).all():
        return names
    votes = votes_nearby(notes, SEMITONES, allowed)
    names = votes.argmax(axis=1)
    rare = np.bincount(names, minlength=NUM_CLASSES) < FEWEST
    if rare[names].all():
        # So few notes that none is left: the likeliest class plays them.
        return np.full(len(names), votes.sum(axis=0).argmax())
    return np.where(rare, -1.0, votes).argmax(axis=1)


def votes_nearby(
    notes: HeardNotes, semitones: float, allowed: np.ndarray | None = None
) -> np.ndarray:
    """Adds up what the notes near each note say.

    Args:
      notes: see `name_notes`; at least one.
      semitones: over which what a note says fades to 1 / e.
      allowed: see `name_notes`.

    Returns:
      float32 [N, NUM_CLASSES], a sum of probabilities; 0 where not allowed.
    """
    stretch = (notes.start // STRETCH_SECONDS).astype(np.int64)
    shape = (stretch.max() + 1, NUM_PITCHES, NUM_CLASSES)
    said = np.zeros(shape, np.float32)
    np.add.at(said, (stretch, notes.pitch), probabilities(notes.logits, allowed))
    said = _spread(said, semitones)
    fading = np.float32(np.exp(-STRETCH_SECONDS / SECONDS))
    before, after = said.copy(), said.copy()
    for i in range(1, len(said)):
        before[i] += fading * before[i - 1]
        after[-1 - i] += fading * after[-i]
    return (before + after - said)[stretch, notes.pitch]


class Votes:
    """What the notes of a recording have said until now."""

    def __init__(self, allowed: np.ndarray | None = None):
        """Starts a recording; `allowed` as for `name_notes`."""
        self._allowed = allowed
        self._said = np.zeros((NUM_PITCHES, NUM_CLASSES), np.float32)

    def add(self, pitch: np.ndarray, logits: np.ndarray, seconds: float) -> None:
        """Takes new notes.

        Args:
          pitch: int [n], MIDI.
          logits: of their classes, float [n, NUM_CLASSES].
          seconds: the time since notes were last taken.
        """
        self._said *= np.float32(np.exp(-seconds / SECONDS))
        np.add.at(self._said, pitch, probabilities(logits, self._allowed))

    def classes(self, pitch: np.ndarray) -> np.ndarray:
        """Returns the classes, int64 [n], of notes that were taken, by pitch [n]."""
        names = _spread(self._said, WIDE_SEMITONES).argmax(axis=1)
        heard = names[self._said.any(axis=1)]
        if (heard != heard[:1]).any():
            names = _spread(self._said, SEMITONES).argmax(axis=1)
        return names[pitch]


def _spread(said: np.ndarray, semitones: float) -> np.ndarray:
    """Adds to each pitch of [..., NUM_PITCHES, NUM_CLASSES] what others say."""
    pitches = np.arange(NUM_PITCHES)
    distance = np.abs(pitches[:, None] - pitches)
    return np.exp(-distance / semitones).astype(np.float32) @ said


def probabilities(logits: np.ndarray, allowed: np.ndarray | None = None) -> np.ndarray:
    """Returns probabilities of classes, float64 [N, NUM_CLASSES].

    Args:
      logits: float [N, NUM_CLASSES].
      allowed: see `name_notes`.
    """
    logits = logits.astype(np.float64)
    if allowed is not None:
        logits = np.where(allowed, logits, -np.inf)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    return odds / odds.sum(axis=1, keepdims=True)
