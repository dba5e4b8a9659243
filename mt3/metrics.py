"""The scores of MT3 as a seqio metric function.

seqio hands over what the task's `postprocess` made of every segment: a mapping for its
targets, and one for its predictions. `transcription_metrics` joins the segments of each
song, decodes the predictions to notes, and returns by name

* every score of `scoring.counts` as the mean over songs, and "Invalid events" and
  "Dropped events", tokens per song;
* the distribution of each over the songs, "... (hist)";
* sound and pictures of the first songs, see `mt3.summaries`.

With `beyond_original` there are also the scores of all songs together (below "micro/"),
the instrument scores of `scoring.instruments` ("Instrument leakage", "Instrument
detection", "Class ... F1 (Piano)") with a table of the instrument classes, the
synthesised references and pictures by instrument.

By default everything is as in the original, its crashes excepted. `metric_fns` makes
the function that our own tasks register. Differences from the original, numbered; 1 to
6 are options of `transcription_metrics` whose default is the original's way, and
`metric_fns` chooses 1 to 5:

1. `original_side_effects=False`: the sweep of tolerances reads the notes as they are.
   The original reads notes that its piano roll has lengthened to 50 ms.
2. `original_drum_programs=False`: a drum is a drum whatever its program number. In the
   original, drums match only drums of the same number.
3. `original_reference_roll=False`: frame scores see every note of the reference. The
   original shows, of those whose instrument number is 0, as it is where nobody set
   one, only the notes of the highest program.
4. `empty="skip"`: a score of nothing (drums in a piano piece) is left out, of the mean
   as well. In the original it is 0.
5. `beyond_original=True`: what MT3 itself does not have, see above.
6. `unclosed_ties="end"`: a tie section without a tie event ends every note that it did
   not name. In the original and by default it ends none.
7. References without notes, tracks without notes and `num_summary_examples=0` work,
   and no examples have no scores; the original stops.
8. Songs whose reference or predictions are missing, or that share their id, are named
   in an error; the original stops without saying why, or takes one of the references.
9. References may be lists of `Note` instead of NoteSequences, and samples may be
   missing. Pitch bends of references do not move the cells of a piano roll.
"""

from __future__ import annotations

import functools
import inspect
import logging
import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from mt3 import metrics_utils, note_sequences, summaries, vocabularies
from mt3.configs import ModelConfig
from mt3.errors import ConfigError, DataError, near_misses
from mt3.event_codec import Codec
from mt3.note_sequences import TrackSpec
from mt3.scoring import counts, instruments, matching
from mt3.spectrograms import SpectrogramConfig

if TYPE_CHECKING:
    import note_seq
    import seqio

Record = Mapping[str, Any]
MetricFn = Callable[..., dict[str, Any]]

CLASSES_TEXT = "Instrument classes"
# What differs in our own tasks, see the module's docstring.
_CORRECT: Mapping[str, Any] = {
    "original_side_effects": False,
    "original_drum_programs": False,
    "original_reference_roll": False,
    "empty": "skip",
    "beyond_original": True,
}
_MAX_NAMED = 5


def _program_aware_note_scores(
    ref_ns: note_seq.NoteSequence, est_ns: note_seq.NoteSequence, granularity_type: str
) -> dict[str, float]:
    """Scores notes that match within their instrument, drums by onset alone.

    Args:
      ref_ns: the true notes (a NoteSequence, `Note`s, or an array of `NOTE_DTYPE`).
      est_ns: the transcribed notes.
      granularity_type: a key of `vocabularies.PROGRAM_GRANULARITIES`.

    Returns:
      Precision, recall and F1 of all notes, of drums and of the others, by name.
    """
    sides = matching.note_array(ref_ns), matching.note_array(est_ns)
    matches = counts.program_counts(*sides, granularity_type)
    return counts.scores_of_counts(matches, empty="zero")


def _note_onset_tolerance_sweep(
    ref_ns: note_seq.NoteSequence,
    est_ns: note_seq.NoteSequence,
    tolerances: Iterable[float] = counts.TOLERANCES,
) -> dict[str, float]:
    """Scores onsets with offsets at several tolerances, in seconds.

    Arguments as in `_program_aware_note_scores`.

    Returns:
      Precision, recall and F1 at each tolerance, by name.
    """
    sides = matching.note_array(ref_ns), matching.note_array(est_ns)
    matches = counts.tolerance_sweep(*sides, tolerances)
    return counts.scores_of_counts(matches, empty="zero")


