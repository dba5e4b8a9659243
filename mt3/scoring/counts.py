"""The scores of a transcription, as counts of notes and as ratios of counts.

Every precision, recall and F1 is a ratio of three numbers (`MatchCounts`): what the
reference has, what the estimate has, and what of it matched. `song_counts` counts them
for one song; the rules of matching are those of `mt3.scoring.matching`.

Without drums, named "Onset F1"; and for each track that the data set lists, named
"bass/Onset F1":
  Onset                       pitches and onsets match
  Onset + offset              the offsets as well; not for drum tracks
  Onset + velocity, Onset + offset + velocity
                              of those matches, the ones whose velocities fit
  Frame                       cells of the piano rolls that sound in both

With all notes, at each of the granularities of programs (flat, midi_class, full), named
"Drum onset F1 (full)". Notes match only within an instrument (program and drum flag),
drums by onset alone, and the counts of the instruments are added up:
  Onset + offset + program, Drum onset, Nondrum onset + offset + program

Without drums, with 10 to 500 ms as the tolerance of onsets and the least tolerance of
offsets, named "Onset + offset F1 (0.05)":
  Onset + offset

Scores of several songs are averaged (`mean_metrics`: a short song weighs as much as a
long one) or computed from the sums of their counts (`micro_metrics`). A song in which
neither side has such a note (drums in a piano piece) has no score, and the mean leaves
it out; if only one side has one, the score is 0.

The list and the names are those of MT3 (Gardner et al., "MT3: Multi-Task Multitrack
Music Transcription", ICLR 2022). Its own way of counting, where it differs:

1. `original_side_effects`: the sweep of tolerances reads the notes after the piano roll
   has lengthened them, so "Onset + offset F1 (0.05)" differs from "Onset + offset F1".
2. `original_drum_programs`: drums match only drums of the same program number, so a
   reference drum kit that is stored under another program than 0 never matches.
3. `reference_instruments`: of the reference notes whose instrument number is 0 (as it
   is where nobody set one), the piano roll shows only those of the highest program.
4. `empty="zero"`: a score of nothing is 0, as `mir_eval` has it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from mt3 import errors
from mt3.note_sequences import Note, TrackSpec
from mt3.scoring import matching
from mt3.scoring.matching import match_notes
from mt3.vocabularies import PROGRAM_GRANULARITIES

# See `scores_of_counts`.
Empty = Literal["skip", "zero", "skip_reference"]
TOLERANCES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
# What `mt3 score --main`, the log of a training run and the benchmarks show.
MAIN_METRICS = (
    "Onset F1",
    "Onset + offset F1",
    "Frame F1",
    "Onset + offset + program F1 (midi_class)",
    "Drum onset F1 (midi_class)",
)


@dataclasses.dataclass(frozen=True)
class MatchCounts:
    """What a precision, a recall and an F1 are ratios of.

    Attributes:
      kind: what was compared ("Onset + offset", "bass/Frame").
      matched: notes (or cells of a piano roll) that matched.
      reference: notes (or cells) of the reference.
      estimated: notes (or cells) of the estimate.
      qualifier: tolerance or granularity, shown in brackets; "" for none.
      labels: how precision, recall and F1 are written.
      has_notes: says of cells that there are notes, even if none of them sounds.
    """

    kind: str
    matched: int
    reference: int
    estimated: int
    qualifier: str = ""
    labels: tuple[str, str, str] = ("precision", "recall", "F1")
    has_notes: bool = False

    def __add__(self, other: MatchCounts) -> MatchCounts:
        return dataclasses.replace(
            self,
            matched=self.matched + other.matched,
            reference=self.reference + other.reference,
            estimated=self.estimated + other.estimated,
            has_notes=self.has_notes or other.has_notes,
        )

    def scores(self, *, undefined: float = math.nan) -> dict[str, float]:
        """Returns precision, recall and F1 by name; `undefined` for nothing."""
        counts = self.matched, self.reference, self.estimated
        values = matching.precision_recall_f1(*counts)
        if not (self.reference or self.estimated or self.has_notes):
            values = (undefined,) * 3
        suffix = f" ({self.qualifier})" if self.qualifier else ""
        return {
            f"{self.kind} {label}{suffix}": value
            for label, value in zip(self.labels, values, strict=True)
        }


def song_counts(
    reference_notes: Iterable[Note] | np.ndarray,
    estimated_notes: Iterable[Note] | np.ndarray,
    track_specs: Iterable[TrackSpec] = (),
    *,
    onsets_only: bool = False,
    original_side_effects: bool = False,
    original_drum_programs: bool = False,
    reference_instruments: np.ndarray | int | None = None,
    frames_per_second: float = matching.FRAMES_PER_SECOND,
    velocity_threshold: float = matching.REFERENCE_VELOCITY_THRESHOLD,
) -> list[MatchCounts]:
    """Counts the matches of one song.

    Args:
      reference_notes: the true notes.
      estimated_notes: the transcribed notes.
      track_specs: tracks to count separately: name, program, is_drum.
      onsets_only: leave out what reads offsets and velocities of all notes or tracks.
      original_side_effects: see the module's docstring, 1.
      original_drum_programs: see the module's docstring, 2.
      reference_instruments: instrument number of each reference note, or one for all;
        see the module's docstring, 3. None shows all notes.
      frames_per_second: frame rate of the piano rolls, Hz.
      velocity_threshold: cells of the reference at or below it are silent.

    Returns:
      Counts in the order of the module's docstring.

    Raises:
      MidiError: notes that cannot be scored.
      ConfigError: a velocity threshold below 0.
    """
    reference = matching.note_array(reference_notes)
    estimate = matching.note_array(estimated_notes)
    if not original_drum_programs:
        reference, estimate = one_drum_kit(reference), one_drum_kit(estimate)
        track_specs = [
            dataclasses.replace(spec, program=0) if spec.is_drum else spec
            for spec in track_specs
        ]
    counts = []
    for part in song_parts(reference, estimate, track_specs, reference_instruments):
        counts += _note_counts(part, onsets_only)
        cells = matching.note_frame_counts(
            part.shown, part.estimate, frames_per_second, velocity_threshold
        )
        counts.append(
            MatchCounts(
                f"{part.prefix}Frame",
                *cells,
                labels=("Precision", "Recall", "F1"),
                has_notes=bool(len(part.reference) or len(part.estimate)),
            )
        )
    for granularity in PROGRAM_GRANULARITIES:
        counts += program_counts(reference, estimate, granularity)
    swept = [notes[~notes["is_drum"]] for notes in (reference, estimate)]
    if original_side_effects:
        swept = map(matching.lengthened, swept)
    return counts + tolerance_sweep(*swept)


class SongPart(NamedTuple):
    """All pitched notes of a song, or one of its tracks.

    Attributes:
      name: of the track; "" for all pitched notes.
      is_drum: whether it is a drum track.
      reference: its true notes.
      estimate: its transcribed notes.
      shown: the true notes that the piano roll shows.
    """

    name: str
    is_drum: bool
    reference: np.ndarray
    estimate: np.ndarray
    shown: np.ndarray

    @property
    def prefix(self) -> str:
        """What the names of its scores begin with."""
        return f"{self.name}/" if self.name else ""


def song_parts(
    reference: np.ndarray,
    estimate: np.ndarray,
    track_specs: Iterable[TrackSpec] = (),
    reference_instruments: np.ndarray | int | None = None,
) -> Iterator[SongPart]:
    """Yields the pitched notes of a song, then its tracks; see `song_counts`."""
    everything = TrackSpec("")
    for spec in (everything, *track_specs):
        chosen = [
            (notes["is_drum"] == spec.is_drum)
            & ((spec is everything) | (notes["program"] == spec.program))
            for notes in (reference, estimate)
        ]
        part = shown = reference[chosen[0]]
        if reference_instruments is not None:
            numbers = np.broadcast_to(reference_instruments, reference.shape)
            shown = part[shown_in_roll(part, numbers[chosen[0]])]
        yield SongPart(spec.name, spec.is_drum, part, estimate[chosen[1]], shown)


def shown_in_roll(notes: np.ndarray, instruments: np.ndarray) -> np.ndarray:
    """Returns, bool [n], which notes the original's piano roll shows.

    Where `note_seq` turns a NoteSequence into a `PrettyMIDI` object, only the highest
    program of instrument number 0 is left; drums rank above pitched notes of their
    program.
    """
    keys = 2 * notes["program"].astype(np.int64) + notes["is_drum"]
    is_first = instruments == 0
    return ~is_first | (keys == keys.max(initial=0, where=is_first))


def one_drum_kit(notes: np.ndarray) -> np.ndarray:
    """Returns the notes with program 0 on every drum."""
    notes = notes.copy()
    notes["program"][notes["is_drum"]] = 0
    return notes


def by_instrument(
    reference: np.ndarray, estimate: np.ndarray, granularity: str
) -> Iterator[tuple[tuple[int, bool], np.ndarray, np.ndarray]]:
    """Yields each instrument: (program, is_drum), reference and estimated notes.

    Args:
      reference: [r] of `NOTE_DTYPE`.
      estimate: [e] of `NOTE_DTYPE`.
      granularity: how the programs of pitched notes are mapped, a key of
        `PROGRAM_GRANULARITIES`.
    """
    program_map_fn = PROGRAM_GRANULARITIES[granularity].program_map_fn
    keys = []
    for notes in (reference, estimate):
        programs = np.where(
            notes["is_drum"], notes["program"], program_map_fn(notes["program"])
        )
        keys.append(2 * programs.astype(np.int64) + notes["is_drum"])
    for key in np.union1d(*keys).tolist():
        instrument = key // 2, bool(key % 2)
        yield instrument, reference[keys[0] == key], estimate[keys[1] == key]


def _note_counts(part: SongPart, onsets_only: bool) -> Iterator[MatchCounts]:
    """Yields onset, offset and velocity counts of one part of a song."""
    timed = matching.with_length(part.reference), matching.with_length(part.estimate)
    sizes = len(timed[0]), len(timed[1])
    found = {f"{part.prefix}Onset": match_notes(*timed, offset_ratio=None)}
    if not onsets_only and not part.is_drum:
        found[f"{part.prefix}Onset + offset"] = match_notes(*timed)
    for kind, pairs in found.items():
        yield MatchCounts(kind, len(pairs), *sizes)
    for kind, pairs in found.items() if not onsets_only else ():
        fitting = matching.match_velocities(pairs, *(n["velocity"] for n in timed))
        yield MatchCounts(f"{kind} + velocity", len(fitting), *sizes)


def program_counts(
    reference: np.ndarray,
    estimate: np.ndarray,
    granularity: str,
    *,
    offset_ratio: float | None = matching.OFFSET_RATIO,
) -> list[MatchCounts]:
    """Counts notes that match within their instrument, drums by onset alone.

    Args:
      reference: [r] of `NOTE_DTYPE`.
      estimate: [e] of `NOTE_DTYPE`.
      granularity: how programs are mapped, a key of `PROGRAM_GRANULARITIES`.
      offset_ratio: of pitched notes, as for `matching.match_notes`; None to match all
        notes by onset alone.
    """
    timed = matching.with_length(reference), matching.with_length(estimate)
    # Matched, reference and estimated notes. Precision weighted by the estimates of
    # each instrument, and recall by its references, are ratios of their sums.
    sums = {False: np.zeros(3, np.int64), True: np.zeros(3, np.int64)}
    for (_, is_drum), one, other in by_instrument(*timed, granularity):
        pairs = match_notes(one, other, offset_ratio=None if is_drum else offset_ratio)
        sums[is_drum] += len(pairs), len(one), len(other)
    name = "onset + program" if offset_ratio is None else "onset + offset + program"
    kinds = {
        name.capitalize(): sums[False] + sums[True],
        "Drum onset": sums[True],
        f"Nondrum {name}": sums[False],
    }
    return [
        MatchCounts(kind, *counts.tolist(), granularity)
        for kind, counts in kinds.items()
    ]


def tolerance_sweep(
    reference: np.ndarray,
    estimate: np.ndarray,
    tolerances: Iterable[float] = TOLERANCES,
) -> list[MatchCounts]:
    """Counts onsets with offsets at each tolerance, in seconds."""
    timed = matching.with_length(reference), matching.with_length(estimate)
    sizes = len(timed[0]), len(timed[1])
    counts = []
    for tolerance in tolerances:
        pairs = match_notes(
            *timed, onset_tolerance=tolerance, offset_min_tolerance=tolerance
        )
        counts.append(MatchCounts("Onset + offset", len(pairs), *sizes, str(tolerance)))
    return counts


def scores_of_counts(
    counts: Iterable[MatchCounts], *, empty: Empty = "skip"
) -> dict[str, float]:
    """Turns counts into scores by name.

    Args:
      counts: of one song, or of several added up.
      empty: what the score of nothing is: "skip" for NaN, which means leave out,
        "zero" for 0. "skip_reference" leaves out whatever the reference lacks, also
        where the estimate has it.

    Raises:
      ConfigError: an unknown `empty`.
    """
    errors.check_choice("metrics: empty", empty, ("skip", "zero", "skip_reference"))
    undefined = 0.0 if empty == "zero" else math.nan
    scores: dict[str, float] = {}
    for item in counts:
        found = item.scores(undefined=undefined)
        if empty == "skip_reference" and not item.reference:
            found = dict.fromkeys(found, math.nan)
        scores.update(found)
    return scores


def micro_metrics(
    songs: Iterable[Iterable[MatchCounts]],
    *,
    empty: Empty = "skip",
) -> dict[str, float]:
    """Scores all songs together: counts are added up, then divided.

    Args:
      songs: `song_counts` of each song.
      empty: as in `scores_of_counts`.

    Returns:
      Scores by the same names as the mean's.
    """
    sums: dict[tuple[str, str], MatchCounts] = {}
    for counts in songs:
        for item in counts:
            key = item.kind, item.qualifier
            sums[key] = sums[key] + item if key in sums else item
    return scores_of_counts(sums.values(), empty=empty)


def mean_metrics(songs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Averages every score over the songs in which it is a number.

    Args:
      songs: scores of each song by name.

    Returns:
      Mean by name, NaN where no song has a number.
    """
    values: dict[str, list[float]] = {}
    for song in songs:
        for name, value in song.items():
            values.setdefault(name, []).append(value)
    means = {}
    for name, column in values.items():
        numbers = [value for value in column if not math.isnan(value)]
        means[name] = float(np.mean(numbers)) if numbers else math.nan
    return means
