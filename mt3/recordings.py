"""Recordings on their way through the decoder.

`Feed` cuts recordings into segments, hands their frames to the decoder, and puts the
results, which come back in any order, into each recording's order. At most the
segments in flight are held, so memory does not grow with the length of a recording.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import numpy as np

from mt3 import decoding, spectrograms, tokenizer
from mt3.audio import reading
from mt3.configs import ModelConfig
from mt3.errors import AudioError, MT3Error
from mt3.note_sequences import Note
from mt3.outputs import Transcription

Audio = str | os.PathLike | np.ndarray | reading.AudioSource


class Model(Protocol):
    """What `Feed` needs to know of a model."""

    config: ModelConfig
    tokenizer: tokenizer.NoteTokenizer
    options: Any
    sha256: str

    @property
    def name(self) -> str:
        """Name of the weights."""

    def settings(self) -> dict[str, Any]:
        """Returns what a result is made with."""


class SegmentNotes(NamedTuple):
    """What one segment brought.

    Attributes:
      file: position of the recording among those handed in.
      end_time: end of the audio transcribed so far, seconds.
      notes: notes that ended in this segment.
    """

    file: int
    end_time: float
    notes: list[Note]


class FileResult(NamedTuple):
    """The end of one recording.

    Attributes:
      file: position of the recording among those handed in.
      source: its name.
      transcription: all its notes; None if it failed.
      error: why it failed; None if it did not.
    """

    file: int
    source: str
    transcription: Transcription | None
    error: MT3Error | None


@dataclasses.dataclass
class Recording:
    """One recording on its way through the decoder."""

    source: str
    stitcher: tokenizer.SegmentStitcher
    notes: list[Note] = dataclasses.field(default_factory=list)
    # Event tokens of segments that finished before their predecessors.
    waiting: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    next_segment: int = 0
    num_segments: int | None = None
    samples: int = 0


class Feed:
    """Feeds recordings to the decoder and puts its results back in order."""

    def __init__(self, model: Model, recordings: Iterable[Audio]):
        """Takes the model's settings and the recordings, which are pulled lazily."""
        self._model = model
        self._config = model.config
        self._recordings = enumerate(recordings)
        self._open: dict[int, Recording] = {}
        self._failed: list[FileResult] = []

    def segments(self) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        """Yields ((recording, segment), frames [inputs_length, mel bands])."""
        for number, audio in self._recordings:
            codec, decoder = (
                self._model.tokenizer.codec,
                self._model.tokenizer.decoder(
                    unclosed_ties=self._model.options.unclosed_ties
                ),
            )
            recording = Recording(
                _source_name(audio), tokenizer.SegmentStitcher(codec, decoder)
            )
            self._open[number] = recording
            try:
                for segment, samples in enumerate(self._cut(audio, recording)):
                    yield (number, segment), self._frames(samples)
            except (MT3Error, OSError) as error:
                del self._open[number]
                if not isinstance(error, MT3Error):
                    error = AudioError(f"{recording.source}: reading audio: {error}")
                self._failed.append(FileResult(number, recording.source, None, error))

    def _cut(self, audio: Audio, recording: Recording) -> Iterator[np.ndarray]:
        """Yields a recording's segments; its number of segments is known in time.

        The last segment must be known as such before the decoder is asked for its
        result, so each segment is held back until the next one was read.
        """
        length = self._config.segment_samples
        if isinstance(audio, (str, os.PathLike)):
            audio = reading.open_audio(
                audio, allow_truncated=self._model.options.allow_truncated
            )
        held, count = None, 0
        for start, samples in reading.segments(
            audio,
            sample_rate=self._config.spectrogram.sample_rate,
            segment_samples=length,
        ):
            if held is not None:
                yield held
            held, count = samples, count + 1
            recording.samples = start + len(samples)
        if recording.samples == count * length:
            # A recording is always padded; one that ends with a segment gets
            # another, of silence.
            yield held
            held, count = np.zeros(0, np.float32), count + 1
        recording.num_segments = count
        yield held

    def _frames(self, samples: np.ndarray) -> np.ndarray:
        config = self._config
        if config.padding == "silence":
            samples = np.pad(samples, (0, config.segment_samples - len(samples)))
        if len(samples) < config.segment_samples:
            samples = spectrograms.flatten_frames(
                spectrograms.split_audio(samples, config.spectrogram)
            )
        frames = spectrograms.compute_spectrogram(samples, config.spectrogram)
        return np.pad(frames, ((0, config.inputs_length - len(frames)), (0, 0)))

    def take(self, result: decoding.Result) -> Iterator[SegmentNotes | FileResult]:
        """Takes one decoded segment; yields what is now in order."""
        number, segment = result.key
        recording = self._open.get(number)
        if recording is None:  # The recording has failed since.
            return
        events = self._model.tokenizer.predicted_events(result.ids)
        recording.waiting[segment] = events
        while recording.next_segment in recording.waiting:
            if not self._next_is_known(recording):
                return
            yield SegmentNotes(number, *self._stitch(recording))
        if recording.next_segment == recording.num_segments:
            del self._open[number]
            yield FileResult(number, recording.source, self._finish(recording), None)

    def failed(self) -> Iterator[FileResult]:
        """Yields recordings that failed since the last call."""
        failed, self._failed = self._failed, []
        yield from failed

    def _next_is_known(self, recording: Recording) -> bool:
        """Whether it is known if another segment follows the next one."""
        following = recording.next_segment + 1
        count = recording.num_segments
        return count is not None or following * self._config.segment_samples <= (
            recording.samples
        )

    def _start_time(self, segment: int) -> float:
        first_frame = segment * self._config.inputs_length
        return self._model.tokenizer.segment_start_time(first_frame)

    def _stitch(self, recording: Recording) -> tuple[float, list[Note]]:
        segment = recording.next_segment
        recording.next_segment += 1
        last = recording.next_segment == recording.num_segments
        notes = recording.stitcher.add(
            self._start_time(segment),
            recording.waiting.pop(segment),
            None if last else self._start_time(segment + 1),
        )
        if last:
            notes = notes + recording.stitcher.finish()
        recording.notes += notes
        samples = min(
            recording.next_segment * self._config.segment_samples, recording.samples
        )
        return samples / self._config.spectrogram.sample_rate, notes

    def _finish(self, recording: Recording) -> Transcription:
        model = self._model
        return Transcription(
            notes=recording.notes,
            duration=recording.samples / self._config.spectrogram.sample_rate,
            source=recording.source,
            model=model.name,
            model_sha256=model.sha256,
            settings=model.settings(),
            invalid_events=recording.stitcher.invalid_events,
            dropped_events=recording.stitcher.dropped_events,
        )


def _source_name(audio: Audio) -> str:
    if isinstance(audio, reading.AudioSource):
        return os.path.basename(audio.name) or audio.name
    return "samples" if isinstance(audio, np.ndarray) else os.path.basename(audio)
