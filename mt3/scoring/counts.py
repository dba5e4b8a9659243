"""Transcription metrics, per song and averaged over songs.

The list and the names are the original's: onset, onset + offset and their
velocity variants, and frame scores without drums; the same per listed track;
program-aware scores at three granularities; a sweep of onset and offset
tolerances. Matching is `mir_eval`'s (50 ms, equal pitch, offsets 20 % or 50 ms).
Scores are computed per song and then averaged, every song counting the same.

Differences from the original, all on by default. `ORIGINAL` holds the options
that bring back its behaviour: `transcription_metrics(refs, ests, **ORIGINAL)`.

1. The tolerance sweep reads the notes as they are. The original reads notes that
   its piano roll has lengthened to 50 ms, so its "Onset + offset F1 (0.05)"
   differs from "Onset + offset F1" (`original_side_effects`).
2. A drum is a drum whatever its program number. The original compares program
   numbers, so a reference drum kit stored under another program than 0 never
   matches (`original_drum_programs`).
3. Where neither side has a note (drums in a piano piece), a score is not a number
   and the mean leaves the song out. `mir_eval` and the original say 0
   (`empty="zero"`). Where only one side has notes, the scores are 0 in both.
4. Frame scores see every reference note. In the original, the conversion to a
   piano roll keeps one instrument of those that share instrument number 0: of a
   reference whose notes carry no instrument numbers, the program with the highest
   number (`original_reference_roll`). References read from the published data
   sets carry numbers and are not concerned.
5. Songs without notes and tracks without notes are scored; the original stops
   with an error.

Every precision, recall and F1 is a ratio of three counts (`MatchCounts`). Beside the
mean over songs, in which a short song weighs as much as a long one, `micro_metrics`
adds the counts of all songs up before it divides, as some papers do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mt3 import errors
from mt3.metrics_utils import (
    NoteArrays,
    frame_counts,
    get_prettymidi_pianoroll,
    match_notes,
    match_velocities,
    precision_recall_f1,
)
from mt3.note_sequences import Note

TOLERANCES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
GRANULARITIES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "flat": np.zeros_like,
    "midi_class": lambda program: 8 * (program // 8),
    "full": lambda program: program,
}
MAIN_METRICS = (
    "Onset F1",
    "Onset + offset F1",
    "Frame F1",
    "Onset + offset + program F1 (midi_class)",
    "Drum onset F1 (midi_class)",
)
ORIGINAL: dict[str, Any] = {
    "original_side_effects": True,
    "original_drum_programs": True,
    "original_reference_roll": True,
    "empty": "zero",
}


@dataclasses.dataclass(frozen=True)
class TrackSpec:
    """One track of a data set whose songs all have the same instruments.

    Attributes:
      name: prefix of the track's scores ("bass" gives "bass/Onset F1").
      program: MIDI program of the track.
      is_drum: whether it is the drum track; then its program does not matter.
    """

    name: str
    program: int = 0
    is_drum: bool = False


@dataclasses.dataclass(frozen=True)
class MatchCounts:
    """What a precision, a recall and an F1 are ratios of.

    Attributes:
      kind: what was compared ("Onset + offset", "bass/Frame").
      matched: notes (or cells of a piano roll) that matched.
      reference: notes (or cells) of the reference.
      estimated: notes (or cells) of the estimate.
      defined: whether either side had anything to compare.
      qualifier: tolerance or granularity, shown in brackets; "" for none.
      labels: how precision, recall and F1 are written.
    """

    kind: str
    matched: int
    reference: int
    estimated: int
    defined: bool
    qualifier: str = ""
    labels: tuple[str, str, str] = ("precision", "recall", "F1")

    def __add__(self, other: MatchCounts) -> MatchCounts:
        return dataclasses.replace(
            self,
            matched=self.matched + other.matched,
            reference=self.reference + other.reference,
            estimated=self.estimated + other.estimated,
            defined=self.defined or other.defined,
        )

    def scores(self, *, undefined: float = math.nan) -> dict[str, float]:
        """Returns precision, recall and F1 by name, `undefined` for nothing."""
        values = precision_recall_f1(self.matched, self.reference, self.estimated)
        suffix = f" ({self.qualifier})" if self.qualifier else ""
        return {
            f"{self.kind} {label}{suffix}": value if self.defined else undefined
            for label, value in zip(self.labels, values, strict=True)
        }


def transcription_metrics(
    reference_notes: Sequence[Iterable[Note]],
    estimated_notes: Sequence[Iterable[Note]],
    track_specs: Iterable[TrackSpec | tuple[str, int, bool]] | None = None,
    *,
    invalid_events: Sequence[int] | None = None,
    dropped_events: Sequence[int] | None = None,
    original_side_effects: bool = False,
    original_drum_programs: bool = False,
    original_reference_roll: bool = False,
    empty: Literal["skip", "zero"] = "skip",
) -> dict[str, float]:
    """Scores songs and averages every score over them.

    Args:
      reference_notes: the true notes of each song.
      estimated_notes: the transcribed notes of each song, in the same order.
      track_specs: tracks to score on their own, if the data set lists any.
      invalid_events: count per song of tokens that could not be decoded.
      dropped_events: count per song of tokens dropped at segment ends.
      original_side_effects: let the tolerance sweep read lengthened notes.
      original_drum_programs: compare the program numbers of drums.
      original_reference_roll: let frame scores see only the highest-numbered
        program of the reference.
      empty: "skip" leaves songs in which neither side has such notes out of the
        mean (NaN when no song is left), "zero" counts them as 0.

    Returns:
      Mean scores by name; an empty dict for no songs.

    Raises:
      MidiError: different numbers of songs, or a note that cannot be scored.
      ConfigError: an unknown `empty`.
    """
    songs = per_song_metrics(
        reference_notes,
        estimated_notes,
        track_specs,
        original_side_effects=original_side_effects,
        original_drum_programs=original_drum_programs,
        original_reference_roll=original_reference_roll,
        empty=empty,
    )
    counts = {"Invalid events": invalid_events, "Dropped events": dropped_events}
    for name, values in counts.items():
        if values is None:
            continue
        if len(values) != len(songs):
            raise errors.MidiError(
                f"metrics: {len(values)} counts of {name.lower()} for "
                f"{len(songs)} songs"
            )
        for song, value in zip(songs, values, strict=True):
            song[name] = float(value)
    return mean_metrics(songs)


def per_song_metrics(
    reference_notes: Sequence[Iterable[Note]],
    estimated_notes: Sequence[Iterable[Note]],
    track_specs: Iterable[TrackSpec | tuple[str, int, bool]] | None = None,
    *,
    empty: Literal["skip", "zero"] = "skip",
    **options: bool,
) -> list[dict[str, float]]:
    """Scores each song; arguments as in `transcription_metrics`.

    Returns:
      One dict of scores per song: what means and histograms are made of.
    """
    songs = per_song_counts(reference_notes, estimated_notes, track_specs, **options)
    return [scores_of_counts(counts, empty=empty) for counts in songs]


def per_song_counts(
    reference_notes: Sequence[Iterable[Note]],
    estimated_notes: Sequence[Iterable[Note]],
    track_specs: Iterable[TrackSpec | tuple[str, int, bool]] | None = None,
    **options: bool,
) -> list[list[MatchCounts]]:
    """Counts matches in each song; arguments as in `transcription_metrics`."""
    if len(reference_notes) != len(estimated_notes):
        raise errors.MidiError(
            f"metrics: {len(reference_notes)} reference songs but "
            f"{len(estimated_notes)} estimated ones; expected one estimate each"
        )
    specs = [
        spec if isinstance(spec, TrackSpec) else TrackSpec(*spec)
        for spec in track_specs or ()
    ]
    return [
        song_counts(reference, estimate, specs, **options)
        for reference, estimate in zip(reference_notes, estimated_notes, strict=True)
    ]


def song_metrics(
    reference_notes: Iterable[Note],
    estimated_notes: Iterable[Note],
    track_specs: Iterable[TrackSpec] = (),
    *,
    empty: Literal["skip", "zero"] = "skip",
    **options: bool,
) -> dict[str, float]:
    """Scores one song; see `transcription_metrics` for the arguments.

    Returns:
      Scores by name, in 0..1, or NaN where undefined and `empty` is "skip".
    """
    counts = song_counts(reference_notes, estimated_notes, track_specs, **options)
    return scores_of_counts(counts, empty=empty)


def song_counts(
    reference_notes: Iterable[Note],
    estimated_notes: Iterable[Note],
    track_specs: Iterable[TrackSpec] = (),
    *,
    original_side_effects: bool = False,
    original_drum_programs: bool = False,
    original_reference_roll: bool = False,
) -> list[MatchCounts]:
    """Counts what the scores of one song are ratios of; arguments as there."""
    reference = NoteArrays.from_notes(reference_notes)
    estimate = NoteArrays.from_notes(estimated_notes)
    if not original_drum_programs:
        reference, estimate = _one_drum_kit(reference), _one_drum_kit(estimate)
    pitched = reference.select(~reference.is_drum), estimate.select(~estimate.is_drum)

    visible = _highest_program if original_reference_roll else lambda notes: notes
    counts = list(_basic_counts("", *pitched, with_offsets=True, visible=visible))
    for spec in track_specs:
        keeps_program = original_drum_programs or not spec.is_drum
        program = spec.program if keeps_program else 0
        counts += _basic_counts(
            f"{spec.name}/",
            reference.group(program, spec.is_drum),
            estimate.group(program, spec.is_drum),
            with_offsets=not spec.is_drum,
            visible=visible,
        )
    for granularity, mapping in GRANULARITIES.items():
        counts += _program_counts(reference, estimate, granularity, mapping)
    if original_side_effects:
        pitched = pitched[0].lengthened(), pitched[1].lengthened()
    counts += _tolerance_sweep(*pitched)
    return counts


def scores_of_counts(
    counts: Iterable[MatchCounts], *, empty: Literal["skip", "zero"] = "skip"
) -> dict[str, float]:
    """Turns counts into scores by name.

    Args:
      counts: of one song, or of several added up.
      empty: what an undefined score is: "skip" for NaN, "zero" for 0.

    Raises:
      ConfigError: an unknown `empty`.
    """
    if empty not in ("skip", "zero"):
        raise errors.ConfigError(f'metrics: empty={empty!r}; expected "skip" or "zero"')
    undefined = 0.0 if empty == "zero" else math.nan
    scores: dict[str, float] = {}
    for item in counts:
        scores.update(item.scores(undefined=undefined))
    return scores


def micro_metrics(
    songs: Iterable[Iterable[MatchCounts]],
    *,
    empty: Literal["skip", "zero"] = "skip",
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


def _one_drum_kit(notes: NoteArrays) -> NoteArrays:
    """Returns the notes with program 0 on every drum."""
    return dataclasses.replace(notes, program=np.where(notes.is_drum, 0, notes.program))


def _highest_program(notes: NoteArrays) -> NoteArrays:
    """Returns the notes of the program with the highest number."""
    return notes.select(notes.program == notes.program.max()) if len(notes) else notes


def _basic_counts(
    prefix: str,
    reference: NoteArrays,
    estimate: NoteArrays,
    *,
    with_offsets: bool,
    visible: Callable[[NoteArrays], NoteArrays],
) -> Iterator[MatchCounts]:
    """Yields onset, offset, velocity and frame counts of one group of notes.

    `visible` picks the reference notes that the piano roll shows.
    """
    timed = reference.with_length(), estimate.with_length()
    sizes = len(timed[0]), len(timed[1])
    kinds = [("Onset", None)] + ([("Onset + offset", 0.2)] if with_offsets else [])
    matchings = {
        f"{prefix}{kind}": match_notes(*timed, offset_ratio=ratio)
        for kind, ratio in kinds
    }
    for kind, matching in matchings.items():
        yield MatchCounts(kind, len(matching), *sizes, defined=any(sizes))
    for kind, matching in matchings.items():
        kept = match_velocities(matching, timed[0].velocity, timed[1].velocity)
        yield MatchCounts(f"{kind} + velocity", len(kept), *sizes, defined=any(sizes))
    yield MatchCounts(
        f"{prefix}Frame",
        *frame_counts(
            get_prettymidi_pianoroll(visible(reference)),
            get_prettymidi_pianoroll(estimate),
        ),
        defined=bool(len(reference) or len(estimate)),
        labels=("Precision", "Recall", "F1"),
    )


def _program_counts(
    reference: NoteArrays,
    estimate: NoteArrays,
    granularity: str,
    mapping: Callable[[np.ndarray], np.ndarray],
) -> Iterator[MatchCounts]:
    """Yields counts that ask for the right instrument, drums by onset alone."""
    reference = dataclasses.replace(reference, program=mapping(reference.program))
    estimate = dataclasses.replace(estimate, program=mapping(estimate.program))
    reference, estimate = reference.with_length(), estimate.with_length()
    # Sums of (matched, reference, estimated) notes: precision weighted by the
    # estimates of each group and recall by its references are ratios of these.
    sums = {False: np.zeros(3, np.int64), True: np.zeros(3, np.int64)}
    for program, is_drum in _groups(reference) | _groups(estimate):
        one = reference.group(program, is_drum)
        other = estimate.group(program, is_drum)
        matching = match_notes(one, other, offset_ratio=None if is_drum else 0.2)
        sums[is_drum] += len(matching), len(one), len(other)
    for kind, counts in (
        ("Onset + offset + program", sums[False] + sums[True]),
        ("Drum onset", sums[True]),
        ("Nondrum onset + offset + program", sums[False]),
    ):
        matched, *sizes = (int(count) for count in counts)
        yield MatchCounts(
            kind, matched, *sizes, defined=any(sizes), qualifier=granularity
        )


def _groups(notes: NoteArrays) -> set[tuple[int, bool]]:
    """Returns the (program, is_drum) pairs that occur."""
    return set(zip(notes.program.tolist(), notes.is_drum.tolist(), strict=True))


def _tolerance_sweep(
    reference: NoteArrays, estimate: NoteArrays
) -> Iterator[MatchCounts]:
    """Yields onset + offset counts at each tolerance."""
    reference, estimate = reference.with_length(), estimate.with_length()
    sizes = len(reference), len(estimate)
    for tolerance in TOLERANCES:
        matching = match_notes(
            reference,
            estimate,
            onset_tolerance=tolerance,
            offset_min_tolerance=tolerance,
        )
        yield MatchCounts(
            "Onset + offset",
            len(matching),
            *sizes,
            defined=any(sizes),
            qualifier=str(tolerance),
        )
