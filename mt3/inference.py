"""From recordings to notes: the transcriber that programs and people call.

`InferenceModel` loads weights once and transcribes arrays or files, one or many.
Segments of all files flow through one decoder (`decoding.SegmentDecoder`), so many
short files are as fast as one long one; notes come out segment by segment, in order,
and memory does not grow with the length of a recording.

`write_inferences_to_file` is what an inference job over a task calls with its
predictions.

Differences from the original, numbered:

1. Segment starts are rounded down to a step in integers (see `tokenizer`).
2. `write_inferences_to_file` takes predictions alone or, as today's T5X hands them
   over, a pair of predictions and auxiliary values.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mt3 import checkpoints, decoding, network, tokenizer
from mt3.audio import reading
from mt3.beyond import cleanup as note_cleanup
from mt3.configs import ModelConfig
from mt3.errors import AudioError, ConfigError, DataError
from mt3.note_sequences import Note
from mt3.outputs import Transcription, atomic_file
from mt3.recordings import Audio, Feed, FileResult, SegmentNotes
from mt3.vocabularies import VocabularyConfig


@dataclasses.dataclass(frozen=True)
class TranscribeOptions:
    """How to transcribe.

    Attributes:
      decode: decoding strategy by name: "beam1" (the original's), "greedy", "beam4",
        "temperature0.8"; None leaves it to the model, "beam1" where that says nothing.
      grammar: allow only tokens that mean something where they stand; None leaves
        it to the model (what was measured to be better for it).
      type_first: choose the type of each token before the token, and times by their
        neighbourhood (`decoding.TypeFirst`); None leaves it to the model.
      evidence: weigh the tokens by what the encoder hears in each frame
        (`decoding.FrameEvidence`), which needs the grammar; a mapping changes some of
        the model's settings of it; None leaves it to the model.
      programs: General MIDI programs to transcribe; None for all.
      drums: whether to transcribe drums.
      unclosed_ties: "keep" or "end", see `note_sequences.NoteDecoder`.
      num_slots: segments decoded at once; None for the device's default.
      max_length: most tokens of a segment; None for the model's.
      dtype: computation type, e.g. "bfloat16"; None for the model's.
      allow_truncated: transcribe what is there of a file that was cut.
      cleanup: what to mend in the notes of a whole recording; None leaves it to the
        model. Notes that are streamed are as the model wrote them.
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
    cleanup: note_cleanup.CleanupOptions | None = None

    @property
    def restricted(self) -> bool:
        """Whether some instruments are left out."""
        return self.programs is not None or not self.drums

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
            cleanup=note_cleanup.CleanupOptions(),
        )


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
        self.cleanup = self._cleanup()
        self.sha256 = _sha256(path)
        self.tokenizer = tokenizer.NoteTokenizer(self.config)
        self.network_config = network.T5Config.from_dict(self.config.network)
        self._decoder = decoding.SegmentDecoder(
            loaded.params, self.network_config, self._decode_options()
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

        What the model would have mended in the whole recording is not mended.

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

    def _cleanup(self) -> note_cleanup.CleanupOptions:
        if self.options.cleanup is not None:
            return self.options.cleanup
        return note_cleanup.CleanupOptions.from_dict(self.info.get("cleanup", {}))

    def _cleaned(self, result: FileResult) -> FileResult:
        """Mends the notes of a finished recording."""
        if not self.cleanup or result.transcription is None:
            return result
        notes = note_cleanup.clean_up(
            result.transcription.notes,
            self.cleanup,
            segment_seconds=self.config.segment_seconds,
        )
        return result._replace(
            transcription=dataclasses.replace(result.transcription, notes=notes)
        )

    def _decode_options(self) -> decoding.DecodeOptions:
        options = self.options
        strategy = decoding.from_name(self.strategy)
        mask = None
        if self.uses_grammar:
            steps = self.config.segment_seconds * self.tokenizer.codec.steps_per_second
            mask = decoding.GrammarMask.from_codec(
                self.tokenizer.codec,
                vocab_size=self.network_config.vocab_size,
                include_ties=self.config.include_ties,
                onsets_only=self.config.onsets_only,
                program_granularity=self.config.program_granularity,
                programs=options.programs,
                drums=options.drums,
                max_steps=int(np.ceil(steps)),
            )
        return decoding.DecodeOptions(
            strategy=strategy,
            max_length=options.max_length or self.config.targets_length,
            num_slots=options.num_slots,
            dtype=options.dtype,
            mask=mask,
            type_first=self._type_first(),
            evidence=self._evidence(),
        )

    @property
    def strategy(self) -> str:
        """Name of the decoding strategy."""
        return self.options.decode or str(self.info.get("decode", "beam1"))

    def _type_first(self) -> decoding.TypeFirst | None:
        if not self.uses_type_first:
            return None
        return decoding.TypeFirst.from_codec(
            self.tokenizer.codec,
            # Evidence says how likely it is that anything more happens at a time, and
            # when something will.
            **({"merged": True, "reach": 0} if self.uses_evidence else {}),
            **_settings(self.info, "type_first"),
        )

    def _evidence(self) -> decoding.FrameEvidence | None:
        if not self.uses_evidence:
            return None
        settings = _settings(self.info, "evidence")
        if isinstance(self.options.evidence, Mapping):
            settings |= self.options.evidence
        return decoding.FrameEvidence.from_config(self.config, **settings)

    @property
    def uses_evidence(self) -> bool:
        """Whether tokens are weighed by what the encoder hears."""
        if self.options.evidence is None:
            return self.options.grammar is not False and bool(
                self.info.get("evidence", False)
            )
        return self.options.evidence is not False

    @property
    def uses_type_first(self) -> bool:
        """Whether the type of each token is chosen first."""
        if self.options.type_first is None:
            return bool(self.info.get("type_first", False))
        return self.options.type_first

    @property
    def uses_grammar(self) -> bool:
        """Whether only grammatical tokens are allowed."""
        if self.options.restricted:
            # Masks know instruments only together with the grammar: which program a
            # pitch belongs to depends on what was written before it.
            return True
        if self.options.grammar is None:
            return bool(self.info.get("grammar", False)) or self.uses_evidence
        return self.options.grammar

    def settings(self) -> dict[str, Any]:
        """Returns what a result was made with, as JSON values."""
        values = dataclasses.asdict(self.options)
        values["decode"] = self.strategy
        values["grammar"] = self.uses_grammar
        values["type_first"] = self.uses_type_first
        values["evidence"] = self.uses_evidence
        if isinstance(self.options.evidence, Mapping):
            values["evidence"] = dict(self.options.evidence)
        values["cleanup"] = dataclasses.asdict(self.cleanup) if self.cleanup else None
        return {key: value for key, value in values.items() if value is not None}


def _settings(info: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns how weights want a choice of decoding set; {} for its defaults."""
    value = info.get(name)
    return dict(value) if isinstance(value, Mapping) else {}


def _sha256(path: str) -> str:
    """Returns the SHA-256 of a file, as `mt3 models` shows it; "" for a folder."""
    if not os.path.isfile(path):
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _opened(audio: Audio, sample_rate: int) -> Audio:
    if isinstance(audio, (str, os.PathLike, reading.AudioSource)):
        return audio
    return reading.from_samples(audio, sample_rate)


def to_note_sequence(notes: Sequence[Note], *, ticks_per_quarter: int = 220) -> Any:
    """Makes a NoteSequence, with instruments numbered as the original does.

    Raises:
      ConfigError: note-seq is not installed.
    """
    try:
        from mt3.data import note_sequence_io
    except ImportError as error:
        raise ConfigError(
            "a NoteSequence needs the package note-seq; install "
            "mt3-transcription[train], or use the notes as they are"
        ) from error
    return note_sequence_io.from_notes(notes, ticks_per_quarter=ticks_per_quarter)


def write_inferences_to_file(
    path: str,
    inferences: Sequence[Any] | tuple[Sequence[Any], Mapping[str, Any]],
    task_ds: Iterable[Mapping[str, Any]],
    mode: str,
    vocabulary: Any = None,
    *,
    vocab_config: VocabularyConfig | None = None,
    onsets_only: bool = False,
    use_ties: bool = True,
    note_filter: Callable[[Note], bool] | None = None,
) -> None:
    """Joins predictions by recording and writes one JSON line for each.

    Args:
      path: the file to write; it appears whole or not at all.
      inferences: predicted ids (or event tokens) of each example of `task_ds`, in
        its order; or a pair of these and auxiliary values, which are not used.
      task_ds: the examples: `unique_id` and `input_times` (seconds, of frames).
      mode: "predict".
      vocabulary: decodes ids; None if `inferences` are event tokens already.
      vocab_config: resolution of time and velocity; one velocity bin if None.
      onsets_only: the model writes onsets alone.
      use_ties: segments begin with a tie section.
      note_filter: which notes to write; None for all.

    Raises:
      ConfigError: another mode.
      DataError: numbers of examples and predictions differ, an example lacks a
        feature, or two recordings have the same id.
    """
    if mode != "predict":
        raise ConfigError(
            f"write_inferences_to_file: mode is {mode!r}; expected 'predict'"
        )
    if isinstance(inferences, tuple) and len(inferences) == 2:
        inferences = inferences[0]
    if hasattr(task_ds, "as_numpy_iterator"):
        task_ds = task_ds.as_numpy_iterator()
    examples = list(task_ds)
    if len(examples) != len(inferences):
        raise DataError(
            f"write_inferences_to_file: {len(inferences)} predictions for "
            f"{len(examples)} examples"
        )
    config = ModelConfig(
        network={},
        vocabulary=vocab_config or VocabularyConfig(num_velocity_bins=1),
        include_ties=use_ties,
        onsets_only=onsets_only,
    )
    note_tokenizer = tokenizer.NoteTokenizer(config)
    songs: dict[str, list[tuple[float, np.ndarray]]] = {}
    seen: set[tuple[str, float]] = set()
    for example, prediction in zip(examples, inferences, strict=True):
        unique_id, start = _segment_of(example, config)
        segment = unique_id, float(np.ravel(example["input_times"])[0])
        if segment in seen:
            raise DataError(
                f"write_inferences_to_file: two segments of {unique_id!r} begin at "
                f"{segment[1]:.3f} s; ids must be unique within the data set"
            )
        seen.add(segment)
        tokens = np.asarray(prediction)
        if vocabulary is not None:
            tokens = (
                np.asarray(vocabulary.decode_tf(tokens))
                if not hasattr(vocabulary, "decode")
                else np.asarray(vocabulary.decode(tokens.tolist()))
            )
        songs.setdefault(unique_id, []).append((start, tokens[tokens != -1]))
    with atomic_file(path) as stream:
        for unique_id, predictions in songs.items():
            notes, invalid, dropped = tokenizer.decode_predictions(
                predictions, note_tokenizer
            )
            record = {
                "unique_id": unique_id,
                "est_notes": [
                    dataclasses.asdict(note)
                    for note in notes
                    if note_filter is None or note_filter(note)
                ],
                "invalid_events": invalid,
                "dropped_events": dropped,
            }
            stream.write((json.dumps(record) + "\n").encode())


def _segment_of(example: Mapping[str, Any], config: ModelConfig) -> tuple[str, float]:
    """Returns an example's recording and start time (s), rounded down to a step."""
    for feature in ("unique_id", "input_times"):
        if feature not in example:
            raise DataError(
                f"write_inferences_to_file: an example has no feature {feature!r}; "
                f"it has {sorted(example)}"
            )
    unique_id = np.asarray(example["unique_id"]).reshape(-1)[0]
    if isinstance(unique_id, bytes):
        unique_id = unique_id.decode()
    rate = config.vocabulary.steps_per_second
    start = float(np.asarray(example["input_times"]).reshape(-1)[0])
    # The sum keeps a time such as 0.57 s, stored as float32, from losing a step.
    return str(unique_id), np.floor(start * rate + 1e-4) / rate
