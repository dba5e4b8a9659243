"""What published systems count, by name: `mt3 score --convention`.

All conventions match notes by the rule of `matching` and average scores over songs.
They differ in which notes are compared and what a song without such notes scores:

"default"
  The scores of MT3 with its faults corrected (`counts`), and the instrument scores of
  `instruments`.

"mt3"
  Gardner et al., "MT3: Multi-Task Multitrack Music Transcription", ICLR 2022, as its
  code counts: drums match only drums of the same program number; the sweep of
  tolerances reads notes that the piano roll has lengthened to 50 ms; a score of nothing
  is 0.

"mr-mt3"
  Tan et al., "MR-MT3: Memory Retaining Multi-Track Music Transcription to Mitigate
  Instrument Leakage", 2024. Onsets are compared with the drums among them, in one bag:
  "Onset F1 (with drums)", which it calls Onset F1. Programs are compared by onset alone
  ("Onset + program F1 (midi_class)", its multi-instrument F1), and as in "mt3". Leakage
  and detection are those of `instruments`. A score of nothing is 0.

"yourmt3"
  Chang et al., "YourMT3+: Multi-instrument Music Transcription with Enhanced
  Transformer Architectures and Cross-dataset Stem Augmentation", MLSP 2024. Programs
  are compared in eleven classes: those of General MIDI, strings and ensemble (programs
  40 to 55) as one, and notes of programs from 96 on left out. A class of notes that the
  reference lacks has no score, even if the estimate has it. Frames are 62.5 ms long and
  of pitches 16 to 109, whatever the velocity; how it rounds the ends of notes to frames
  is not known here, and is done as in `matching.piano_roll`.

How a data set's references are made (which MIDI files of Slakh, pedals, an octave of
the bass) is no part of a convention, and matters as much: see `docs/scoring.md`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mt3 import errors
from mt3.scoring import counts, matching
from mt3.scoring.counts import MatchCounts
from mt3.vocabularies import PROGRAM_GRANULARITIES

_Notes = np.ndarray
_YOURMT3_PITCHES = (16, 109)
_YOURMT3_FRAMES_PER_SECOND = 16.0
# Strings and ensemble are one class; programs from here on are not scored.
_ENSEMBLE = range(48, 56)
_STRINGS = 40
_FIRST_UNSCORED = 96


@dataclasses.dataclass(frozen=True)
class Convention:
    """What is counted, and how.

    Attributes:
      count: counts the matches of one song: (reference, estimate) -> counts, notes as
        arrays of `NOTE_DTYPE`.
      empty: as for `counts.scores_of_counts`.
      main: names of the scores to show first.
      instruments: whether instrument leakage and detection belong to it.
      settings: what differs from the tolerances and rates of `matching`.
    """

    count: Callable[..., list[MatchCounts]]
    empty: counts.Empty
    main: tuple[str, ...]
    instruments: bool = True
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def convention(name: str) -> Convention:
    """Returns a convention by its name.

    Raises:
      ConfigError: there is none of that name.
    """
    errors.check_choice("scoring: convention", name, CONVENTIONS)
    return CONVENTIONS[name]


def _count_mt3(reference: _Notes, estimate: _Notes) -> list[MatchCounts]:
    return counts.song_counts(
        reference,
        estimate,
        original_side_effects=True,
        original_drum_programs=True,
    )


def _count_mr_mt3(reference: _Notes, estimate: _Notes) -> list[MatchCounts]:
    timed = matching.with_length(reference), matching.with_length(estimate)
    pairs = matching.match_notes(*timed, offset_ratio=None)
    found = [MatchCounts("Onset", len(pairs), *map(len, timed), "with drums")]
    for granularity in PROGRAM_GRANULARITIES:
        whole, _, _ = counts.program_counts(*timed, granularity, offset_ratio=None)
        found.append(whole)
    for granularity in PROGRAM_GRANULARITIES:
        found += counts.program_counts(*timed, granularity)
    return found


def _count_yourmt3(reference: _Notes, estimate: _Notes) -> list[MatchCounts]:
    timed = [
        matching.with_length(counts.one_drum_kit(notes))
        for notes in (reference, estimate)
    ]
    pitched = [notes[~notes["is_drum"]] for notes in timed]
    sizes = [len(notes) for notes in pitched]
    low, high = _YOURMT3_PITCHES
    framed = [n[(n["pitch"] >= low) & (n["pitch"] <= high)] for n in pitched]
    frames = matching.note_frame_counts(*framed, _YOURMT3_FRAMES_PER_SECOND, 0)
    onsets = matching.match_notes(*pitched, offset_ratio=None)
    offsets = matching.match_notes(*pitched)
    by_class = counts.program_counts(*map(_eleven_classes, timed), "midi_class")
    multi, drums, nondrums = (
        dataclasses.replace(item, qualifier="11 classes") for item in by_class
    )
    return [
        MatchCounts("Onset", len(onsets), *sizes),
        MatchCounts("Onset + offset", len(offsets), *sizes),
        MatchCounts("Frame", *frames, "16 Hz", ("Precision", "Recall", "F1")),
        multi,
        dataclasses.replace(drums, qualifier=""),
        nondrums,
    ]


def _eleven_classes(notes: _Notes) -> _Notes:
    """Returns the notes whose programs YourMT3 scores, ensembles as strings."""
    notes = notes[notes["is_drum"] | (notes["program"] < _FIRST_UNSCORED)].copy()
    notes["program"][np.isin(notes["program"], _ENSEMBLE)] = _STRINGS
    return notes


DEFAULT = "default"
CONVENTIONS: Mapping[str, Convention] = {
    DEFAULT: Convention(counts.song_counts, "skip", counts.MAIN_METRICS),
    "mt3": Convention(_count_mt3, "zero", counts.MAIN_METRICS, instruments=False),
    "mr-mt3": Convention(
        _count_mr_mt3,
        "zero",
        (
            "Onset F1 (with drums)",
            "Onset + program F1 (midi_class)",
            "Onset + program F1 (full)",
            "Onset + offset + program F1 (midi_class)",
            "Instrument detection F1 (full)",
            "Instrument leakage (full)",
        ),
    ),
    "yourmt3": Convention(
        _count_yourmt3,
        "skip_reference",
        (
            "Onset F1",
            "Onset + offset F1",
            "Frame F1 (16 Hz)",
            "Onset + offset + program F1 (11 classes)",
            "Drum onset F1",
        ),
        instruments=False,
        settings={
            "frames_per_second": _YOURMT3_FRAMES_PER_SECOND,
            "frame_velocity_threshold": 0,
        },
    ),
}
