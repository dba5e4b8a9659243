"""The tasks and mixtures of MT3, registered with seqio by a call.

The name of a task says what it is:

    {data set}_{encoding}[_{spectrogram}][_{vocabulary}][_{granularity}]_{suffix}

`maestrov3_notes_ties_vb1_train`: MAESTRO v3, notes with ties, one velocity bin, to be
trained on. Abbreviations stand only where a setting is not the default: `sr`, `hw`,
`mb` for sample rate, hop width and mel bands, `ss`, `ms`, `vb` for steps per second,
longest shift and velocity bins.

`register(data_root)` registers, for each data set, families of tasks:

    maestrov1_notes, maestrov3_notes      127 velocity bins, programs flat
    {data set}_notes_ties_vb1             all but maestrov1, including `synthetic` and
                                          your own data sets below the root

and in each family, for the splits that the data set has:

    _train                                splits `train`, and `eval` for the loss
    _eval_train, _validation, _test       split `eval`, whole songs in segments
    _eval_train_full, _validation_full    the same with whole splits, where the names
                                          above are parts of a large split
    _eval                                 mixture of those marked for it

Mixtures of data sets: `mega_notes_ties_vb1_train`, `_eval` and `_test`, and the same
with `mega_iclr2022`, in which MusicNet has its original labels as in the ICLR 2022
paper. They draw in proportion to the size of the training sets to the power of 0.3.
Where a data set has no test split, its validation split stands in `_test`, as the
papers report it.

Any other combination of data set, encoding, vocabulary, spectrogram and granularity is
registered when `construct_task_name` builds its name, and your own kind of records by
`add_transcription_task_to_registry`. `training_stages` and `evaluation_stages` are the
whole chain of a task. Nothing is read, and no network touched, before a task is.

Differences from the original, numbered:

1. Importing this module registers nothing. `construct_task_name` registers what it
   names, with the data root in `MT3_DATA_DIR`; `register` takes one.
   `mt3.registered_tasks` is for tools that can only import.
2. Mixing rates come from the hours of the data sets where nothing is cached. The
   original needs the cache.
3. Examples too long for the model are left out of training with a log line
   (`on_too_long="stop"` for the original's way).
4. Test splits that do not exist are not registered; mega test mixtures are.
5. Training examples do not carry the samples along, which only evaluation shows.
6. A granularity other than the encoding's usual one ("full" with ties, else "flat") is
   in the name if `program_granularity` asks for it. Gin's binding of
   `preprocessors.map_midi_programs.granularity_type` counts where it does not, for all
   tasks at once, as in the original.
7. Registered tasks mix with one tie section, write the state at a song's end as it is,
   start segments on the step before, have lists of notes as references, and score by
   `metrics.metric_fns` (`preprocessors`, `mixing`, `postprocess` and `metrics` have the
   options). Tasks of `add_transcription_task_to_registry` do all this as the original.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

import gin
from mt3 import datasets, metrics, mixing, preprocessors, vocabularies
from mt3.configs import ModelConfig
from mt3.data import adapters, note_sequence_io, records, registry
from mt3.datasets import MIXTURES, DatasetConfig
from mt3.errors import ConfigError, DataError, MT3Error, near_misses
from mt3.event_codec import Codec
from mt3.spectrograms import SpectrogramConfig
from mt3.tokenizer import NoteTokenizer, segment_of, trim_eos
from mt3.vocabularies import VocabularyConfig

MAX_NUM_CACHED_FRAMES = datasets.CHUNK_FRAMES
SPECTROGRAM_CONFIG = SpectrogramConfig()
VOCAB_CONFIG_FULL = VocabularyConfig()
VOCAB_CONFIG_NOVELOCITY = VocabularyConfig(num_velocity_bins=1)
MIXING_TEMPERATURE = registry.MIXING_TEMPERATURE
MIXTURE_DATASET_NAMES = list(MIXTURES["mega"])
_FULL_VELOCITY = ("maestrov1", "maestrov3")
_WITHOUT_TIES = ("maestrov1",)

# Encoding -> (include_ties, onsets_only).
ENCODINGS = {
    "notes": (False, False),
    "notes_ties": (True, False),
    "onsets": (False, True),
}
_PREFIX = re.compile(rf"(\w+?)_({'|'.join(sorted(ENCODINGS, reverse=True))})")

# Split of the tasks on whole songs, and of the training tasks' watched loss.
EVAL_SPLIT = "eval"
RAW_INPUTS_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class TaskFamily:
    """Tasks that differ in their split alone.

    Attributes:
      source: a data set or a mixture of data sets.
      encoding: a key of `ENCODINGS`.
      vocabulary: resolution of time and velocity.
      spectrogram: how samples become frames.
      program_granularity: None for the encoding's usual one, which a name does not
        mention.
    """

    source: str
    encoding: str
    vocabulary: VocabularyConfig = VOCAB_CONFIG_FULL
    spectrogram: SpectrogramConfig = SPECTROGRAM_CONFIG
    program_granularity: str | None = None

    def __post_init__(self):
        if self.encoding not in ENCODINGS:
            raise ConfigError(
                f"task: unknown encoding {self.encoding!r}."
                f"{near_misses(self.encoding, ENCODINGS)}"
            )
        if self.program_granularity == self.usual_granularity:
            object.__setattr__(self, "program_granularity", None)
        if self.program_granularity is not None:
            vocabularies.program_granularity(self.program_granularity)

    @property
    def usual_granularity(self) -> str:
        """Full with ties, else flat."""
        return "full" if ENCODINGS[self.encoding][0] else "flat"

    @property
    def name(self) -> str:
        """All of a task's name but the suffix."""
        abbreviations = (
            self.spectrogram.abbrev_str,
            self.vocabulary.abbrev_str,
            self.program_granularity,
        )
        return "_".join(filter(None, (self.source, self.encoding, *abbreviations)))

    def task_name(self, suffix: str) -> str:
        """Returns the name of the task with a suffix."""
        return f"{self.name}_{suffix}"

    def model_config(
        self, padding: str = "zero_frames", context_frames: int = 0
    ) -> ModelConfig:
        """Returns the settings of the chain; network sizes are not part of them."""
        include_ties, onsets_only = ENCODINGS[self.encoding]
        granularity = self.program_granularity or _bound_by_gin(
            preprocessors.map_midi_programs, "granularity_type"
        )
        return ModelConfig(
            network={},
            vocabulary=self.vocabulary,
            spectrogram=self.spectrogram,
            include_ties=include_ties,
            onsets_only=onsets_only,
            program_granularity=granularity or self.usual_granularity,
            context_frames=context_frames,
            padding=padding,
        )