class NoteMetrics(NamedTuple):
    """The scores of several songs, or of parts of songs, averaged in both ways.

    Attributes:
      macro: mean of the scores of each, by name: a short one weighs as much as a long
        one.
      micro: scores of all notes together, by name: precision weighted by the estimated
        notes, recall by those of the references.
    """

    macro: dict[str, float]
    micro: dict[str, float]


def note_metrics(
    pairs: Iterable[tuple[Any, Any]],
    track_specs: Sequence[TrackSpec] = (),
    *,
    empty: Literal["skip", "zero"] = "skip",
    **options: Any,
) -> NoteMetrics:
    """Scores notes, of any system, where `transcription_metrics` scores tokens.

    Args:
      pairs: the true and the transcribed notes of each song (`Note`s, a NoteSequence,
        or an array of `NOTE_DTYPE`).
      track_specs: tracks to score separately.
      empty: see the module's docstring, 4.
      **options: of `scoring.counts.song_counts`, which does by default as the module's
        docstring has it in 1 to 3.

    Returns:
      The scores of `scoring.counts`, by name, and averaged in both ways.

    Raises:
      MidiError: notes that cannot be scored.
      ConfigError: an unknown `empty`, or an option out of range.
    """
    songs = [counts.song_counts(*pair, track_specs, **options) for pair in pairs]
    rows = [counts.scores_of_counts(song, empty=empty) for song in songs]
    macro = counts.mean_metrics(rows)
    return NoteMetrics(macro, counts.micro_metrics(songs, empty=empty))


