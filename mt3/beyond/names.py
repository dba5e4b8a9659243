"""Which instrument plays each note: classes of notes that were read from frames.

The note head says of every note by itself how likely each of the 16 MIDI classes is.
`name_notes` looks at all notes of a recording together:

1. The classes are weighed by the recording's own shares of them, which are estimated
   with the names (Saerens et al. 2002, "Adjusting the outputs of a classifier to new a
   priori probabilities"): what plays often is the likelier explanation of an unclear
   note.
2. Classes that were not asked for have no share.
3. An instrument that is heard in one note only is a mistake: its note goes to the
   others.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from mt3.frame_heads import NUM_CLASSES

# Rounds in which shares and names are estimated from one another.
ROUNDS = 10
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
    probabilities = weigh_by_shares(notes.logits, allowed)
    if not len(probabilities):
        return np.zeros(0, np.int64)
    names = probabilities.argmax(axis=1)
    rare = np.bincount(names, minlength=NUM_CLASSES) < FEWEST
    if rare[names].all():
        # So few notes that none is left: the likeliest class plays them.
        return np.full(len(names), probabilities.sum(axis=0).argmax())
    return np.where(rare, -1.0, probabilities).argmax(axis=1)


def weigh_by_shares(logits: np.ndarray, allowed: np.ndarray | None) -> np.ndarray:
    """Returns each note's probabilities of the classes, float64 [N, NUM_CLASSES].

    Args:
      logits: of the classes, float [N, NUM_CLASSES].
      allowed: see `name_notes`.
    """
    shares = np.ones(NUM_CLASSES) if allowed is None else allowed.astype(float)
    shares /= shares.sum()
    weighed = probabilities = softmax(logits)
    for _ in range(ROUNDS if len(logits) else 0):
        weighed = given_shares(probabilities, shares)
        shares = weighed.mean(axis=0)
    return weighed


def given_shares(probabilities: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Weighs probabilities [N, NUM_CLASSES] by shares [NUM_CLASSES]."""
    weighed = probabilities * shares
    return weighed / weighed.sum(axis=1, keepdims=True)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Returns the probabilities of logits [N, NUM_CLASSES], float64, none of them 0."""
    logits = logits.astype(np.float64)
    odds = np.exp(np.maximum(logits - logits.max(axis=1, keepdims=True), -500.0))
    return odds / odds.sum(axis=1, keepdims=True)
