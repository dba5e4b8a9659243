"""The scores of `mt3.scoring` as a seqio metric function.

seqio hands over what `mt3.postprocessors` made of every segment. Segments are joined
to songs by their id, each song is decoded and scored, and what comes back are
seqio's values for its loggers:

* Scalars: every score as the mean over songs, under the original's names; "Invalid
  events" and "Dropped events", tokens per song; below "micro/", the scores of all
  songs together; "Instrument leakage", "Instrument detection" and "Class ... F1
  (Piano)", see `mt3.scoring.instruments`.
* Histograms: every score over the songs, "... histogram".
* Text: a table of the instrument classes.
* Audio and Images of the first few songs, see `mt3.summaries`.

A score that no song defines (drums, where nobody plays any) is left out: NaN is no
JSON, and a curve with holes says less than no curve. `metrics.ORIGINAL` among the
options brings back the original's zeros and its other habits.

Differences from the original, numbered:

1. Songs are told apart by their own ids rather than by order, so any number of hosts
   may share the evaluation. Songs whose reference or predictions are missing are
   named in an error; the original stops without saying why.
2. One metric function computes everything, so that seqio decodes and keeps the
   predictions once.
3. Micro averages, instrument scores and classes (`beyond_original=False` leaves
   them out).
"""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import seqio

from mt3 import metrics_utils, summaries, tokenizer
from mt3.configs import ModelConfig
from mt3.data import note_sequence_io
from mt3.errors import ConfigError, DataError, near_misses
from mt3.metrics_utils import DecodedSong
from mt3.note_sequences import Note
from mt3.scoring import counts as metrics
from mt3.scoring import instruments as instrument_metrics

MetricFn = Callable[..., dict[str, seqio.metrics.MetricValue]]
Record = Mapping[str, Any]

CLASSES_TEXT = "Instrument classes"
_MAX_NAMED = 5


@dataclasses.dataclass(frozen=True)
class EvaluatedSong:
    """One song, its segments joined.

    Attributes:
      unique_id: the song's id.
      reference: the true notes.
      decoded: the transcribed notes and the counts of bad tokens.
      raw_inputs: float32 [samples] of each segment from the first on, as far as
        they were kept.
    """

    unique_id: str
    reference: Sequence[Note]
    decoded: DecodedSong
    raw_inputs: Sequence[np.ndarray]


def metric_fns(
    config: ModelConfig,
    track_specs: Iterable[metrics.TrackSpec | tuple[str, int, bool]] | None = None,
    *,
    num_summary_examples: int = 5,
    summary_seconds: float = summaries.DEFAULT_SECONDS,
    beyond_original: bool = True,
    histograms: bool = True,
    unclosed_ties: Literal["keep", "end"] = "keep",
    empty: Literal["skip", "zero"] = "skip",
    **options: Any,
) -> list[MetricFn]:
    """Makes the metric functions of an evaluation task.

    Args:
      config: the encoding of the predictions, and the sample rate.
      track_specs: tracks to score on their own, if the data set lists any.
      num_summary_examples: songs to make audible and visible; 0 for none.
      summary_seconds: how much of each, from its start.
      beyond_original: whether to add scores that the original does not have.
      histograms: whether to add the distribution of every score over the songs.
        seqio's JSON logger cannot write them and says so of each.
      unclosed_ties: see `note_sequences.NoteEncodingSpecType`.
      empty: see `metrics.scores_of_counts`.
      **options: the original's habits, as for `metrics.song_counts`.

    Returns:
      Functions of (targets, predictions), as `seqio.Task` takes them.

    Raises:
      ConfigError: an option that does not exist or cannot be. It is looked at here,
        not after the first hours of prediction.
    """
    _check_options(options)
    metrics.scores_of_counts([], empty=empty)
    note_tokenizer = tokenizer.NoteTokenizer(config)
    note_tokenizer.decoding_spec(unclosed_ties=unclosed_ties)
    specs = list(track_specs or ())

    # The names of the two arguments are how seqio knows what the function wants.
    def transcription_metrics(
        targets: Sequence[Record], predictions: Sequence[Record]
    ) -> dict[str, seqio.metrics.MetricValue]:
        songs = join_songs(
            targets, predictions, note_tokenizer, unclosed_ties=unclosed_ties
        )
        if not songs:
            logging.getLogger(__name__).warning(
                "evaluation: no examples, hence no scores"
            )
            return {}
        values = score_songs(
            songs,
            specs,
            beyond_original=beyond_original,
            histograms=histograms,
            empty=empty,
            **options,
        )
        shown = [_summary_song(song) for song in songs[:num_summary_examples]]
        rate = config.spectrogram.sample_rate
        values |= summaries.audio_summaries(
            shown, sample_rate=rate, seconds=summary_seconds
        )
        return values | summaries.image_summaries(shown, seconds=summary_seconds)

    return [transcription_metrics]


