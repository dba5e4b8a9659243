"""From recordings to notes: the transcriber that programs and people call.

`InferenceModel` loads weights once and transcribes arrays or files, one or many.
Segments of all files flow through one decoder (`decoding.SegmentDecoder`), so that
many short files take no longer than one long one. Notes come out segment by segment,
in order, and memory does not grow with the length of a recording.

An inference job over a task calls `write_inferences_to_file` with its predictions.

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

import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mt3 import checkpoints, decoding, network, spectrograms, tokenizer
from mt3.audio import reading
from mt3.beyond.cleanup import CleanupOptions, clean_up
from mt3.beyond.evidence import FrameEvidence
from mt3.beyond.type_first import TypeFirst
from mt3.configs import ModelConfig
from mt3.errors import AudioError, ConfigError, DataError, MT3Error
from mt3.event_codec import Codec
from mt3.note_sequences import (
    Note,
    NoteDecodingState,
    note_values,
    to_note_sequence,
)
from mt3.outputs import Transcription, atomic_file
from mt3.vocabularies import VocabularyConfig

try:
    from gin import REQUIRED
except ImportError:  # Only the engines install it.
    REQUIRED: Any = object()

Audio = str | os.PathLike | np.ndarray | reading.AudioSource


@dataclasses.dataclass(frozen=True)
class TranscribeOptions:
    """How to transcribe.

    Attributes:
      decode: decoding strategy by name: "beam1" (the original's), "greedy", "beam4",
        "temperature0.8"; None leaves it to the model, "beam1" where that says nothing.
      grammar: allow only tokens that mean something where they stand; None leaves
        it to the model (what was measured to be better for it).
      type_first: choose the type of each token before the token, and times by their
        neighbourhood (`beyond.type_first`); None leaves it to the model.
      evidence: weigh the tokens by what the encoder hears in each frame
        (`beyond.evidence`), which needs the grammar; a mapping changes some of the
        model's settings of it; None leaves it to the model.
      programs: General MIDI programs to transcribe; None for all.
      drums: whether to transcribe drums.
      unclosed_ties: "keep" or "end", see `note_sequences.NoteEncodingSpecType`.
      num_slots: segments decoded at once; None for the device's default.
      max_length: most tokens of a segment; None for the model's.
      dtype: computation type, e.g. "bfloat16"; None for the model's.
      allow_truncated: transcribe what is there of a file that was cut.
      cleanup: what to correct in the notes of a whole recording (`beyond.cleanup`);
        None leaves it to the model. Streamed notes are as the model wrote them.
    """

    decode: str | None = None
    grammar: bool | None = None
    type_first: bool | None = None
    evidence: bool | Mapping[str, float] | None = None
    programs: tuple[int, ...] | None = None
    drums: bool = True
    unclosed_ties: str = "keep"
    num_slots: int | None = None
    max_length: int | None = None
    dtype: str | None = None
    allow_truncated: bool = False
    cleanup: CleanupOptions | None = None

    def faithful(self) -> TranscribeOptions:
        """Returns the options with all that the original does not do left out.

        Instruments that were not asked for stay left out, which needs the grammar.
        """
        return dataclasses.replace(
            self,
            decode="beam1",
            grammar=False,
            type_first=False,
            evidence=False,
            unclosed_ties="keep",
            cleanup=CleanupOptions(),
        )

    def resolve(self, info: Mapping[str, Any]) -> ResolvedOptions:
        """Decides what is left to the model.

        Args:
          info: what the weights say of themselves.

        Raises:
          ConfigError: the decisions contradict one another.
        """
        evidence, type_first = self.evidence, self.type_first
        if evidence is None:
            evidence = self.grammar is not False and bool(info.get("evidence"))
        if type_first is None:
            type_first = bool(info.get("type_first"))
        grammar = self.grammar
        if grammar is None:
            grammar = bool(info.get("grammar")) or evidence is not False
        # Which program a pitch belongs to depends on what was written before it, so
        # that only the grammar can leave instruments out.
        grammar = grammar or self.programs is not None or not self.drums
        if evidence is not False and not grammar:
            raise ConfigError(
                "decoding: evidence is asked for without the grammar, whose state it "
                "follows; expected both"
            )
        cleanup = self.cleanup
        if cleanup is None:
            cleanup = CleanupOptions.from_dict(info.get("cleanup", {}))
        asked = evidence if isinstance(evidence, Mapping) else {}
        return ResolvedOptions(
            given=self,
            decode=self.decode or str(info.get("decode", "beam1")),
            grammar=grammar,
            type_first=_settings(info, "type_first") if type_first else None,
            evidence=(
                None if evidence is False else _settings(info, "evidence") | {**asked}
            ),
            cleanup=cleanup,
        )


@dataclasses.dataclass(frozen=True)
class ResolvedOptions:
    """What is done, once the options and the weights have been asked.

    Attributes:
      given: the options that were given.
      decode: name of the decoding strategy.
      grammar: whether only grammatical tokens are allowed.
      type_first: settings of `TypeFirst`; None to do without.
      evidence: settings of `FrameEvidence`; None to do without.
      cleanup: what to correct in the notes of a whole recording.
    """

    given: TranscribeOptions
    decode: str
    grammar: bool
    type_first: Mapping[str, Any] | None
    evidence: Mapping[str, Any] | None
    cleanup: CleanupOptions

    def decode_options(
        self, config: ModelConfig, codec: Codec, vocab_size: int
    ) -> decoding.DecodeOptions:
        """Returns how the decoder decodes.

        Args:
          config: the model's.
          codec: the model's events.
          vocab_size: number of the decoder's logits.

        Raises:
          ConfigError: a setting that is unknown or out of range.
        """
        given = self.given
        return decoding.DecodeOptions(
            strategy=decoding.from_name(self.decode),
            max_length=given.max_length or config.targets_length,
            num_slots=given.num_slots,
            dtype=given.dtype,
            filters=self._filters(config, codec, vocab_size),
        )

    def _filters(
        self, config: ModelConfig, codec: Codec, vocab_size: int
    ) -> tuple[decoding.LogitFilter, ...]:
        filters: list[decoding.LogitFilter] = []
        if self.grammar:
            grammar = decoding.GrammarMask.from_codec(
                codec,
                vocab_size=vocab_size,
                include_ties=config.include_ties,
                onsets_only=config.onsets_only,
                program_granularity=config.program_granularity,
                programs=self.given.programs,
                drums=self.given.drums,
                max_steps=math.ceil(config.segment_seconds * codec.steps_per_second),
            )
            if self.evidence is None:
                filters.append(grammar)
            else:
                filters.append(
                    FrameEvidence.from_config(config, grammar, **self.evidence)
                )
        if self.type_first is not None:
            # Evidence says how likely it is that anything more happens at a time, and
            # when something will.
            heard = {} if self.evidence is None else {"merged": True, "reach": 0}
            filters.append(TypeFirst.from_codec(codec, **heard, **self.type_first))
        return tuple(filters)

    def settings(self) -> dict[str, Any]:
        """Returns what a result is made with, as JSON values."""
        values = dataclasses.asdict(self.given)
        asked = self.given.evidence
        values["decode"] = self.decode
        values["grammar"] = self.grammar
        values["type_first"] = self.type_first is not None
        values["evidence"] = (
            dict(asked) if isinstance(asked, Mapping) else self.evidence is not None
        )
        values["cleanup"] = dataclasses.asdict(self.cleanup) if self.cleanup else None
        return {key: value for key, value in values.items() if value is not None}


def _settings(info: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the settings that weights ask for; {} for the defaults."""
    value = info.get(name)
    return dict(value) if isinstance(value, Mapping) else {}


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
    """A model, ready to transcribe."""

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
        decoding.enable_compilation_cache()
        self.options = options or TranscribeOptions()
        path = checkpoints.resolve(model)
        loaded = checkpoints.load(path, num_heads=num_heads)
        self.config: ModelConfig = loaded.config
        self.info: dict[str, Any] = loaded.info
        self.resolved = self.options.resolve(self.info)
        self.sha256 = _sha256(path)
        self.tokenizer = tokenizer.NoteTokenizer(self.config)
        self.network_config = network.T5Config.from_dict(self.config.network)
        self._decoder = decoding.SegmentDecoder(
            loaded.params,
            self.network_config,
            self.resolved.decode_options(
                self.config, self.tokenizer.codec, self.network_config.vocab_size
            ),
        )

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
        as_note_sequence: bool = False,
    ) -> Any:
        """Transcribes one recording.

        Args:
          audio: path, or samples [n] or [n, channels].
          sample_rate: of the samples, Hz; a file knows its own.
          as_note_sequence: return a `note_seq.NoteSequence`.

        Returns:
          A list of `Note`, by onset; or a NoteSequence.

        Raises:
          AudioError: the recording cannot be read.
          ConfigError: a NoteSequence is asked for and note-seq is not installed.
        """
        result = self.transcribe(audio, sample_rate=sample_rate)
        return (
            to_note_sequence(result.notes) if as_note_sequence else list(result.notes)
        )

    def transcribe(self, audio: Audio, *, sample_rate: int = 16000) -> Transcription:
        """As calling the model, but returns the whole record."""
        for item in self.run([_opened(audio, sample_rate)]):
            if isinstance(item, FileResult):
                if item.error is not None:
                    raise item.error
                return item.transcription
        raise AudioError("transcribe: the recording yielded no result")

    def iter_notes(
        self, audio: Audio, *, sample_rate: int = 16000
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
        for item in self.run([_opened(audio, sample_rate)]):
            if isinstance(item, SegmentNotes):
                yield item
            elif item.error is not None:
                raise item.error

    def run(self, recordings: Iterable[Audio]) -> Iterator[SegmentNotes | FileResult]:
        """Transcribes many recordings with one stream of segments.

        A recording that cannot be read does not stop the others.

        Args:
          recordings: paths, sources or arrays at the model's sample rate; pulled as
            needed.

        Yields:
          Each recording's segments in its order, then its result. Recordings may
          interleave. Only the result is cleaned up; segments are as the model wrote
          them.
        """
        feed = Feed(self, recordings)
        for result in self._decoder.run(feed.segments()):
            for item in feed.take(result):
                yield self._cleaned(item) if isinstance(item, FileResult) else item
            yield from feed.failed()
        yield from feed.failed()

    def _cleaned(self, result: FileResult) -> FileResult:
        """Corrects the notes of a finished recording."""
        cleanup = self.resolved.cleanup
        if not cleanup or result.transcription is None:
            return result
        notes = clean_up(
            result.transcription.notes,
            cleanup,
            segment_seconds=self.config.segment_seconds,
        )
        return result._replace(
            transcription=dataclasses.replace(result.transcription, notes=notes)
        )


def _sha256(path: str) -> str:
    """Returns the SHA-256 of a file, as `mt3 models` shows it; "" for a folder."""
    if not os.path.isfile(path):
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclasses.dataclass
class _Recording:
    """One recording on its way through the decoder."""

    source: str
    state: NoteDecodingState
    invalid_events: int = 0
    dropped_events: int = 0
    # Event tokens of segments that finished before their predecessors.
    waiting: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)
    next_segment: int = 0
    num_segments: int | None = None
    samples: int = 0


