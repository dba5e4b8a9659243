"""The whole way from notes to token ids and back.

`NoteTokenizer` is the chain that training and evaluation share: index a song's
events by frame, cut a segment, map programs, run-length code, drop redundant
state changes, add 3, append EOS. `decode_predictions` is its inverse over the
predictions of many segments.

Differences from the original, numbered:

1. A segment's start is rounded down to a step in integers. The original's float
   modulo starts about every tenth segment one step early (`float_modulo=True`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mt3 import run_length_encoding, vocabularies
from mt3.configs import ModelConfig
from mt3.errors import DataError
from mt3.note_sequences import Note, NoteDecoder, note_events, note_onset_events
from mt3.run_length_encoding import IndexedEvents
from mt3.spectrograms import number_of_frames


class NoteTokenizer:
    """Encodes notes as the ids that a model is trained to write."""

    def __init__(self, config: ModelConfig):
        """Builds codec and vocabulary.

        Args:
          config: vocabulary, encoding, program granularity, frame rate.
        """
        self.config = config
        self.codec = vocabularies.build_codec(config.vocabulary)
        self.vocabulary = vocabularies.vocabulary_from_codec(self.codec)
        self._map_programs = vocabularies.program_granularity(
            config.program_granularity
        ).tokens_map_fn
        self._frames_per_second = config.spectrogram.frames_per_second

    def encode_song(
        self,
        notes: Sequence[Note] | np.ndarray,
        num_frames: int,
        *,
        start_time: float = 0.0,
    ) -> IndexedEvents:
        """Writes a song as one event stream indexed by frame.

        Args:
          notes: the notes, or a structured array of `NOTE_DTYPE`.
          num_frames: frames of the song.
          start_time: time of frame 0, seconds; notes that began earlier are in
            the state sections alone.

        Returns:
          The stream.
        """
        encode = note_onset_events if self.config.onsets_only else note_events
        frame_times = start_time + np.arange(num_frames) / self._frames_per_second
        return run_length_encoding.encode_and_index_events(
            encode(notes, self.codec),
            frame_times,
            self.codec,
            with_state=self.config.include_ties,
        )

    def encode_duration(
        self, notes: Sequence[Note] | np.ndarray, seconds: float
    ) -> IndexedEvents:
        """As `encode_song`, for a recording of some seconds."""
        samples = int(round(seconds * self.config.spectrogram.sample_rate))
        frames = number_of_frames(samples, self.config.spectrogram)
        return self.encode_song(notes, frames)

    def segment_events(
        self, song: IndexedEvents, first_frame: int, num_frames: int
    ) -> np.ndarray:
        """Returns the event tokens of a segment, int32 [n], without EOS."""
        events = run_length_encoding.extract_segment(
            song, first_frame, num_frames, self.codec
        )
        events = self._map_programs(events, self.codec)
        events = run_length_encoding.run_length_encode_shifts(events, self.codec)
        return run_length_encoding.remove_redundant_state_changes(events, self.codec)

    def to_ids(self, event_tokens: Sequence[int]) -> np.ndarray:
        """Returns vocabulary ids with EOS, int32 [n + 1]."""
        ids = self.vocabulary.encode(event_tokens)
        return np.append(ids, np.int32(self.vocabulary.eos_id))

    def segment_ids(
        self, song: IndexedEvents, first_frame: int, num_frames: int
    ) -> np.ndarray:
        """Returns the vocabulary ids of a segment with EOS, int32 [n]."""
        return self.to_ids(self.segment_events(song, first_frame, num_frames))

    def encode_segment(
        self,
        notes: Sequence[Note] | np.ndarray,
        num_frames: int | None = None,
        *,
        start_time: float = 0.0,
    ) -> np.ndarray:
        """Encodes one stand-alone segment, as training on clips does.

        Args:
          notes: notes that touch the segment; onsets may lie before it.
          num_frames: frames of the segment; the model's if None.
          start_time: the segment's start on the notes' clock, seconds.

        Returns:
          Vocabulary ids with EOS, int32 [n].
        """
        if num_frames is None:
            num_frames = self.config.inputs_length
        # One frame more, so that the segment ends where the next would begin.
        song = self.encode_song(notes, num_frames + 1, start_time=start_time)
        return self.segment_ids(song, 0, num_frames)

    def decoder(self, *, unclosed_ties: str = "keep") -> NoteDecoder:
        """Returns a decoder for what this tokenizer writes."""
        return NoteDecoder(
            self.codec,
            ties=self.config.include_ties,
            onsets_only=self.config.onsets_only,
            unclosed_ties=unclosed_ties,
        )

    def predicted_events(self, ids: Sequence[int]) -> np.ndarray:
        """Returns the event tokens before EOS; special ids are -2 (invalid)."""
        events = self.vocabulary.decode(ids)
        return events[events != vocabularies.DECODED_EOS_ID]

    def segment_start_time(
        self, first_frame: int, *, float_modulo: bool = False
    ) -> float:
        """Returns when a segment starts, rounded down to a step.

        Args:
          first_frame: the segment's first frame.
          float_modulo: round as the original does.

        Returns:
          Seconds.
        """
        rate = self.config.vocabulary.steps_per_second
        samples = first_frame * self.config.spectrogram.hop_width
        if float_modulo:
            start = first_frame / self._frames_per_second
            return start - math.fmod(start, 1 / rate)
        return samples * rate // self.config.spectrogram.sample_rate / rate


class SegmentStitcher:
    """Turns predictions into notes, segment by segment, in time order.

    Attributes:
      invalid_events: tokens so far that were invalid where they stood.
      dropped_events: tokens so far that lay past their segment's end.
    """

    def __init__(self, tokenizer_codec, decoder: NoteDecoder):
        """Starts with silence.

        Args:
          tokenizer_codec: event indices.
          decoder: a fresh decoder.
        """
        self._codec = tokenizer_codec
        self._decoder = decoder
        self._given = 0
        self.invalid_events = 0
        self.dropped_events = 0

    @property
    def sounding(self) -> list[tuple[int, int]]:
        """(pitch, program) of the notes that go on into the next segment."""
        return self._decoder.sounding

    def add(
        self, start_time: float, tokens: Sequence[int], next_start: float | None
    ) -> list[Note]:
        """Takes one segment.

        Args:
          start_time: start of the segment, seconds.
          tokens: its event tokens, without EOS.
          next_start: start of the next segment; None for the last.

        Returns:
          Notes that ended in this segment.
        """
        self._decoder.begin_segment(start_time)
        invalid, dropped = run_length_encoding.decode_events(
            self._decoder, tokens, start_time, next_start, self._codec
        )
        self.invalid_events += invalid
        self.dropped_events += dropped
        return self._new_notes()

    def finish(self) -> list[Note]:
        """Ends what still sounds, and returns those notes."""
        self._decoder.flush()
        return self._new_notes()

    def _new_notes(self):
        new = self._decoder.notes[self._given :]
        self._given = len(self._decoder.notes)
        return new


def decode_predictions(
    predictions: Iterable[tuple[float, Sequence[int]]],
    tokenizer: NoteTokenizer,
    *,
    unclosed_ties: str = "keep",
) -> tuple[list[Note], int, int]:
    """Joins the predictions of one song's segments to notes.

    Args:
      predictions: (start time in seconds, event tokens without EOS) in any order.
      tokenizer: the codec and the encoding.
      unclosed_ties: see `NoteDecoder`.

    Returns:
      Notes in the order in which they ended, the number of invalid events, and
      the number of dropped events.
    """
    predictions = sorted(predictions, key=lambda prediction: prediction[0])
    starts = [start for start, _ in predictions]
    stitcher = SegmentStitcher(
        tokenizer.codec, tokenizer.decoder(unclosed_ties=unclosed_ties)
    )
    notes: list[Note] = []
    for (start, tokens), next_start in zip(
        predictions, [*starts[1:], None], strict=False
    ):
        notes += stitcher.add(start, tokens, next_start)
    notes += stitcher.finish()
    return notes, stitcher.invalid_events, stitcher.dropped_events


def trim_eos(tokens: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns the decoded tokens before the first EOS (-1), int32 [n]."""
    tokens = np.asarray(tokens, np.int32).reshape(-1)
    ends = np.flatnonzero(tokens == vocabularies.DECODED_EOS_ID)
    return tokens[: ends[0]] if len(ends) else tokens


