"""The whole way from notes to token ids and back.

`NoteTokenizer` is the chain that training and evaluation share: index a song's
events by frame, cut a segment, map programs, run-length code, drop redundant
state changes, add 3, append EOS. `decode_predictions` is its inverse over the
predictions of many segments.

Differences from the original, numbered:

1. A segment's start is rounded down to a step in integers. The original's float
   modulo starts about every tenth segment one step early (`float_modulo=True`).
2. A song's state at its end, and notes that begin before the first frame, are right:
   see `run_length_encoding`, differences 1 (`stale_end_state=True` for the original's
   way) and 2.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from mt3 import event_codec, note_sequences, run_length_encoding, vocabularies
from mt3.configs import ModelConfig
from mt3.errors import DataError
from mt3.note_sequences import Note, NoteDecodingState
from mt3.run_length_encoding import IndexedEvents
from mt3.spectrograms import SpectrogramConfig


class NoteTokenizer:
    """Encodes notes as the ids that a model is trained to write.

    Attributes:
      codec: event indices.
      vocabulary: ids of these.
      spec: the encoding of notes as events.
      spectrogram: the frame rate.
      config: the settings that it was made from; None if made by `from_codec`.
    """

    def __init__(self, config: ModelConfig):
        """Builds codec and vocabulary.

        Args:
          config: vocabulary, encoding, program granularity, frame rate.
        """
        self._set(
            vocabularies.build_codec(config.vocabulary),
            config.spectrogram,
            config.onsets_only,
            config.include_ties,
            config.program_granularity,
        )
        self.config: ModelConfig | None = config

    @classmethod
    def from_codec(
        cls,
        codec: event_codec.Codec,
        spectrogram: SpectrogramConfig | None = None,
        *,
        onsets_only: bool,
        include_ties: bool,
        program_granularity: str = "full",
    ) -> NoteTokenizer:
        """Makes a tokenizer without a model's configuration.

        Args:
          codec: event indices; may lack ranges that the notes do not need.
          spectrogram: the frame rate; the default one if None.
          onsets_only: encode onsets alone.
          include_ties: begin each segment with the notes that go on sounding.
          program_granularity: "flat", "midi_class" or "full".

        Raises:
          ConfigError: settings that exclude one another, or an unknown granularity.
        """
        tokenizer = cls.__new__(cls)
        spectrogram = spectrogram or SpectrogramConfig()
        tokenizer._set(
            codec, spectrogram, onsets_only, include_ties, program_granularity
        )
        tokenizer.config = None
        return tokenizer

    def _set(
        self,
        codec: event_codec.Codec,
        spectrogram: SpectrogramConfig,
        onsets_only: bool,
        include_ties: bool,
        program_granularity: str,
    ) -> None:
        self.codec = codec
        self.spectrogram = spectrogram
        self.vocabulary = vocabularies.token_vocabulary(codec)
        self._encoding = (onsets_only, include_ties)
        self.spec = self.decoding_spec()
        self._times_and_values = (
            note_sequences.note_sequence_to_onsets
            if onsets_only
            else note_sequences.note_sequence_to_onsets_and_offsets_and_programs
        )
        self._tie = codec.event_type_range("tie")[0] if include_ties else None
        self._map_programs = vocabularies.program_granularity(
            program_granularity
        ).tokens_map_fn

    def encode_song(
        self,
        notes: Any,
        num_frames: int,
        *,
        start_time: float = 0.0,
        stale_end_state: bool = False,
    ) -> IndexedEvents:
        """Writes a song as one event stream indexed by frame.

        Args:
          notes: `Note`s, a structured array of `NOTE_DTYPE`, or a NoteSequence.
          num_frames: frames of the song.
          start_time: time of frame 0, seconds; notes that began earlier are in
            the state sections alone.
          stale_end_state: see `run_length_encoding`, difference 1.

        Returns:
          The stream.

        Raises:
          ShapeError: there are no frames.
          TokenError: the codec has no event for a note.
        """
        times, values = self._times_and_values(notes)
        return run_length_encoding.encode_and_index_events(
            self.spec.init_encoding_state_fn(),
            times,
            values,
            self.spec.encode_event_fn,
            self.codec,
            start_time + np.arange(num_frames) / self.spectrogram.frames_per_second,
            self.spec.encoding_state_to_events_fn,
            stale_end_state=stale_end_state,
            clip_early_events=False,
        )

    def extract(
        self, song: IndexedEvents, first_frame: int = 0, num_frames: int | None = None
    ) -> np.ndarray:
        """Returns a segment's events, run-length coded, int32 [n].

        Args:
          song: a song's stream, or a part of it.
          first_frame: first frame of the segment.
          num_frames: its frames, fewer at the end of the stream; all if None.

        Raises:
          ShapeError: the stream has no such frame.
        """
        if num_frames is None:
            num_frames = song.num_frames - first_frame
        events = run_length_encoding.extract_segment(
            song, first_frame, num_frames, self._tie
        )
        events = self._map_programs(events, self.codec)
        return run_length_encoding.run_length_encode_shifts(events, self.codec)

    def reduce(self, events: np.ndarray) -> np.ndarray:
        """Returns events without redundant changes of velocity and program, int32."""
        return run_length_encoding.remove_redundant_state_changes(events, self.codec)

    def segment_events(
        self, song: IndexedEvents, first_frame: int, num_frames: int
    ) -> np.ndarray:
        """Returns the event tokens of a segment, int32 [n], without EOS."""
        return self.reduce(self.extract(song, first_frame, num_frames))

    def to_ids(self, event_tokens: Sequence[int]) -> np.ndarray:
        """Returns vocabulary ids with EOS, int32 [n + 1]."""
        ids = self.vocabulary.encode_array(event_tokens)
        return np.append(ids, np.int32(self.vocabulary.eos_id))

    def segment_ids(
        self, song: IndexedEvents, first_frame: int, num_frames: int
    ) -> np.ndarray:
        """Returns the vocabulary ids of a segment with EOS, int32 [n]."""
        return self.to_ids(self.segment_events(song, first_frame, num_frames))

    def encode_segment(
        self, notes: Any, num_frames: int | None = None, *, start_time: float = 0.0
    ) -> np.ndarray:
        """Encodes one stand-alone segment, as training on clips does.

        Args:
          notes: notes that touch the segment; onsets may lie before it.
          num_frames: frames of the segment without context; the model's if None.
          start_time: the segment's start on the notes' clock, seconds.

        Returns:
          Vocabulary ids with EOS, int32 [n].
        """
        if num_frames is None:
            num_frames = self.config.segment_frames
        # One frame more, so that the segment ends where the next would begin.
        song = self.encode_song(notes, num_frames + 1, start_time=start_time)
        return self.segment_ids(song, 0, num_frames)

    def decoding_spec(
        self, *, unclosed_ties: Literal["keep", "end"] = "keep"
    ) -> note_sequences.NoteEncodingSpecType:
        """Returns `spec` with another rule for tie sections without an end.

        Raises:
          ConfigError: an unknown rule.
        """
        return note_sequences.note_encoding_spec(
            *self._encoding, unclosed_ties=unclosed_ties
        )

    def predicted_events(self, ids: Sequence[int]) -> np.ndarray:
        """Returns the event tokens before EOS; special ids are -2 (invalid)."""
        events = self.vocabulary.decode_array(ids)
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
        rate = self.codec.steps_per_second
        if float_modulo:
            start = first_frame / self.spectrogram.frames_per_second
            return start - math.fmod(start, 1 / rate)
        samples = first_frame * self.spectrogram.hop_width
        return samples * rate // self.spectrogram.sample_rate / rate


def decode_predictions(
    predictions: Iterable[tuple[float, Sequence[int]]],
    tokenizer: NoteTokenizer,
    *,
    unclosed_ties: Literal["keep", "end"] = "keep",
) -> tuple[list[Note], int, int]:
    """Joins the predictions of one song's segments to notes.

    Args:
      predictions: (start time in seconds, event tokens without EOS) in any order.
      tokenizer: the codec and the encoding.
      unclosed_ties: see `note_sequences.NoteEncodingSpecType`.

    Returns:
      Notes in the order in which they ended, the number of invalid events, and
      the number of dropped events.
    """
    spec = tokenizer.decoding_spec(unclosed_ties=unclosed_ties)
    return run_length_encoding.decode_segments(
        predictions,
        spec.init_decoding_state_fn,
        spec.begin_decoding_segment_fn,
        functools.partial(spec.decode_tokens, codec=tokenizer.codec),
        NoteDecodingState.finish,
    )


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
