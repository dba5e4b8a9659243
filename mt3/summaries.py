"""What an evaluation shows beside its scores: sound and pictures of a few songs.

All summaries cover the first 30 seconds of each song (`num_seconds`), which are cut or
padded with silence. Notes may be NoteSequences, `Note`s or arrays of `NOTE_DTYPE`.

"audio"
  The recording.
"input_with_transcription"
  In stereo: the recording on the left, the synthesised estimate on the right.
"pianoroll", "onset_pianoroll"
  15 frames per second, a row for each pitch, high pitches at the top, values 0 or 1.
  The reference is green, the estimate blue, both together cyan; red lines mark where
  segments begin. With `track_specs` the tracks stand one below the other, separated by
  red lines. A note covers every frame that it touches; in the onset piano roll, the
  frame in which it begins.
"... pretty_midi pianoroll"
  The piano rolls that frame scores compare (62.5 frames per second, a row for each
  pitch, velocities as they are), in the same colours.

`instrument_summaries` has more, which MT3 itself does not have: the synthesised
reference, and a picture of reference and estimate with a colour per instrument, drawn
by `outputs.pianoroll`.

Differences from the original, numbered:

1. Notes are played by `outputs.sonify`; the original needs FluidSynth
   (`synthesize_fn=note_seq.fluidsynth`).
2. No songs give no summaries.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mt3 import note_sequences
from mt3.errors import ConfigError
from mt3.note_sequences import Note, TrackSpec
from mt3.outputs import Transcription, pianoroll, sonify
from mt3.scoring import matching
from mt3.spectrograms import SpectrogramConfig
from mt3.vocabularies import NUM_PITCHES

if TYPE_CHECKING:
    import seqio

    Summaries = dict[str, seqio.metrics.MetricValue]

_DEFAULT_AUDIO_SECONDS = 30.0
_DEFAULT_PIANOROLL_FRAMES_PER_SECOND = 15
# Names of the summaries that the original does not have.
REFERENCE_AUDIO = "Audio of the reference"
INSTRUMENTS = "Piano roll by instrument"

# (notes, sample rate in Hz) -> float [samples].
SynthesizeFn = Callable[[Any, int], np.ndarray]


def prettymidi_pianoroll(
    track_pianorolls: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]],
    fps: float,
    num_seconds: float = _DEFAULT_AUDIO_SECONDS,
) -> Summaries:
    """Shows pairs of piano rolls.

    Args:
      track_pianorolls: by name, for each song the piano rolls of estimate and
        reference, [pitches, frames].
      fps: frame rate of the piano rolls, Hz.
      num_seconds: how much of each song.

    Returns:
      Images by "... pretty_midi pianoroll", float64 [songs, pitches, frames, 3].
    """
    import seqio

    num_frames = int(num_seconds * fps)
    images = {}
    for name, pairs in track_pianorolls.items():
        image = np.zeros((len(pairs), NUM_PITCHES, num_frames, 3))
        for song, (estimate, reference) in enumerate(pairs):
            for channel, roll in ((1, reference), (2, estimate)):
                shown = roll[:, :num_frames]
                image[song, : len(shown), : shown.shape[1], channel] = shown
        images[f"{name} pretty_midi pianoroll"] = seqio.metrics.Image(
            image=image, max_outputs=len(pairs)
        )
    return images


def audio_summaries(
    targets: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    spectrogram_config: SpectrogramConfig,
    num_seconds: float = _DEFAULT_AUDIO_SECONDS,
) -> Summaries:
    """Makes recordings audible.

    Args:
      targets: not used.
      predictions: one mapping per song, with "raw_inputs", float [samples].
      spectrogram_config: says the sample rate.
      num_seconds: how much of each song.

    Returns:
      "audio", float64 [songs, samples, 1].
    """
    del targets
    waves = [prediction["raw_inputs"] for prediction in predictions]
    return _audio("audio", [waves], spectrogram_config.sample_rate, num_seconds)


def transcription_summaries(
    targets: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    spectrogram_config: SpectrogramConfig,
    ns_feature_suffix: str | None = None,
    note_onset_feature_suffix: str | None = None,
    note_offset_feature_suffix: str | None = None,
    note_frequency_feature_suffix: str | None = None,
    note_confidence_feature_suffix: str | None = None,
    track_specs: Sequence[TrackSpec] | None = None,
    num_seconds: float = _DEFAULT_AUDIO_SECONDS,
    pianoroll_frames_per_second: float = _DEFAULT_PIANOROLL_FRAMES_PER_SECOND,
    *,
    synthesize_fn: SynthesizeFn | None = None,
) -> Summaries:
    """Shows references and estimates, and makes the estimates audible.

    Notes are features of `targets` (named `ref_` and a suffix) and of `predictions`
    (`est_` and the suffix): either the notes themselves or, as in data sets without
    NoteSequences, arrays of their onsets and frequencies.

    Args:
      targets: one mapping per song.
      predictions: likewise, with "raw_inputs" (float [samples]) and "start_times" (of
        the segments, seconds).
      spectrogram_config: says the sample rate.
      ns_feature_suffix: of the notes.
      note_onset_feature_suffix: of float [notes], seconds.
      note_offset_feature_suffix: of float [notes], seconds; onsets plus 10 ms if None.
      note_frequency_feature_suffix: of float [notes], Hz.
      note_confidence_feature_suffix: of float [notes], 0..1, heard as velocity.
      track_specs: tracks to show separately.
      num_seconds: how much of each song.
      pianoroll_frames_per_second: resolution of the pictures.
      synthesize_fn: plays notes; `note_seq.fluidsynth` for instance, which takes
        NoteSequences.

    Returns:
      "input_with_transcription", float64 [songs, samples, 2]; "pianoroll" and
      "onset_pianoroll", float64 [songs, rows, frames, 3].

    Raises:
      ConfigError: not exactly one of notes and onsets is named, or onsets without
        frequencies.
    """
    import seqio

    onset = note_onset_feature_suffix
    if (ns_feature_suffix is None) == (onset is None):
        raise ConfigError(
            "transcription summaries: expected a suffix of notes or one of onsets, "
            f"found {ns_feature_suffix!r} and {onset!r}"
        )
    if onset is not None and note_frequency_feature_suffix is None:
        raise ConfigError("transcription summaries: onsets need frequencies")
    suffixes = (
        onset,
        note_offset_feature_suffix,
        note_frequency_feature_suffix,
        note_confidence_feature_suffix,
    )

    def notes_of(song: Mapping[str, Any], prefix: str) -> Any:
        if ns_feature_suffix is not None:
            return song[f"{prefix}_{ns_feature_suffix}"]
        return _notes_of_arrays(
            *(None if s is None else song[f"{prefix}_{s}"] for s in suffixes)
        )

    if not predictions:
        return {}
    references = [notes_of(target, "ref") for target in targets]
    estimates = [notes_of(prediction, "est") for prediction in predictions]
    rate = spectrogram_config.sample_rate
    recorded = [prediction["raw_inputs"] for prediction in predictions]
    if synthesize_fn is None:
        played = [_play(notes, num_seconds, rate) for notes in estimates]
    else:
        played = [synthesize_fn(notes, rate) for notes in estimates]
    summaries = _audio(
        "input_with_transcription", [recorded, played], rate, num_seconds
    )
    fps = pianoroll_frames_per_second
    for name, onsets_only in (("pianoroll", False), ("onset_pianoroll", True)):
        images = []
        for reference, estimate, prediction in zip(
            references, estimates, predictions, strict=True
        ):
            sides = (
                _stacked_rolls(notes, track_specs, fps, num_seconds, onsets_only)
                for notes in (reference, estimate)
            )
            # Segments are marked as far as the reference goes.
            starts = np.array(prediction["start_times"])
            starts = starts[starts < _total_time(reference)]
            images.append(_overlay(*sides, (starts * fps).astype(int)))
        summaries[name] = seqio.metrics.Image(
            image=np.stack(images), max_outputs=len(images)
        )
    return summaries


def instrument_summaries(
    targets: Sequence[Mapping[str, Any]],
    predictions: Sequence[Mapping[str, Any]],
    spectrogram_config: SpectrogramConfig,
    num_seconds: float = _DEFAULT_AUDIO_SECONDS,
) -> Summaries:
    """Makes references audible, and draws both sides by instrument.

    Args:
      targets: one mapping per song, with "unique_id" and "ref_ns".
      predictions: likewise, with "est_ns".
      spectrogram_config: says the sample rate.
      num_seconds: how much of each song.

    Returns:
      `REFERENCE_AUDIO`, float64 [songs, samples, 1]; `INSTRUMENTS`, uint8 [songs,
      height, width, 3], the reference above the estimate.
    """
    import seqio

    if not predictions:
        return {}
    rate = spectrogram_config.sample_rate
    waves = [_play(target["ref_ns"], num_seconds, rate) for target in targets]
    pictures = []
    for target, prediction in zip(targets, predictions, strict=True):
        sides = {
            f"reference of {target['unique_id']}": target["ref_ns"],
            f"estimate of {target['unique_id']}": prediction["est_ns"],
        }
        results = [
            Transcription(_playable(notes, num_seconds), num_seconds, name)
            for name, notes in sides.items()
        ]
        both = Transcription([n for result in results for n in result.notes])
        scale = dataclasses.replace(both, duration=num_seconds)
        shown = f"0:00 to {pianoroll.clock_time(num_seconds)}"
        pictures.append(
            np.concatenate(
                [
                    np.asarray(pianoroll.draw_picture(result, shown, scale=scale))
                    for result in results
                ]
            )
        )
    height = max(map(len, pictures))
    image = np.stack(
        [
            np.pad(p, ((0, height - len(p)), (0, 0), (0, 0)), constant_values=255)
            for p in pictures
        ]
    )
    return {
        **_audio(REFERENCE_AUDIO, [waves], rate, num_seconds),
        INSTRUMENTS: seqio.metrics.Image(image=image, max_outputs=len(pictures)),
    }


def _audio(
    name: str,
    channels: Sequence[Sequence[np.ndarray]],
    sample_rate: int,
    num_seconds: float,
) -> Summaries:
    """Returns audio of equal length; `channels` are one list of songs each."""
    import seqio

    num_songs, length = len(channels[0]), int(num_seconds * sample_rate)
    if not num_songs:
        return {}
    data = np.zeros((num_songs, length, len(channels)))
    for channel, waves in enumerate(channels):
        for song, wave in enumerate(waves):
            wave = np.reshape(wave, -1)[:length]
            data[song, : len(wave), channel] = wave
    return {
        name: seqio.metrics.Audio(
            audiodata=data, sample_rate=sample_rate, max_outputs=num_songs
        )
    }


def _playable(notes: Any, num_seconds: float) -> list[Note]:
    """Returns the notes that begin in the first seconds and that outputs can hold."""
    return [
        dataclasses.replace(note, end_time=min(note.end_time, num_seconds))
        for note in note_sequences.array_to_notes(matching.note_array(notes))
        if 0 <= note.start_time < num_seconds
        and note.end_time >= note.start_time
        and 1 <= note.velocity <= 127
    ]


def _play(notes: Any, num_seconds: float, sample_rate: int) -> np.ndarray:
    """Renders the notes that begin in the first seconds, float32 [samples]."""
    kept = _playable(notes, num_seconds)
    if not kept:
        return np.zeros(0, np.float32)
    return np.concatenate(list(sonify.render(Transcription(kept), sample_rate)))


def _notes_of_arrays(
    onsets: np.ndarray,
    offsets: np.ndarray | None,
    frequencies: np.ndarray,
    confidences: np.ndarray | None,
) -> np.ndarray:
    """Makes notes of pitches from onsets and frequencies, [n] of `NOTE_DTYPE`."""
    notes = np.zeros(len(onsets), note_sequences.NOTE_DTYPE)
    notes["start_time"] = onsets
    duration = note_sequences.MIN_NOTE_DURATION
    notes["end_time"] = np.add(onsets, duration) if offsets is None else offsets
    notes["pitch"] = np.round(69 + 12 * np.log2(np.divide(frequencies, 440.0)))
    notes["velocity"] = note_sequences.DEFAULT_VELOCITY
    if confidences is not None:
        notes["velocity"] = np.ceil(np.multiply(confidences, 127))
    return notes


def _total_time(notes: Any) -> float:
    """Returns the length in seconds that a NoteSequence has or that notes take."""
    if hasattr(notes, "total_time"):
        return notes.total_time
    return matching.note_array(notes)["end_time"].max(initial=0.0)


def _stacked_rolls(
    notes: Any,
    track_specs: Sequence[TrackSpec] | None,
    fps: float,
    num_seconds: float,
    onsets_only: bool,
) -> list[np.ndarray]:
    """Returns which cells the notes cover: for each track, bool [pitches, frames]."""
    array = matching.note_array(notes)
    tracks = [array]
    if track_specs:
        tracks = [
            array[(array["program"] == s.program) & (array["is_drum"] == s.is_drum)]
            for s in track_specs
        ]
    rolls = []
    for track in tracks:
        roll = np.zeros((NUM_PITCHES, int(num_seconds * fps)), bool)
        for note in note_sequences.array_to_notes(track):
            first = int(note.start_time * fps)
            last = max(first + 1, 0 if onsets_only else math.ceil(note.end_time * fps))
            roll[NUM_PITCHES - 1 - note.pitch, first:last] = True
        rolls.append(roll)
    return rolls


def _overlay(
    reference: Sequence[np.ndarray],
    estimate: Sequence[np.ndarray],
    segment_frames: np.ndarray,
) -> np.ndarray:
    """Lays tracks of reference and estimate over each other, float64 [h, w, 3]."""
    parts = []
    for green, blue in zip(reference, estimate, strict=True):
        separator = np.zeros((1, green.shape[1], 3))
        separator[..., 0] = 1.0
        track = np.stack([np.zeros_like(green), green, blue], axis=-1).astype(float)
        parts += [separator, track]
    image = np.concatenate(parts[1:])
    image[:, segment_frames[segment_frames < image.shape[1]], 0] = 1.0
    return image