def split_prefix(prefix: str) -> tuple[str, str]:
    """Splits "maestrov3_notes_ties" into data set and encoding; else ConfigError."""
    match = _PREFIX.fullmatch(prefix)
    if not match:
        raise ConfigError(
            f"task prefix {prefix!r}: expected a data set and one of "
            f"{', '.join(ENCODINGS)}, as in 'maestrov3_notes_ties'"
        )
    return match[1], match[2]


def _bound_by_gin(function: Callable[..., Any], parameter: str) -> Any:
    """Returns what gin files bind to a parameter; None if nothing."""
    return gin.get_bindings(function).get(parameter)


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """Settings that are not in a task's name.

    Attributes:
      root: the data root (see `datasets`); None if it is not named yet.
      max_examples_per_mix: train on mixes of up to this many examples; None for what
        gin files bind to `mixing.mix_transcription_examples`, if anything.
      on_corrupt: what a record that cannot be used does: "stop" or "skip".
      on_too_long: what a training example with too many tokens does: "stop" or
        "skip". In evaluation it always stops.
      padding: how short segments are filled up, as in `ModelConfig`.
      context_frames: as in `ModelConfig`; needs the padding "silence".
      shuffle_buffer_size: examples among which training shuffles; each takes half a
        megabyte, for each data set of a mixture.
      metric_options: handed to `metrics.metric_fns`.
      original: mix, post-process and score as the original, see difference 7.

    Raises:
      ConfigError: a wrong value.
    """

    root: str | None = None
    max_examples_per_mix: int | None = None
    on_corrupt: str = "stop"
    on_too_long: str = "skip"
    padding: str = "zero_frames"
    context_frames: int = 0
    shuffle_buffer_size: int = seqio.SHUFFLE_BUFFER_SIZE
    metric_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    original: bool = False

    def __post_init__(self):
        if self.on_too_long not in ("stop", "skip"):
            raise ConfigError(
                f"tasks: on_too_long is {self.on_too_long!r}; expected 'stop' or 'skip'"
            )
        if self.context_frames and self.padding != "silence":
            raise ConfigError(
                f"tasks: context_frames is {self.context_frames} and padding "
                f"{self.padding!r}; segments with context are padded with 'silence'"
            )
        for name in ("max_examples_per_mix", "shuffle_buffer_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"tasks: {name} is {value}; expected at least 1")


# ---------------------------------------------------------------- the chain of a task


def training_stages(
    tokenize_fn: Callable[..., tf.data.Dataset],
    family: TaskFamily,
    options: TaskOptions,
) -> list[Callable[..., tf.data.Dataset]]:
    """Returns the way from records to training examples."""
    return [
        _tokenize(tokenize_fn, family, is_training_data=True),
        functools.partial(preprocessors.split_tokens, max_frames=MAX_NUM_CACHED_FRAMES),
        seqio.CacheDatasetPlaceholder(),
        functools.partial(training_examples, family=family, options=options),
    ]


def training_examples(
    ds: tf.data.Dataset,
    sequence_length: Mapping[str, int] | None,
    output_features: Mapping[str, seqio.Feature],
    *,
    family: TaskFamily,
    options: TaskOptions,
) -> tf.data.Dataset:
    """Makes training examples of chunks, mixed ones if asked for."""
    tokenizer = NoteTokenizer(family.model_config())
    settings: dict[str, Any] = {
        "skip_too_long": options.on_too_long == "skip",
        "padding": options.padding,
    }
    most = options.max_examples_per_mix or _bound_by_gin(
        mixing.mix_transcription_examples, "max_examples_per_mix"
    )
    if most is None:
        return preprocessors.random_training_example(
            ds,
            sequence_length,
            tokenizer=tokenizer,
            context_frames=options.context_frames,
            **settings,
        )
    if options.context_frames:
        raise ConfigError(
            f"tasks: mixes of up to {most} examples and context_frames "
            f"{options.context_frames}; mixing knows no context"
        )
    return mixing.mixed_training_example(
        ds,
        sequence_length,
        output_features,
        tokenizer=tokenizer,
        max_examples_per_mix=most,
        shuffle_buffer_size=options.shuffle_buffer_size,
        original=options.original,
        **settings,
    )


def evaluation_stages(
    tokenize_fn: Callable[..., tf.data.Dataset],
    family: TaskFamily,
    options: TaskOptions,
) -> list[Callable[..., tf.data.Dataset]]:
    """Returns the way from records to the consecutive segments of songs."""
    return [
        _tokenize(tokenize_fn, family, is_training_data=False),
        seqio.CacheDatasetPlaceholder(),
        _with_unique_id,
        functools.partial(
            preprocessors.split_tokens_to_inputs_length,
            context_frames=options.context_frames,
        ),
        preprocessors.add_dummy_targets,
        functools.partial(
            preprocessors.compute_spectrograms,
            spectrogram_config=family.spectrogram,
            padding=options.padding,
            context_frames=options.context_frames,
        ),
        preprocessors.handle_too_long,
        preprocessors.encode_events,
    ]


def _tokenize(
    tokenize_fn: Callable[..., tf.data.Dataset],
    family: TaskFamily,
    *,
    is_training_data: bool,
) -> Callable[[tf.data.Dataset], tf.data.Dataset]:
    include_ties, onsets_only = ENCODINGS[family.encoding]
    return functools.partial(
        tokenize_fn,
        spectrogram_config=family.spectrogram,
        codec=vocabularies.build_codec(family.vocabulary),
        is_training_data=is_training_data,
        onsets_only=onsets_only,
        include_ties=include_ties,
    )


def _with_unique_id(ds: tf.data.Dataset) -> tf.data.Dataset:
    """Numbers songs, if the tokenizer gave them no ids."""
    return ds if "unique_id" in ds.element_spec else preprocessors.add_unique_id(ds)


def postprocess(
    tokens: Sequence[int] | np.ndarray,
    example: Mapping[str, Any],
    is_target: bool,
    codec: Codec,
    *,
    as_notes: bool = False,
    float_modulo: bool = True,
    raw_inputs_seconds: float | None = None,
) -> dict[str, Any]:
    """Turns one segment's decoded tokens into a record for the metrics.

    seqio calls it once with an example's targets and once with what the model
    predicted for it. `mt3.metrics` joins the records to songs by `unique_id`.

    Args:
      tokens: event indices as the vocabulary decodes them: -1 from EOS on, -2 for
        ids that are no event.
      example: the segment's features: `unique_id`, `input_times` (seconds, float
        [frames]), `raw_inputs` (samples), and `sequence`, the serialized NoteSequence
        of the whole song (or an array that begins with it), empty in later segments.
      is_target: whether the tokens are the reference's.
      codec: what they mean.
      as_notes: make records that JSON can hold: `ref_ns` a list of `Note`, `unique_id`
        text. In the original they are a NoteSequence and as in the example.
      float_modulo: round the segment's start as the original does; see `segment_of`.
      raw_inputs_seconds: keep samples only of segments that start before this time,
        for listening; None for all. Together they are as large as the data set.

    Returns:
      For targets `unique_id`, `ref_ns` (in a song's first segment, else None) and
      `ref_tokens` (int32 [n], without EOS). For predictions `unique_id`, `raw_inputs`
      (float32 [samples] or None), `est_tokens` (int32 [n], without EOS) and
      `start_time` (seconds).

    Raises:
      DataError: a feature is missing, or the sequence cannot be read.
    """
    name, start_time = segment_of(
        example, codec.steps_per_second, float_modulo=float_modulo
    )
    record = {"unique_id": name if as_notes else np.ravel(example["unique_id"])[0]}
    if is_target:
        reference = _reference(example, name, as_notes)
        return {**record, "ref_ns": reference, "ref_tokens": trim_eos(tokens)}
    samples = example.get("raw_inputs")
    if raw_inputs_seconds is not None and start_time >= raw_inputs_seconds:
        samples = None
    if samples is not None:
        samples = np.asarray(samples, np.float32).reshape(-1)
    return {
        **record,
        "raw_inputs": samples,
        "est_tokens": trim_eos(tokens),
        "start_time": start_time,
    }


def _reference(example: Mapping[str, Any], unique_id: str, as_notes: bool) -> Any:
    """Returns the notes of the whole song in its first segment, else None."""
    where = f"postprocess: {unique_id}: feature 'sequence'"
    if "sequence" not in example:
        raise DataError(f"{where} is missing; found {', '.join(sorted(example))}")
    data = np.asarray(example["sequence"], object).reshape(-1)[0]
    if not data and not (as_notes and np.ravel(example["input_times"])[0] == 0):
        return None
    sequence = note_sequence_io.parse(data, where)
    if not as_notes:
        return sequence
    # Tasks check what they store. Data of others must not stop an evaluation over a
    # note without a duration, which the metrics leave out.
    return note_sequence_io.to_notes(
        sequence, pitch_bends="ignore", allow_empty=True, name=where
    )


# ---------------------------------------------------------------- registration


@dataclasses.dataclass(frozen=True)
class Registered:
    """What `register` did.

    Attributes:
      names: tasks and mixtures that it registered, or found as they should be.
      data_sets: the data sets by name.
      options: settings of the tasks.
    """

    names: tuple[str, ...]
    data_sets: Mapping[str, DatasetConfig]
    options: TaskOptions


def register(
    data_root: str | os.PathLike[str] | None = None,
    *,
    data_sets: Iterable[str] | None = None,
    cache_dirs: Sequence[str] | None = None,
    **options: Any,
) -> Registered:
    """Registers the usual tasks and mixtures with seqio.

    Calling it again with the same settings changes nothing; with others, tasks of the
    same names are replaced, and a log line says so.

    Args:
      data_root: folder or bucket (see `datasets`); else `MT3_DATA_DIR`;
        `gs://` stands for the public buckets.
      data_sets: names of those to register; all by default.
      cache_dirs: folders with cached tasks, for tasks read with `use_cached`; by
        default those in `MT3_TASK_CACHE_DIRS`, separated as in `PATH`.
      **options: the other settings of `TaskOptions`.

    Returns:
      What is registered; `construct_task_name` takes it.

    Raises:
      ConfigError: an unknown data set or option, or a name that was registered by
        someone else.
      DataError: the data root is no folder, or a manifest is damaged.
    """
    settings = TaskOptions(root=_checked_root(data_root), **options)
    chosen = datasets.choose(data_sets, settings.root)
    registry.add_cache_dirs(cache_dirs)
    names: list[str] = []
    for family in _usual_families(chosen):
        names += _register_family(family, chosen, settings)
    for name in names:
        _ENVIRONMENT.pop(name, None)
    return Registered(tuple(dict.fromkeys(names)), chosen, settings)


def construct_task_name(
    task_prefix: str,
    spectrogram_config: SpectrogramConfig = SPECTROGRAM_CONFIG,
    vocab_config: VocabularyConfig = VOCAB_CONFIG_FULL,
    task_suffix: str | None = None,
    program_granularity: str | None = None,
    registered: Registered | None = None,
) -> str:
    """Returns the name of a task and registers what it names.

    Args:
      task_prefix: data set (or mixture) and encoding, as "mega_notes_ties".
      spectrogram_config: how samples become frames.
      vocab_config: resolution of time and velocity.
      task_suffix: "train", "eval", "validation", "test", ...; None for the bare
        family, which registers nothing.
      program_granularity: the encoding's usual one if None.
      registered: what `register` returned, with its data root and options. Without it
        the data root is that of the environment, tasks that exist stay as they are,
        and a name that no data set has is returned all the same.

    Returns:
      The name.

    Raises:
      ConfigError: with `registered`, the prefix is no data set and encoding, or no
        such task exists.
      DataError: `MT3_DATA_DIR` is no folder.
    """
    if registered is None and not _PREFIX.fullmatch(task_prefix):
        abbreviations = (spectrogram_config.abbrev_str, vocab_config.abbrev_str)
        return "_".join(filter(None, (task_prefix, *abbreviations, task_suffix)))
    source, encoding = split_prefix(task_prefix)
    family = TaskFamily(
        source, encoding, vocab_config, spectrogram_config, program_granularity
    )
    if task_suffix is None:
        return family.name
    name = family.task_name(task_suffix)
    if registered is None:
        _register_from_environment(name, family)
        return name
    known = {**registered.data_sets, **_mixtures_of(registered.data_sets)}
    if source not in known:
        raise ConfigError(
            f"task {family.name!r}: no data set or mixture {source!r} is registered."
            f"{near_misses(source, known)}"
        )
    there = _register_family(family, registered.data_sets, registered.options)
    if name not in there:
        raise ConfigError(
            f"no task {name!r}: {source!r} has no {task_suffix!r}."
            f"{near_misses(name, there)}"
        )
    return name


# Names that `construct_task_name` registered by itself, and the data root then.
_ENVIRONMENT: dict[str, str | None] = {}


def _register_from_environment(name: str, family: TaskFamily) -> None:
    """Registers a family with the data root of the environment, unless it is there."""
    root = _checked_root(None)
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    if name in known and _ENVIRONMENT.get(name, root) == root:
        return
    data_sets = datasets.choose(None, root)
    if family.source in {*data_sets, *_mixtures_of(data_sets)}:
        registry.add_cache_dirs(None)
        names = _register_family(family, data_sets, TaskOptions(root=root))
        _ENVIRONMENT.update(dict.fromkeys(names, root))


def add_transcription_task_to_registry(
    dataset_config: DatasetConfig,
    spectrogram_config: SpectrogramConfig,
    vocab_config: VocabularyConfig,
    tokenize_fn: Callable[..., tf.data.Dataset],
    onsets_only: bool,
    include_ties: bool,
    skip_too_long: bool = False,
) -> None:
    """Registers the tasks of a data set with a tokenizer of your own.

    Args:
      dataset_config: the data set; relative paths are below the data root of the
        environment.
      spectrogram_config: how samples become frames.
      vocab_config: resolution of time and velocity.
      tokenize_fn: records -> songs, called with `ds`, `spectrogram_config`, `codec`,
        `is_training_data`, `onsets_only` and `include_ties`; `preprocessors.tokenize`
        says what songs are.
      onsets_only: encode onsets alone.
      include_ties: begin each segment with the notes that go on sounding.
      skip_too_long: leave training examples with too many tokens out.

    Raises:
      ConfigError: onsets with ties, or a name that was registered by someone else.
    """
    wanted = (include_ties, onsets_only)
    encoding = next((name for name, e in ENCODINGS.items() if e == wanted), None)
    if encoding is None:
        raise ConfigError("tasks: onsets_only and include_ties are both set")
    family = TaskFamily(dataset_config.name, encoding, vocab_config, spectrogram_config)
    options = TaskOptions(
        root=datasets.resolve_root(),
        on_too_long="skip" if skip_too_long else "stop",
        original=True,
    )
    _register_data_set(family, dataset_config, options, tokenize_fn)


def _checked_root(data_root: str | os.PathLike[str] | None) -> str | None:
    root = datasets.resolve_root(data_root)
    if root is not None and "://" not in root and not os.path.isdir(root):
        raise DataError(f"data root {root!r}: there is no such folder")
    return root


def _mixtures_of(data_sets: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Returns the mixtures all of whose data sets are there."""
    there = set(data_sets)
    return {name: parts for name, parts in MIXTURES.items() if there >= set(parts)}


def _usual_families(data_sets: Iterable[str]) -> Iterable[TaskFamily]:
    """Yields the families that `register` registers unasked."""
    for name in data_sets:
        if name in _FULL_VELOCITY:
            yield TaskFamily(name, "notes")
        if name not in _WITHOUT_TIES:
            yield TaskFamily(name, "notes_ties", VOCAB_CONFIG_NOVELOCITY)
    for name in _mixtures_of(data_sets):
        yield TaskFamily(name, "notes_ties", VOCAB_CONFIG_NOVELOCITY)


def _register_family(
    family: TaskFamily, data_sets: Mapping[str, DatasetConfig], options: TaskOptions
) -> list[str]:
    """Registers a family and returns its tasks and mixtures."""
    if family.source in data_sets:
        return _register_data_set(family, data_sets[family.source], options)
    for name in MIXTURES[family.source]:
        part = dataclasses.replace(family, source=name)
        _register_data_set(part, data_sets[name], options)
    rates = {"train": registry.mixing_rate}
    return [
        registry.add_mixture(family.task_name(suffix), names, rates.get(suffix, 1))
        for suffix, names in _names_in_mixture(family, data_sets).items()
    ]


def _names_in_mixture(
    family: TaskFamily, data_sets: Mapping[str, DatasetConfig]
) -> dict[str, list[str]]:
    """Returns the tasks in a mixture of data sets: train, eval and test."""
    names: dict[str, list[str]] = {"train": [], "eval": [], "test": []}
    for source in MIXTURES[family.source]:
        part = dataclasses.replace(family, source=source)
        splits = data_sets[source].infer_eval_splits
        names["train"].append(part.task_name("train"))
        names["eval"] += [
            part.task_name(split.suffix) for split in splits if split.include_in_mixture
        ]
        # The split that papers report.
        tested = "test" in {split.suffix for split in splits}
        names["test"].append(part.task_name("test" if tested else "validation"))
    return names


_MEGA = _names_in_mixture(
    TaskFamily("mega", "notes_ties", VOCAB_CONFIG_NOVELOCITY), datasets.DATASETS
)
MIXTURE_TRAIN_TASK_NAMES = _MEGA["train"]
MIXTURE_EVAL_TASK_NAMES = _MEGA["eval"]
MIXTURE_TEST_TASK_NAMES = _MEGA["test"]


def _register_data_set(
    family: TaskFamily,
    dataset: DatasetConfig,
    options: TaskOptions,
    tokenize_fn: Callable[..., tf.data.Dataset] | None = None,
) -> list[str]:
    """Registers the tasks of one data set and their `eval` mixture."""
    config = family.model_config(options.padding, options.context_frames)
    settings = (family, dataset, options, tokenize_fn)

    def add_task(suffix: str, splits: Mapping[str, str], **arguments: Any) -> str:
        source = records.RecordDataSource(
            dataset, splits, root=options.root, on_corrupt=options.on_corrupt
        )
        name = family.task_name(suffix)
        return registry.add_task(name, settings, source, config, **arguments)

    if tokenize_fn is None:
        tokenize_fn = functools.partial(
            preprocessors.tokenize,
            adapter=adapters.of(dataset),
            lean=True,
            skip=(MT3Error,) if options.on_corrupt == "skip" else (),
            stale_end_state=False,
        )
    names = []
    if dataset.train_split is not None:
        splits = {"train": dataset.train_split}
        if dataset.train_eval_split is not None:
            splits[EVAL_SPLIT] = dataset.train_eval_split
        names.append(
            add_task(
                "train",
                splits,
                preprocessors=training_stages(tokenize_fn, family, options),
                shuffle_buffer_size=options.shuffle_buffer_size,
            )
        )
    codec = vocabularies.build_codec(family.vocabulary)
    if options.original:
        include_ties, onsets_only = ENCODINGS[family.encoding]
        post = functools.partial(postprocess, codec=codec)
        scores = functools.partial(
            metrics.transcription_metrics,
            codec=codec,
            spectrogram_config=family.spectrogram,
            onsets_only=onsets_only,
            use_ties=include_ties,
            track_specs=dataset.track_specs,
        )
        metric_fns = [scores]
    else:
        post = functools.partial(
            postprocess,
            codec=codec,
            as_notes=True,
            float_modulo=False,
            raw_inputs_seconds=RAW_INPUTS_SECONDS,
        )
        metric_fns = metrics.metric_fns(
            config, dataset.track_specs, **options.metric_options
        )
    mixed = []
    for split in dataset.infer_eval_splits:
        name = add_task(
            split.suffix,
            {EVAL_SPLIT: split.name},
            preprocessors=evaluation_stages(tokenize_fn, family, options),
            postprocess_fn=post,
            metric_fns=metric_fns,
        )
        names.append(name)
        if split.include_in_mixture:
            mixed.append(name)
    if mixed:
        names.append(registry.add_mixture(family.task_name("eval"), mixed, 1))
    return names