def join_songs(
    targets: Iterable[Record],
    predictions: Iterable[Record],
    note_tokenizer: tokenizer.NoteTokenizer,
    *,
    unclosed_ties: Literal["keep", "end"] = "keep",
) -> list[EvaluatedSong]:
    """Joins the segments of each song and decodes its predictions.

    Args:
      targets: records of `postprocess`, of all segments, in any order.
      predictions: likewise.
      note_tokenizer: the encoding of the predictions.
      unclosed_ties: see `note_sequences.NoteEncodingSpecType`.

    Returns:
      Songs in the order in which their targets first appear.

    Raises:
      DataError: a song lacks its reference, its predictions or its targets, or has
        several references: songs of one id would be taken for one.
    """
    references: dict[str, Any] = {}
    repeated: dict[str, None] = {}
    for target in targets:
        song, reference = target["unique_id"], target["ref_ns"]
        if references.get(song) is None:
            references[song] = reference
        elif reference is not None:
            repeated[song] = None
    decoded = metrics_utils.combine_predictions_by_id(
        predictions,
        lambda records: (
            metrics_utils.event_predictions_to_ns(
                records, note_tokenizer, unclosed_ties=unclosed_ties
            ),
            _raw_inputs(records),
        ),
    )
    lacking = {
        "no targets": [song for song in decoded if song not in references],
        "no predictions": [song for song in references if song not in decoded],
        "no reference, which its first segment should carry": [
            song for song, notes in references.items() if notes is None
        ],
        "several references; ids must be unique within the data set": list(repeated),
    }
    problems = [
        f"{_names(songs)} with {problem}" for problem, songs in lacking.items() if songs
    ]
    if problems:
        raise DataError(
            f"evaluation: of {len(references | decoded)} songs, {'; '.join(problems)}; "
            "expected the targets and predictions of every segment"
        )
    return [
        EvaluatedSong(song, _notes(notes, song), *decoded[song])
        for song, notes in references.items()
    ]


def score_songs(
    songs: Sequence[EvaluatedSong],
    track_specs: Iterable[metrics.TrackSpec | tuple[str, int, bool]] = (),
    *,
    beyond_original: bool = True,
    histograms: bool = True,
    empty: Literal["skip", "zero"] = "skip",
    **options: Any,
) -> dict[str, seqio.metrics.MetricValue]:
    """Scores songs; arguments as in `metric_fns`.

    Returns:
      Scalars, histograms and a text by name.
    """
    references = [song.reference for song in songs]
    estimates = [song.decoded.notes for song in songs]
    specs = [
        spec if isinstance(spec, metrics.TrackSpec) else metrics.TrackSpec(*spec)
        for spec in track_specs
    ]
    counts = [
        metrics.song_counts(reference, estimate, specs, **options)
        for reference, estimate in zip(references, estimates, strict=True)
    ]
    rows = [metrics.scores_of_counts(row, empty=empty) for row in counts]
    for row, song in zip(rows, songs, strict=True):
        row["Invalid events"] = float(song.decoded.invalid_events)
        row["Dropped events"] = float(song.decoded.dropped_events)
    single: dict[str, float] = {}
    others: dict[str, seqio.metrics.MetricValue] = {}
    if beyond_original:
        instruments = [
            instrument_metrics.count_instruments(reference, estimate)
            for reference, estimate in zip(references, estimates, strict=True)
        ]
        for row, song_instruments in zip(rows, instruments, strict=True):
            row.update(song_instruments.scores())
        micro = metrics.micro_metrics(
            (
                [*row, *song_instruments.detection]
                for row, song_instruments in zip(counts, instruments, strict=True)
            ),
            empty=empty,
        )
        single = {f"micro/{name}": value for name, value in micro.items()}
        classes = instrument_metrics.sum_classes(instruments)
        single |= instrument_metrics.class_scores(classes)
        table = instrument_metrics.class_table(classes)
        others[CLASSES_TEXT] = seqio.metrics.Text(
            "\n".join(instrument_metrics.format_rows(table, markdown=True))
        )
    if histograms:
        others |= _histograms(rows)
    scalars = metrics.mean_metrics(rows) | single
    return {
        name: seqio.metrics.Scalar(value)
        for name, value in scalars.items()
        if not math.isnan(value)
    } | others


def _histograms(
    rows: Sequence[Mapping[str, float]],
) -> dict[str, seqio.metrics.MetricValue]:
    """Returns the distribution over songs of each score, of those where it exists."""
    histograms: dict[str, seqio.metrics.MetricValue] = {}
    for name in rows[0]:
        values = np.array([row[name] for row in rows])
        values = values[~np.isnan(values)]
        if len(values):
            histograms[f"{name} histogram"] = seqio.metrics.Histogram(values)
    return histograms


def _check_options(options: Mapping[str, Any]) -> None:
    """Refuses options that `metrics.song_counts` does not have."""
    parameters = inspect.signature(metrics.song_counts).parameters.values()
    known = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY}
    for name in options:
        if name not in known:
            raise ConfigError(
                f"evaluation metrics: unknown option {name!r}."
                f"{near_misses(name, known)}"
            )


def _names(songs: Sequence[str]) -> str:
    """Returns a count and the first few ids."""
    named = ", ".join(repr(song) for song in songs[:_MAX_NAMED])
    more = ", ..." if len(songs) > _MAX_NAMED else ""
    return f"{len(songs)} ({named}{more})"


def _notes(reference: Any, unique_id: str) -> list[Note]:
    """Returns a reference's notes, which may come as a NoteSequence."""
    if not hasattr(reference, "notes"):
        return list(reference)
    return note_sequence_io.to_notes(
        reference,
        pitch_bends="ignore",
        allow_empty=True,
        name=f"evaluation: reference of {unique_id}",
    )


def _raw_inputs(records: Iterable[Record]) -> list[np.ndarray]:
    """Returns the samples of segments, in time order, up to the first without."""
    kept = itertools.takewhile(lambda r: r.get("raw_inputs") is not None, records)
    return [np.asarray(record["raw_inputs"], np.float32).reshape(-1) for record in kept]


def _summary_song(song: EvaluatedSong) -> summaries.SummarySong:
    return summaries.SummarySong(
        name=song.unique_id,
        reference=song.reference,
        estimate=song.decoded.notes,
        samples=np.concatenate([np.zeros(0, np.float32), *song.raw_inputs]),
    )
