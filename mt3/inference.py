"""From recordings to notes: the transcriber that programs and people call.

`InferenceModel` loads weights once and transcribes arrays or files, one or many.
Segments of all files flow through one decoder, so that many short files take no longer
than one long one: `decoding.SegmentDecoder`, whose tokens become notes, or, with
`decode="frames"`, the encoder and its frame heads alone (`beyond.frames`). Notes come
out segment by segment, in order, and memory does not grow with the length of a
recording.

A segment with context (`ModelConfig.context_frames`) is heard together with what lies
before and after it, silence outside the recording; its notes are those of its middle.

An inference job over a task calls `write_inferences_to_file` with its predictions.

The logger `mt3` is told of each recording's begin and end (INFO) and of the model and
what was decided for it (DEBUG); it has no handler until a program gives it one.

Differences from the original, numbered:

1. `InferenceModel` rounds segment starts down to a step in integers;
   `write_inferences_to_file` does so with `float_modulo=False`.
2. `write_inferences_to_file` takes predictions alone or, as today's T5X hands them
   over, a pair of predictions and auxiliary values. It needs no feature `sequence` or
   `raw_inputs`, writes an empty file for no examples, and the file appears whole or not
   at all.
3. With `check=True` it refuses predictions that don't belong to the examples, and two
   segments of a recording that begin at one time (two recordings with one id); the
   original leaves out what has no partner, and joins the two recordings.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import logging
import math
import os
import time
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mt3 import checkpoints, decoding, network, spectrograms, terminal, tokenizer
from mt3.audio import reading
from mt3.beats import NO_BEATS, Beats
from mt3.beyond import frames
from mt3.beyond.cleanup import clean_up
from mt3.configs import ModelConfig
from mt3.errors import AudioError, ConfigError, DataError, MT3Error
from mt3.files import file_sha256
from mt3.note_sequences import (
    Note,
    NoteDecodingState,
    note_values,
    to_note_sequence,
)
from mt3.options import FRAMES, TranscribeOptions
from mt3.outputs import Transcription, atomic_file
from mt3.vocabularies import VocabularyConfig

try:
    from gin import REQUIRED
except ImportError:  # Only the engines install it.
    REQUIRED: Any = object()

_LOG = logging.getLogger("mt3")

Audio = reading.Recording | np.ndarray | reading.AudioSource


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


class InferenceModel:
    """A model, ready to transcribe.

    Threads may share one: each call, and each iterator that `run` or `iter_notes`
    returns, keeps what it computes with to itself. An iterator belongs to one thread.
    """

    def __init__(
        self,
        model: str | os.PathLike = "default",
        options: TranscribeOptions | None = None,
        *,
        num_heads: int | None = None,
    ):
        """Loads weights and arranges them for decoding.

        Args:
          model: name of a model in the package, or path of a checkpoint (our single
            file, or a folder of T5X or of the training engine).
          options: how to transcribe.
          num_heads: attention heads, for checkpoints that do not record them.

        Raises:
          CheckpointError: there is no such model, or it is damaged.
          ConfigError: options that do not fit the model.
        """
        started = time.monotonic()
        cache = decoding.enable_compilation_cache()
        self.options = options or TranscribeOptions()
        path = checkpoints.resolve(model)
        self._load = functools.partial(checkpoints.load, path, num_heads=num_heads)
        loaded = self._load()
        self.config: ModelConfig = loaded.config
        self.info: dict[str, Any] = loaded.info
        self.resolved = self.options.resolve(self.info)
        # Of the file, as `mt3 models` shows it; a folder has only that of its values.
        is_file = os.path.isfile(path)
        self.sha256: str = (
            file_sha256(path) if is_file else loaded.info["parameters_sha256"]
        )
        self.tokenizer = tokenizer.NoteTokenizer(self.config)
        self.network_config = network.T5Config.from_dict(self.config.network)
        self._arrange(loaded.params)
        _LOG.debug(
            "model %s: loaded",
            self.name,
            extra={
                "stage": "load",
                "model": self.info["source"],
                "sha256": self.sha256,
                "settings": self.resolved.settings(),
                "device": jax.default_backend(),
                "cache": None if cache is None else str(cache),
                "elapsed": round(time.monotonic() - started, 3),
            },
        )

    def _arrange(self, params: Mapping[str, Any]) -> None:
        """Takes the parameters that the options need."""
        self._decoder: decoding.SegmentDecoder | None = None
        self._hearing: frames.FrameHearing | None = None
        self.arrangement = self.arrangement_for(self.options)
        decode_options, with_heads, dtype = self.arrangement
        if with_heads:
            self._hearing = frames.FrameHearing(
                params,
                self.network_config,
                batch=frames.BATCH if decode_options is None else 1,
                dtype=dtype,
            )
        if decode_options is not None:
            self._decoder = decoding.SegmentDecoder(
                params, self.network_config, decode_options
            )

    def arrangement_for(self, options: TranscribeOptions) -> Hashable:
        """Returns what must be equal for two options to share programs and parameters.

        Raises:
          ConfigError: options that do not fit the model.
        """
        resolved = options.resolve(self.info)
        if resolved.decode == FRAMES:
            return None, True, options.dtype
        decode_options = resolved.decode_options(
            self.config, self.tokenizer.codec, self.network_config.vocab_size
        )
        with_heads = self.network_config.frame_heads and options.details
        return decode_options, with_heads, options.dtype

    def with_options(self, options: TranscribeOptions) -> InferenceModel:
        """Returns the same model, which transcribes in another way.

        It shares parameters and programs with this one where `arrangement_for` both
        options is the same; else the weights are read again.

        Raises:
          CheckpointError: the weights are gone, or damaged.
          ConfigError: options that do not fit the model.
        """
        other = copy.copy(self)
        other.options, other.resolved = options, options.resolve(self.info)
        if self.arrangement_for(options) != self.arrangement:
            other._arrange(self._load().params)
        return other

    @property
    def name(self) -> str:
        """Name of the weights."""
        source = str(self.info.get("source", ""))
        return str(self.info.get("name") or os.path.basename(source.rstrip("/")))

    def __call__(
        self,
        audio: Audio,
        *,
        sample_rate: int = 16000,
        start: float = 0.0,
        end: float | None = None,
        as_note_sequence: bool = False,
    ) -> Any:
        """Transcribes one recording, or a part of it.

        Args:
          audio: path, bytes of a file, open file, or samples [n] or [n, channels].
          sample_rate: of the samples, Hz; a file knows its own.
          start: where the part begins, seconds.
          end: where it ends, seconds; None for the recording's end.
          as_note_sequence: return a `note_seq.NoteSequence`.

        Returns:
          A list of `Note`, by onset; or a NoteSequence. Times count from the
          recording's start, or as `TranscribeOptions.times` says.

        Raises:
          AudioError: the recording cannot be read, or ends before the part begins.
          ConfigError: a NoteSequence is asked for and note-seq is not installed.
        """
        source = self.opened(audio, sample_rate, start, end)
        result = self._transcribe(source, beats=False)
        return (
            to_note_sequence(result.notes) if as_note_sequence else list(result.notes)
        )

    def transcribe(
        self,
        audio: Audio,
        *,
        sample_rate: int = 16000,
        start: float = 0.0,
        end: float | None = None,
        progress: Callable[[SegmentNotes], Any] | None = None,
    ) -> Transcription:
        """As calling the model, but returns the whole record.

        `progress` is called with each segment as it ends.
        """
        source = self.opened(audio, sample_rate, start, end)
        return self._transcribe(source, progress=progress)

    def _transcribe(
        self,
        source: reading.AudioSource,
        *,
        beats: bool = True,
        progress: Callable[[SegmentNotes], Any] | None = None,
    ) -> Transcription:
        for item in self.run([source], beats=beats):
            if isinstance(item, FileResult):
                if item.error is not None:
                    raise item.error
                return item.transcription
            if progress is not None:
                progress(item)
        raise AudioError("transcribe: the recording yielded no result")

    def iter_notes(
        self,
        audio: Audio,
        *,
        sample_rate: int = 16000,
        start: float = 0.0,
        end: float | None = None,
    ) -> Iterator[SegmentNotes]:
        """Transcribes one recording, yielding the notes of each segment as it ends.

        They are as the model wrote them, without its clean-up of whole recordings.

        Raises:
          AudioError: the recording cannot be read; what came before was yielded.
          ConfigError: a clean-up is asked for, which needs the whole recording.
        """
        if self.options.cleanup:
            raise ConfigError(
                f"iter_notes: {self.options.cleanup} needs all notes of a recording; "
                "expected no clean-up where notes are streamed (or call the model)"
            )
        source = self.opened(audio, sample_rate, start, end)
        for item in self.run([source], beats=False):
            if isinstance(item, SegmentNotes):
                yield item
            elif item.error is not None:
                raise item.error

    def run(
        self, recordings: Iterable[Audio], *, beats: bool = True
    ) -> Iterator[SegmentNotes | FileResult]:
        """Transcribes many recordings with one stream of segments.

        A recording that cannot be read does not stop the others.

        Args:
          recordings: as for `opened`; pulled as needed.
          beats: whether results have beats, as the options say.

        Yields:
          Each recording's segments in its order, then its result. Recordings may
          interleave. Only the result is cleaned up; segments are as the model wrote
          them.
        """
        feed = Feed(self, recordings, beats=beats)
        for key, found in self._found(feed.segments()):
            yield from feed.take(key, found)
            yield from feed.failed()
        yield from feed.failed()

    def _found(
        self, segments: Iterable[tuple[tuple[int, int], np.ndarray]]
    ) -> Iterator[tuple[tuple[int, int], _Found]]:
        """Yields what decoder and frame heads find in segments, in any order."""
        if self._decoder is None:
            for key, heard in self._hearing.run(segments):
                yield key, _Found(None, heard)
            return
        waiting: dict[tuple[int, int], frames.Heard | None] = {}

        def heard_first():
            for key, segment in segments:
                waiting[key] = self._hearing and self._hearing.one(segment)
                yield key, segment

        for result in self._decoder.run(heard_first()):
            yield result.key, _Found(result.ids, waiting.pop(result.key))

    def reader(self) -> frames.FrameReader:
        """Returns a reader of the frames of one recording."""
        # Notes of tokens are looked up among all that can be heard.
        sensitivity = self.options.sensitivity if self._decoder is None else 1.0
        return frames.FrameReader(
            self.config,
            self._hearing.heads,
            sensitivity=sensitivity,
            programs=self.options.programs,
            drums=self.options.drums,
        )

    def opened(
        self,
        audio: Audio,
        sample_rate: int | None = None,
        start: float = 0.0,
        end: float | None = None,
    ) -> reading.AudioSource:
        """Opens a recording, or a part of it.

        Args:
          audio: path, bytes, open file, source or samples.
          sample_rate: of samples, Hz; None for the model's.
          start: where the part begins, seconds.
          end: where it ends, seconds; None for the recording's end.

        Raises:
          AudioError: it cannot be read, or ends before the part begins.
        """
        if isinstance(audio, np.ndarray):
            if sample_rate is None:
                sample_rate = self.config.spectrogram.sample_rate
            audio = reading.from_samples(audio, sample_rate)
        elif not isinstance(audio, reading.AudioSource):
            audio = reading.open_audio(
                audio, allow_truncated=self.options.allow_truncated
            )
        return audio.part(start, end) if start or end is not None else audio

    def cleaned(self, notes: list[Note]) -> list[Note]:
        """Returns the notes of a whole recording, corrected as the options say."""
        if not self.resolved.cleanup:
            return notes
        return clean_up(
            notes, self.resolved.cleanup, segment_seconds=self.config.segment_seconds
        )


class _Found(NamedTuple):
    """What was found in a segment.

    Attributes:
      ids: of the decoder's tokens; None without a decoder.
      heard: by the frame heads; None without them.
    """

    ids: np.ndarray | None
    heard: frames.Heard | None


class _Notes:
    """The notes of one recording, as its segments come in order."""

    def __init__(self, model: InferenceModel):
        """Begins before the first segment."""
        self._model = model
        self._reader = None if model._hearing is None else model.reader()
        self._spec = model.tokenizer.decoding_spec(
            unclosed_ties=model.options.unclosed_ties
        )
        self._state: NoteDecodingState = self._spec.init_decoding_state_fn()
        self._segment = 0
        self.invalid_events = 0
        self.dropped_events = 0

    def add(self, found: _Found, num_frames: int, last: bool) -> list[Note]:
        """Takes a segment; returns the notes that ended.

        Args:
          found: in the segment.
          num_frames: frames of its middle that belong to the recording.
          last: whether the recording ends with it.
        """
        self._segment += 1
        if self._reader is not None:
            self._reader.add(found.heard, num_frames=num_frames, last=last)
        if found.ids is None:
            return self._reader.take()
        events = self._model.tokenizer.predicted_events(found.ids)
        self._spec.begin_decoding_segment_fn(self._state)
        invalid, dropped = self._spec.decode_tokens(
            self._state,
            events,
            self._start_time(self._segment - 1),
            None if last else self._start_time(self._segment),
            self._model.tokenizer.codec,
        )
        self.invalid_events += invalid
        self.dropped_events += dropped
        if last:
            self._state.finish()
        return self._detailed(self._state.take_notes())

    def _start_time(self, segment: int) -> float:
        first_frame = segment * self._model.config.segment_frames
        return self._model.tokenizer.segment_start_time(first_frame)

    def all(self) -> list[Note]:
        """Returns the notes of the whole recording."""
        if self._model._decoder is None:
            return self._reader.finish()
        return self._detailed(self._state.notes)

    def _detailed(self, notes: list[Note]) -> list[Note]:
        return notes if self._reader is None else self._reader.detail(notes)


@dataclasses.dataclass
class _Recording:
    """One recording on its way through the decoder."""

    source: str
    notes: _Notes
    audio: reading.AudioSource | None = None
    # What was found in segments that finished before their predecessors.
    waiting: dict[int, _Found] = dataclasses.field(default_factory=dict)
    next_segment: int = 0
    num_segments: int | None = None
    samples: int = 0
    started: float = dataclasses.field(default_factory=time.monotonic)


class Feed:
    """Feeds recordings to the decoder and puts its results back in order.

    It cuts recordings into segments and hands their frames to the decoder, whose
    results come back in any order. No more segments are kept than are in flight, so
    memory does not grow with the length of a recording.
    """

    def __init__(
        self, model: InferenceModel, recordings: Iterable[Audio], *, beats: bool = True
    ):
        """Takes the model's settings and the recordings, which are pulled lazily."""
        self._with_beats = beats
        self._model = model
        self._config = model.config
        self._recordings = enumerate(recordings)
        self._open: dict[int, _Recording] = {}
        self._failed: list[FileResult] = []

    def segments(self) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        """Yields ((recording, segment), frames [inputs_length, mel bands])."""
        for number, audio in self._recordings:
            recording = _Recording(_source_name(audio), _Notes(self._model))
            self._open[number] = recording
            try:
                recording.audio = self._model.opened(audio)
                recording.source = _source_name(recording.audio)
                _LOG.info(
                    "%s: begins",
                    terminal.printable(recording.audio.name),
                    extra={
                        "file": recording.audio.name,
                        "stage": "begin",
                        "seconds": recording.audio.duration,
                    },
                )
                for segment, samples in enumerate(self._cut(recording)):
                    yield (number, segment), segment_frames(samples, self._config)
            except (MT3Error, OSError) as error:
                del self._open[number]
                if not isinstance(error, MT3Error):
                    error = AudioError(f"{recording.source}: reading audio: {error}")
                self._failed.append(FileResult(number, recording.source, None, error))

    def _cut(self, recording: _Recording) -> Iterator[np.ndarray]:
        """Yields a recording's segments; its number of segments is known in time.

        The last segment must be known as such before the decoder is asked for its
        result, so each segment is held back until more was read than it needs.
        """
        length, whole = self._config.segment_samples, self._config.input_samples
        # Before the recording, or the part of it, there is silence.
        held, count = np.zeros(self._config.context_samples, np.float32), 0
        for _, samples in reading.segments(
            recording.audio,
            sample_rate=self._config.spectrogram.sample_rate,
            segment_samples=length,
        ):
            held = np.concatenate([held, samples])
            recording.samples += len(samples)
            while len(held) > whole:
                yield held[:whole]
                held, count = held[length:], count + 1
        recording.num_segments = _num_segments(recording.samples, self._config)
        for _ in range(count, recording.num_segments):
            yield held[:whole]
            held = held[length:]

    def take(
        self, key: tuple[int, int], found: _Found
    ) -> Iterator[SegmentNotes | FileResult]:
        """Takes what was found in one segment; yields what is now in order."""
        number, segment = key
        recording = self._open.get(number)
        if recording is None:  # The recording has failed since.
            return
        recording.waiting[segment] = found
        while recording.next_segment in recording.waiting:
            yield SegmentNotes(number, *self._stitch(recording))
        if recording.next_segment == recording.num_segments:
            del self._open[number]
            yield FileResult(number, recording.source, self._finish(recording), None)

    def failed(self) -> Iterator[FileResult]:
        """Yields recordings that failed since the last call."""
        failed, self._failed = self._failed, []
        yield from failed

    def _stitch(self, recording: _Recording) -> tuple[float, list[Note]]:
        config, segment = self._config, recording.next_segment
        recording.next_segment += 1
        samples = min(
            recording.next_segment * config.segment_samples, recording.samples
        )
        heard = samples - segment * config.segment_samples
        notes = recording.notes.add(
            recording.waiting.pop(segment),
            num_frames=math.ceil(heard / config.spectrogram.hop_width),
            last=recording.next_segment == recording.num_segments,
        )
        zero = self._zero(recording)
        return zero + samples / config.spectrogram.sample_rate, _moved(notes, zero)

    def _finish(self, recording: _Recording) -> Transcription:
        model, zero = self._model, self._zero(recording)
        notes = model.cleaned(recording.notes.all())
        duration = recording.samples / self._config.spectrogram.sample_rate
        elapsed = time.monotonic() - recording.started
        _LOG.info(
            "%s: %d notes in %.1f s of audio, after %.1f s",
            terminal.printable(recording.audio.name),
            len(notes),
            duration,
            elapsed,
            extra={
                "file": recording.audio.name,
                "stage": "transcribe",
                "notes": len(notes),
                "seconds": round(duration, 3),
                "elapsed": round(elapsed, 3),
            },
        )
        return Transcription(
            notes=_moved(notes, zero),
            duration=zero + duration,
            beats=self._beats(notes, duration, zero, recording.audio.start),
            start=recording.audio.start,
            warnings=tuple(recording.audio.warnings),
            source=recording.source,
            model=model.name,
            model_sha256=model.sha256,
            settings=model.resolved.settings(),
            invalid_events=recording.notes.invalid_events,
            dropped_events=recording.notes.dropped_events,
        )

    def _beats(
        self, notes: list[Note], duration: float, zero: float, start: float
    ) -> Beats | None:
        """Returns the beats of a recording, or of a part of it, as results count them.

        Args:
          notes: as they are before they are moved to `zero`.
          duration: of what was transcribed, seconds.
          zero: time of its first sample, as results count times.
          start: time of its first sample in the whole recording.
        """
        options = self._model.options
        if isinstance(options.beats, Beats):
            return options.beats.moved(zero - start)
        if options.beats == NO_BEATS or not self._with_beats:
            return None
        from mt3.beats import tracking

        beats = tracking.track(notes, duration, mode=options.beats, tempo=options.tempo)
        return None if beats is None else beats.moved(zero)

    def _zero(self, recording: _Recording) -> float:
        """Returns the time of the first sample, as results count times."""
        return recording.audio.start if self._model.options.times != "part" else 0.0