def segment_of(
    example: Mapping[str, Any], steps_per_second: int, *, float_modulo: bool = False
) -> tuple[str, float]:
    """Returns which recording an example belongs to, and when it starts there.

    Args:
      example: `unique_id` (bytes or str, maybe in an array) and `input_times`
        (seconds, float32 [frames]).
      steps_per_second: of the tokens.
      float_modulo: round as the original does, in float32; about every tenth segment
        then starts a step early.

    Returns:
      The id, and the start in seconds, rounded down to a step.

    Raises:
      DataError: a feature is missing or empty.
    """
    values = {}
    for name in ("unique_id", "input_times"):
        values[name] = np.asarray(example.get(name, ())).reshape(-1)
        if not len(values[name]):
            raise DataError(
                f"segment: feature {name!r} is missing or empty; found "
                f"{', '.join(sorted(example)) or 'no feature'}"
            )
    unique_id = values["unique_id"][0]
    if isinstance(unique_id, bytes):
        unique_id = unique_id.decode("utf-8", "replace")
    start = np.float32(values["input_times"][0])
    if float_modulo:
        return str(unique_id), float(start - start % (1 / steps_per_second))
    # A time such as 0.57 s may be less as float32, and must not lose a step by that.
    step = math.floor((float(start) + float(np.spacing(start)) / 2) * steps_per_second)
    return str(unique_id), step / steps_per_second