class Feed:
    """Feeds recordings to the decoder and puts its results back in order.

    It cuts recordings into segments and hands their frames to the decoder, whose
    results come back in any order. No more segments are kept than are in flight, so
    memory does not grow with the length of a recording.
    """

    def __init__(self, model: InferenceModel, recordings: Iterable[Audio]):
        """Takes the model's settings and the recordings, which are pulled lazily."""
        self._model = model
        self._config = model.config
        self._spec = model.tokenizer.decoding_spec(
            unclosed_ties=model.options.unclosed_ties
        )
        self._recordings = enumerate(recordings)
        self._open: dict[int, _Recording] = {}
        self._failed: list[FileResult] = []

    def segments(self) -> Iterator[tuple[tuple[int, int], np.ndarray]]:
        """Yields ((recording, segment), frames [inputs_length, mel bands])."""
        for number, audio in self._recordings:
            state = self._spec.init_decoding_state_fn()
            recording = _Recording(_source_name(audio), state)
            self._open[number] = recording
            try:
                for segment, samples in enumerate(self._cut(audio, recording)):
                    yield (number, segment), segment_frames(samples, self._config)
            except (MT3Error, OSError) as error:
                del self._open[number]
                if not isinstance(error, MT3Error):
                    error = AudioError(f"{recording.source}: reading audio: {error}")
                self._failed.append(FileResult(number, recording.source, None, error))

    def _cut(self, audio: Audio, recording: _Recording) -> Iterator[np.ndarray]:
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

    def _next_is_known(self, recording: _Recording) -> bool:
        """Whether it is known if another segment follows the next one."""
        following = recording.next_segment + 1
        count = recording.num_segments
        return count is not None or following * self._config.segment_samples <= (
            recording.samples
        )

    def _start_time(self, segment: int) -> float:
        first_frame = segment * self._config.inputs_length
        return self._model.tokenizer.segment_start_time(first_frame)

    def _stitch(self, recording: _Recording) -> tuple[float, list[Note]]:
        segment = recording.next_segment
        recording.next_segment += 1
        last = recording.next_segment == recording.num_segments
        self._spec.begin_decoding_segment_fn(recording.state)
        invalid, dropped = self._spec.decode_tokens(
            recording.state,
            recording.waiting.pop(segment),
            self._start_time(segment),
            None if last else self._start_time(segment + 1),
            self._model.tokenizer.codec,
        )
        recording.invalid_events += invalid
        recording.dropped_events += dropped
        if last:
            recording.state.finish()
        samples = min(
            recording.next_segment * self._config.segment_samples, recording.samples
        )
        end_time = samples / self._config.spectrogram.sample_rate
        return end_time, recording.state.take_notes()

    def _finish(self, recording: _Recording) -> Transcription:
        model = self._model
        return Transcription(
            notes=recording.state.notes,
            duration=recording.samples / self._config.spectrogram.sample_rate,
            source=recording.source,
            model=model.name,
            model_sha256=model.sha256,
            settings=model.resolved.settings(),
            invalid_events=recording.invalid_events,
            dropped_events=recording.dropped_events,
        )


def segment_frames(samples: np.ndarray, config: ModelConfig) -> np.ndarray:
    """Returns what the encoder reads of one segment.

    Args:
      samples: float32 [n], at most `config.segment_samples`, at the model's rate.
      config: the model's.

    Returns:
      Float32 [inputs_length, bands]; a short segment is padded as the model knows it.
    """
    missing = config.segment_samples - len(samples)
    if missing and config.padding == "zero_frames":
        # Whole hops, and a hop of silence where the samples end with one.
        hop = config.spectrogram.hop_width
        missing = hop - len(samples) % hop
    samples = np.pad(samples, (0, missing))
    frames = spectrograms.compute_spectrogram(samples, config.spectrogram)
    return np.pad(frames, ((0, config.inputs_length - len(frames)), (0, 0)))


def _source_name(audio: Audio) -> str:
    if isinstance(audio, reading.AudioSource):
        return os.path.basename(audio.name) or audio.name
    return "samples" if isinstance(audio, np.ndarray) else os.path.basename(audio)


def _opened(audio: Audio, sample_rate: int) -> Audio:
    if isinstance(audio, (str, os.PathLike, reading.AudioSource)):
        return audio
    return reading.from_samples(audio, sample_rate)


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