def transcription_metrics(
    targets: Sequence[Record],
    predictions: Sequence[Record],
    codec: Codec,
    spectrogram_config: SpectrogramConfig,
    onsets_only: bool,
    use_ties: bool,
    track_specs: Sequence[TrackSpec] | None = None,
    num_summary_examples: int = 5,
    frame_fps: float = matching.FRAMES_PER_SECOND,
    frame_velocity_threshold: float = matching.REFERENCE_VELOCITY_THRESHOLD,
    *,
    original_side_effects: bool = True,
    original_drum_programs: bool = True,
    original_reference_roll: bool = True,
    empty: Literal["skip", "zero"] = "zero",
    beyond_original: bool = False,
    unclosed_ties: Literal["keep", "end"] = "keep",
    histograms: bool = True,
    summary_seconds: float = 30.0,
) -> dict[str, float | seqio.metrics.MetricValue]:
    """Scores the songs whose segments these are.

    Args:
      targets: one per segment, in any order: "unique_id" (the song) and "ref_ns" (all
        notes of the song in one of its segments, None in the others).
      predictions: likewise: "unique_id", "start_time" (seconds), "est_tokens" (event
        indices without EOS) and "raw_inputs" (float [samples], or None).
      codec: event indices.
      spectrogram_config: says the sample rate.
      onsets_only: whether the tokens are onsets alone; offsets and velocities are not
        scored then.
      use_ties: whether segments begin with a tie section.
      track_specs: tracks to score separately.
      num_summary_examples: songs to make audible and visible.
      frame_fps: frame rate of the piano rolls, Hz.
      frame_velocity_threshold: cells of the reference at or below it are silent.
      original_side_effects: see the module's docstring, 1.
      original_drum_programs: see the module's docstring, 2.
      original_reference_roll: see the module's docstring, 3.
      empty: see the module's docstring, 4.
      beyond_original: see the module's docstring, 5.
      unclosed_ties: see the module's docstring, 6.
      histograms: add the distributions over the songs. seqio's JSON logger cannot
        write them and says so for each.
      summary_seconds: how much of each song to make audible and visible.

    Returns:
      Numbers and seqio's values by name; nothing for no examples.

    Raises:
      DataError: a song lacks its reference, its predictions or its targets, or has
        several references.
    """
    spec = note_sequences.note_encoding_spec(
        onsets_only, use_ties, unclosed_ties=unclosed_ties
    )
    songs = join_songs(
        targets,
        predictions,
        lambda song: metrics_utils.event_predictions_to_ns(song, codec, spec),
    )
    if not songs:
        logging.getLogger(__name__).warning("evaluation: no examples, hence no scores")
        return {}
    sides = [
        (matching.note_array(song["ref_ns"]), matching.note_array(song["est_ns"]))
        for song in songs
    ]
    numbers = [
        _instrument_numbers(song["ref_ns"]) if original_reference_roll else None
        for song in songs
    ]
    matches = [
        counts.song_counts(
            *pair,
            track_specs or (),
            onsets_only=onsets_only,
            original_side_effects=original_side_effects,
            original_drum_programs=original_drum_programs,
            reference_instruments=reference_instruments,
            frames_per_second=frame_fps,
            velocity_threshold=frame_velocity_threshold,
        )
        for pair, reference_instruments in zip(sides, numbers, strict=True)
    ]
    rows = [
        {
            "Invalid events": float(song["est_invalid_events"]),
            "Dropped events": float(song["est_dropped_events"]),
            **counts.scores_of_counts(row, empty=empty),
        }
        for song, row in zip(songs, matches, strict=True)
    ]
    others: dict[str, Any] = {}
    single: dict[str, float] = {}
    if beyond_original:
        single, others = _instrument_scores(sides, matches, rows, empty)
    values = counts.mean_metrics(rows) | single
    values = {name: value for name, value in values.items() if not math.isnan(value)}
    if histograms:
        values |= _histograms(rows)
    shown = songs[:num_summary_examples]
    if shown:
        others |= summaries.audio_summaries(
            shown, shown, spectrogram_config, summary_seconds
        )
        others |= summaries.transcription_summaries(
            shown,
            shown,
            spectrogram_config,
            ns_feature_suffix="ns",
            track_specs=track_specs,
            num_seconds=summary_seconds,
        )
        rolls = _roll_pairs(
            sides[: len(shown)],
            numbers,
            track_specs or (),
            frame_fps,
            int(summary_seconds * frame_fps),
        )
        others |= summaries.prettymidi_pianoroll(rolls, frame_fps, summary_seconds)
    if beyond_original:
        others |= summaries.instrument_summaries(
            shown, shown, spectrogram_config, summary_seconds
        )
    return values | others


def metric_fns(
    config: ModelConfig, track_specs: Iterable[TrackSpec] | None = None, **options: Any
) -> list[MetricFn]:
    """Makes the metric functions of our own evaluation tasks.

    Args:
      config: the encoding of the predictions, and the sample rate.
      track_specs: tracks to score separately.
      **options: of `transcription_metrics`; by default the corrections that the
        module's docstring lists.

    Returns:
      Functions of (targets, predictions), as `seqio.Task` takes them.

    Raises:
      ConfigError: an option that does not exist, or a wrong value. They are checked
        here, not after the first hours of prediction.
    """
    settings = {
        "codec": vocabularies.build_codec(config.vocabulary),
        "spectrogram_config": config.spectrogram,
        "onsets_only": config.onsets_only,
        "use_ties": config.include_ties,
        "track_specs": list(track_specs or ()),
    }
    known = inspect.signature(transcription_metrics).parameters.keys()
    known -= {"targets", "predictions", *settings}
    for name in options:
        if name not in known:
            raise ConfigError(
                f"evaluation metrics: unknown option {name!r}."
                f"{near_misses(name, known)}"
            )
    chosen = {**_CORRECT, **options}
    counts.scores_of_counts([], empty=chosen["empty"])
    note_sequences.note_encoding_spec(
        config.onsets_only,
        config.include_ties,
        unclosed_ties=chosen.get("unclosed_ties", "keep"),
    )
    return [functools.partial(transcription_metrics, **settings, **chosen)]


