r"""Prints examples of a task or mixture: shapes, and what the tokens mean.

    python scripts/dump_task.py --task=slakh_notes_ties_vb1_train --data_root=data \
      --max_examples=3 --format_string='{unique_id} at {input_times}: {events}'

For each example it prints the shape of every feature, then the format string with the
features' values in place of `{name}`. Features with a vocabulary are decoded by it (the
targets to event indices). `{events}` is the targets in words: `@0.35s` is a time from
the segment's start, and notes before `tie` go on sounding. Evaluation tasks have no
targets: their reference is the NoteSequence in `sequence`.

`--plot_dir=pictures` draws each example: its notes as a piano roll, and beneath it the
frames that the model gets. The notes are what the targets mean, or, in an evaluation
task, what the song's NoteSequence holds in the segment.

Without `--task` it lists the tasks and mixtures that are registered.

Beyond the original: the list, `--plot_dir`, `--data_root`, `--module_import`, `--seed`,
the field `{events}`, and errors that name what exists.
"""

# check: first
# python -c "from pathlib import Path; from tests.support import tiny_datasets as t; \
# t.write_all(Path('data'), data_sets=['slakh'])"

from __future__ import annotations

import argparse
import importlib
import itertools
import string
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from mt3 import event_codec, files, tasks, terminal, vocabularies
from mt3.data import note_sequence_io
from mt3.data.tf_bridge import original_error
from mt3.errors import ConfigError, DataError, near_misses
from mt3.midi import note_arrays
from mt3.outputs import Transcription, pianoroll
from mt3.tokenizer import NoteTokenizer, decode_predictions, segment_of, trim_eos

EVENTS = "events"
# Arrays with more values than this are shortened.
_MAX_VALUES = 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Parses arguments and prints; errors go to standard error.

    Returns:
      The exit status: 1 after an error.
    """
    options = _parser().parse_args(argv)

    def run() -> int:
        try:
            for line in dump(options):
                terminal.print_result(line)
        except tf.errors.OpError as error:
            # TensorFlow hands on errors of the pipeline as its own.
            raise original_error(error) or DataError(str(error)) from error
        return 0

    return terminal.run_program(run, "dump_task")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Prints examples of a task or mixture.", allow_abbrev=False
    )
    add = parser.add_argument
    add("--task", help="name of a task or mixture; without it, all names are listed")
    add("--split", help="split of the task (default: train, or the only one)")
    add("--data_root", help="folder or bucket; else MT3_DATA_DIR, else the public one")
    add("--task_cache_dir", help="read the task from its cache in this folder")
    add(
        "--max_examples",
        type=int,
        default=10,
        help="how many to print, -1 for all (default: %(default)s)",
    )
    add(
        "--format_string",
        default="targets = {targets}",
        help="what to print of each example (default: '%(default)s')",
    )
    for name, length, unit in (("inputs", 256, "frames"), ("targets", 1024, "ids")):
        add(
            f"--sequence_length_{name}",
            f"--{name}_length",
            type=int,
            default=length,
            help=f"{unit} of an example (default: %(default)s)",
        )
    add("--plot_dir", help="draw each example to a PNG file in this folder")
    add("--seed", type=int, default=0, help="of random cuts (default: %(default)s)")
    add(
        "--module_import",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module that registers further tasks; may be given several times",
    )
    return parser


def dump(options: argparse.Namespace) -> Iterator[str]:
    """Yields the lines to print.

    Args:
      options: the parsed arguments.

    Raises:
      ConfigError: an unknown task, split, format field or module.
      DataError: the task is not cached where its cache was asked for.
    """
    _register(options)
    if options.task is None:
        yield from sorted({*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()})
        return
    provider = _find_task(options)
    first = seqio.get_subtasks(provider)[0]
    if options.task_cache_dir:
        for task in seqio.get_subtasks(provider):
            if not task.cache_dir:
                raise DataError(
                    f"task {task.name!r} is not cached in {options.task_cache_dir}; "
                    "seqio_cache_tasks caches it"
                )
    ds = provider.get_dataset(
        sequence_length={
            "inputs": options.sequence_length_inputs,
            "targets": options.sequence_length_targets,
        },
        split=_split(options.split, provider),
        use_cached=bool(options.task_cache_dir),
        shuffle=False,
        seed=options.seed,
    )
    codec = _codec(first)
    known = [*ds.element_spec, *([EVENTS] if codec else [])]
    _check_fields(options.format_string, known)
    painter = _Painter(first, options.plot_dir) if options.plot_dir else None
    count = None if options.max_examples < 0 else options.max_examples
    for number, example in enumerate(
        itertools.islice(ds.as_numpy_iterator(), count), 1
    ):
        yield f"Example {number}:"
        for name, value in sorted(example.items()):
            array = np.asarray(value)
            kind = "string" if array.dtype.kind in "OS" else array.dtype
            yield f"  {name}: {kind} {list(array.shape)}"
        fields = _decoded(example, provider.output_features)
        if codec:
            fields[EVENTS] = events_text(fields["targets"], codec)
        yield options.format_string.format_map(
            {name: _text(value) for name, value in fields.items()}
        )
        if painter:
            yield f"  drawn: {painter.draw(fields, number)}"


class _Painter:
    """Draws the examples of a task, in their order."""

    def __init__(self, task: seqio.Task, folder: str):
        """Raises ConfigError for a task that is not MT3's."""
        config = getattr(task, "model_config", None)
        if config is None:
            raise ConfigError(
                f"--plot_dir: task {task.name!r} is not one of MT3's; what its targets "
                "mean is not known"
            )
        self._tokenizer = NoteTokenizer(config)
        self._folder = Path(folder)
        # Of the song whose segments come.
        self._song = note_arrays.empty()

    def draw(self, fields: Mapping[str, Any], number: int) -> Path:
        """Draws an example with decoded targets; returns the file's path.

        Raises:
          OutputError: it cannot be written.
        """
        name, start = segment_of(fields, self._tokenizer.codec.steps_per_second)
        frames = np.asarray(fields["inputs"])
        seconds = len(frames) / self._tokenizer.spectrogram.frames_per_second
        sequence = np.ravel(fields.get("sequence", b""))[0]
        if sequence:
            found = note_sequence_io.parse(sequence, name)
            self._song = note_sequence_io.to_array(
                found, pitch_bends="ignore", allow_empty=True, name=name
            )
        events = trim_eos(fields["targets"])
        if len(events):
            tie, _ = self._tokenizer.codec.event_type_range("tie")
            # What sounds from before has its onset in no segment: the tie section,
            # read after its end, begins it. A last segment ends what sounds on.
            held = events[: np.argmax(events == tie)]
            segments = [(0.0, [tie, *held]), (0.0, events), (seconds, [tie])]
            notes, *_ = decode_predictions(segments, self._tokenizer)
        else:  # As in evaluation.
            segment = note_arrays.window(self._song, start, start + seconds)
            segment["start_time"] = np.maximum(segment["start_time"], 0)
            segment["end_time"] = np.minimum(segment["end_time"], seconds)
            notes = note_arrays.to_notes(segment)
        picture = pianoroll.draw_picture(
            Transcription(notes, seconds, name),
            f"from {start:.2f} s on",
            spectrogram=frames,
        )
        path = self._folder / f"{number:05d}.png"
        with files.atomic_file(path) as stream:
            picture.save(stream, format="PNG")
        return path