def _moved(notes: list[Note], seconds: float) -> list[Note]:
    """Returns notes that many seconds later."""
    if not seconds:
        return notes
    return [
        dataclasses.replace(
            note, start_time=note.start_time + seconds, end_time=note.end_time + seconds
        )
        for note in notes
    ]


def _num_segments(samples: int, config: ModelConfig) -> int:
    """Returns the segments of a recording.

    Without context a recording is always padded, as in the original: one that ends with
    a segment gets another, of silence.
    """
    if not config.context_frames:
        return samples // config.segment_samples + 1
    return math.ceil(samples / config.segment_samples)


def segment_frames(samples: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Returns what the encoder reads of one segment.

    Args:
      samples: float32 [n], at most `config.input_samples`, at the model's rate; the
        context before the segment's middle comes first.
      config: the model's.

    Returns:
      Float32 [inputs_length, bands]; a short segment is padded as the model knows it.
    """
    missing = config.input_samples - len(samples)
    if missing and config.padding == "zero_frames":
        # Whole hops, and a hop of silence where the samples end with one.
        hop = config.spectrogram.hop_width
        missing = hop - len(samples) % hop
    samples = np.pad(samples, (0, missing))
    frames = spectrograms.compute_spectrogram(samples, config.spectrogram)
    return np.pad(frames, ((0, config.inputs_length - len(frames)), (0, 0)))


def _source_name(audio: Audio) -> str:
    name = audio.name if isinstance(audio, reading.AudioSource) else audio
    if not isinstance(name, (str, os.PathLike)):
        return "samples"
    return os.path.basename(name) or os.fspath(name)


def write_inferences_to_file(
    path: str,
    inferences: Sequence[Any] | tuple[Sequence[Any], Mapping[str, Any]],
    task_ds: Iterable[Mapping[str, Any]],
    mode: str,
    vocabulary: Any = None,
    vocab_config: VocabularyConfig = REQUIRED,
    onsets_only: bool = REQUIRED,
    use_ties: bool = REQUIRED,
    *,
    float_modulo: bool = True,
    check: bool = False,
    counts: bool = False,
) -> None:
    """Joins predictions by recording and writes a JSON line for each, sorted by id.

    A line has `id` and `est_notes`: the fields of `Note`, in the order in which the
    notes end.

    Args:
      path: the file to write; it appears whole or not at all.
      inferences: predicted ids of each example of `task_ds`, in its order; or a pair
        of these and auxiliary values by name, which are not used.
      task_ds: the examples: `unique_id` and `input_times` (seconds, of frames).
      mode: "predict".
      vocabulary: decodes ids.
      vocab_config: resolution of time and velocity.
      onsets_only: the model writes onsets alone.
      use_ties: segments begin with a tie section.
      float_modulo: round segment starts as the original does, see `tokenizer`.
      check: refuse examples and predictions that do not belong together.
      counts: add `invalid_events` and `dropped_events` to each line.

    Raises:
      ConfigError: another mode, no vocabulary, ties of onsets, or a missing setting.
      DataError: an example lacks a feature; or, with `check`, the numbers of examples
        and predictions differ or two segments of a recording begin at one time.
    """
    settings = {
        "vocabulary": vocabulary,
        "vocab_config": vocab_config,
        "onsets_only": onsets_only,
        "use_ties": use_ties,
    }
    for name, value in settings.items():
        if value is None or value is REQUIRED:
            raise ConfigError(f"write_inferences_to_file: {name} is missing")
    if mode != "predict":
        raise ConfigError(
            f"write_inferences_to_file: mode is {mode!r}; expected 'predict'"
        )
    if isinstance(inferences, tuple) and isinstance(inferences[-1], Mapping):
        inferences = inferences[0]
    if hasattr(task_ds, "as_numpy_iterator"):
        task_ds = task_ds.as_numpy_iterator()
    examples = list(task_ds)
    if check and len(examples) != len(inferences):
        raise DataError(
            f"write_inferences_to_file: {len(inferences)} predictions for "
            f"{len(examples)} examples"
        )
    coder = tokenizer.NoteTokenizer(
        ModelConfig(
            network={},
            vocabulary=vocab_config,
            include_ties=use_ties,
            onsets_only=onsets_only,
        )
    )
    rate = vocab_config.steps_per_second
    songs: dict[str, list[tuple[float, np.ndarray]]] = {}
    for example, ids in zip(examples, inferences, strict=False):
        unique_id, start = tokenizer.segment_of(
            example, rate, float_modulo=float_modulo
        )
        song = songs.setdefault(unique_id, [])
        if check and start in (before for before, _ in song):
            raise DataError(
                f"write_inferences_to_file: two segments of {unique_id!r} begin at "
                f"{start:.3f} s; ids must be unique within the data set"
            )
        tokens = vocabulary.decode(np.asarray(ids).tolist())
        song.append((start, tokenizer.trim_eos(tokens)))
    with atomic_file(path) as stream:
        for unique_id, predictions in sorted(songs.items()):
            notes, invalid, dropped = tokenizer.decode_predictions(predictions, coder)
            line: dict[str, Any] = {
                "id": unique_id,
                "est_notes": [note_values(note) for note in notes],
            }
            if counts:
                line |= {"invalid_events": invalid, "dropped_events": dropped}
            stream.write((json.dumps(line) + "\n").encode())