def join_songs(
    targets: Iterable[Record],
    predictions: Iterable[Record],
    combine_predictions_fn: metrics_utils.CombineExamplesFunctionType,
) -> list[dict[str, Any]]:
    """Joins the segments of each song.

    Args:
      targets: one per segment, in any order.
      predictions: likewise.
      combine_predictions_fn: makes one mapping of a song's predictions.

    Returns:
      For each song, in the order in which targets first appear, that mapping with
      "unique_id" and "ref_ns".

    Raises:
      DataError: a song lacks its reference, its predictions or its targets, or has
        several references: songs of one id would be taken for one.
    """
    references = metrics_utils.combine_predictions_by_id(
        targets, lambda song: [t["ref_ns"] for t in song if t["ref_ns"] is not None]
    )
    combined = metrics_utils.combine_predictions_by_id(
        predictions, combine_predictions_fn
    )
    lacking = {
        "no targets": combined.keys() - references.keys(),
        "no predictions": references.keys() - combined.keys(),
        "no reference, which its first segment should carry": [
            song for song, found in references.items() if not found
        ],
        "several references; ids must be unique within the data set": [
            song for song, found in references.items() if len(found) > 1
        ],
    }
    problems = [
        f"{_names(songs)} with {problem}" for problem, songs in lacking.items() if songs
    ]
    if problems:
        raise DataError(
            f"evaluation: of {len(references | combined)} songs, "
            f"{'; '.join(problems)}; expected the targets and predictions of every "
            "segment"
        )
    return [
        {**combined[song], "unique_id": song, "ref_ns": found[0]}
        for song, found in references.items()
    ]


def _names(songs: Iterable[Hashable]) -> str:
    """Returns a count and the first few ids."""
    names = sorted(map(repr, songs))
    more = ", ..." if len(names) > _MAX_NAMED else ""
    return f"{len(names)} ({', '.join(names[:_MAX_NAMED])}{more})"


def _instrument_numbers(reference: Any) -> np.ndarray | int:
    """Returns the instrument number of each note, or 0 if notes have none."""
    if not hasattr(reference, "notes"):
        return 0
    return np.array([note.instrument for note in reference.notes], np.int64)


def _instrument_scores(
    sides: Sequence[tuple[np.ndarray, np.ndarray]],
    matches: Sequence[Sequence[counts.MatchCounts]],
    rows: Sequence[dict[str, float]],
    empty: Literal["skip", "zero"],
) -> tuple[dict[str, float], dict[str, Any]]:
    """Adds each song's instrument scores to its row.

    Returns:
      The scores of all songs together, and the table of the classes, by name.
    """
    import seqio

    played = [instruments.count_instruments(*pair) for pair in sides]
    for row, song in zip(rows, played, strict=True):
        row.update(song.scores())
    micro = counts.micro_metrics(
        ([*row, *song.detection] for row, song in zip(matches, played, strict=True)),
        empty=empty,
    )
    classes = instruments.sum_classes(played)
    table = instruments.format_rows(instruments.class_table(classes), markdown=True)
    scores = {f"micro/{name}": value for name, value in micro.items()}
    return (
        scores | instruments.class_scores(classes),
        {CLASSES_TEXT: seqio.metrics.Text("\n".join(table))},
    )


def _histograms(
    rows: Sequence[Mapping[str, float]],
) -> dict[str, seqio.metrics.MetricValue]:
    """Returns the distribution of each score over the songs that have it."""
    import seqio

    histograms: dict[str, seqio.metrics.MetricValue] = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        values = values[~np.isnan(values)]
        if len(values):
            histograms[f"{name} (hist)"] = seqio.metrics.Histogram(values)
    return histograms


def _roll_pairs(
    sides: Sequence[tuple[np.ndarray, np.ndarray]],
    numbers: Sequence[np.ndarray | int | None],
    track_specs: Sequence[TrackSpec],
    fps: float,
    most_frames: int,
) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Returns the piano rolls of estimate and reference, by track and song.

    Arguments for each song are as in `counts.song_parts`; the piano rolls are as in
    `matching.piano_roll`.
    """
    rolls: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for pair, instrument_numbers in zip(sides, numbers, strict=False):
        for part in counts.song_parts(*pair, track_specs, instrument_numbers):
            of_track = rolls.setdefault(part.name or "all instruments", [])
            of_track.append(
                tuple(
                    matching.piano_roll(notes, fps, most_frames=most_frames)
                    for notes in (part.estimate, part.shown)
                )
            )
    return rolls