def events_text(events: Sequence[int] | np.ndarray, codec: event_codec.Codec) -> str:
    """Returns event indices in words.

    Args:
      events: event indices; -1 from EOS on, -2 for ids that are no event.
      codec: what they mean.

    Returns:
      For example "program=40 pitch=60 tie @0.35s velocity=1 pitch=64". Shifts in a
      row, which together are one time, are added up.
    """
    words, steps = [], 0
    for index in np.asarray(events).tolist():
        if index == vocabularies.DECODED_EOS_ID:
            break
        if index < 0:
            words.append("invalid")
            continue
        event = codec.decode_event_index(index)
        if event.type == "shift":
            if steps:
                words.pop()
            steps += event.value
            words.append(f"@{steps / codec.steps_per_second:.2f}s")
            continue
        steps = 0
        words.append("tie" if event.type == "tie" else f"{event.type}={event.value}")
    return " ".join(words)


def _register(options: argparse.Namespace) -> None:
    """Registers the tasks."""
    cache_dirs = [options.task_cache_dir] if options.task_cache_dir else []
    tasks.register(options.data_root, cache_dirs=cache_dirs)
    for module in options.module_import:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise ConfigError(f"--module_import={module}: {error}") from error


def _find_task(options: argparse.Namespace) -> seqio.Task | seqio.Mixture:
    """Returns the task that was asked for."""
    known = {*seqio.TaskRegistry.names(), *seqio.MixtureRegistry.names()}
    if options.task not in known:
        raise ConfigError(
            f"there is no task or mixture {options.task!r}."
            f"{near_misses(options.task, known)}"
        )
    return seqio.get_mixture_or_task(options.task)


def _split(name: str | None, provider: seqio.Task | seqio.Mixture) -> str:
    """Returns the split that was asked for; without a name "train", or the only one."""
    splits = list(provider.splits)
    if name is None:
        name = splits[0] if len(splits) == 1 else "train"
    if name not in splits:
        raise ConfigError(
            f"task {provider.name!r} has no split {name!r}; it has {', '.join(splits)}"
        )
    return name


def _codec(task: seqio.Task) -> event_codec.Codec | None:
    """Returns the codec of a task's tokenizer; None for tasks that are not MT3's."""
    found = (getattr(stage, "keywords", {}) for stage in task.preprocessors)
    return next((options["codec"] for options in found if "codec" in options), None)


def _check_fields(format_string: str, known: Sequence[str]) -> None:
    """Refuses a format string with fields that no example has.

    Raises:
      ConfigError: an unknown field, or no valid format string.
    """
    try:
        fields = [name for _, name, _, _ in string.Formatter().parse(format_string)]
    except ValueError as error:
        raise ConfigError(f"format string {format_string!r}: {error}") from error
    for name in fields:
        if name is not None and name not in known:
            raise ConfigError(
                f"format string {format_string!r}: no field {name!r}."
                f"{near_misses(name, known)}"
            )


def _decoded(
    example: Mapping[str, Any], features: Mapping[str, seqio.Feature]
) -> dict[str, Any]:
    """Returns an example, integer features decoded by their vocabularies."""
    decoded = dict(example)
    for name, feature in features.items():
        value = np.asarray(example.get(name, ()))
        if value.size and np.issubdtype(value.dtype, np.integer):
            decoded[name] = feature.vocabulary.decode(value.tolist())
    return decoded


def _text(value: Any) -> str:
    """Returns a value as text on one line, long arrays shortened."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return _readable(value)
    array = np.asarray(value)
    if array.dtype == object:
        return ", ".join(_readable(item) for item in array.reshape(-1).tolist())
    text = np.array2string(array, threshold=_MAX_VALUES, separator=", ")
    return " ".join(text.split())


def _readable(data: bytes) -> str:
    """Returns bytes as text if they are, else their number."""
    text = data.decode("utf-8", "replace")
    return text if text.isprintable() else f"<{len(data)} bytes>"


if __name__ == "__main__":
    sys.exit(main())
