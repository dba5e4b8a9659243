"""`infer`: predictions or scores of a task's examples, in files, restartable.

The function has T5X's name and parameters, so that T5X's gin files bind it. Below
`output_dir` it leaves, for each task,

    <task>-<mode>.jsonl-00000-of-00001            the output of `write_fn`
    <task>-<mode>.jsonl-00000-of-00001.COMPLETED  a mark that it is complete
    tmp-<task>-00000-of-00001/                    chunks, until then

The work goes in chunks of `checkpoint_period` batches. A run that was stopped goes on
with the first chunk that is not complete; the data of earlier chunks are read again,
but not decoded again.

Differences from T5X's function:

1. A chunk ends where a recording ends (feature `unique_id`), so that a function that
   joins a recording's segments finds them together. T5X cuts at a fixed number, which
   splits the recording there in two.
2. Examples are prepared once, not once for the model and once for `write_fn`, and
   `write_fn` gets them without padding.
3. Chunks and results remember what made them (checkpoint, mode, data); others are
   refused, or replaced if they were not complete, instead of being mixed.
4. `checkpoint_ds_iter` has no effect: a position inside TensorFlow's pipeline cannot
   be saved where Python takes part in it.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import logging
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mt3 import files
from mt3.engine import gin_utils, utils
from mt3.engine.partitioning import PjitPartitioner
from mt3.engine.prediction import METHODS, Predictor
from mt3.engine.restoring import WeightLoader, checkpoint_paths
from mt3.engine.train_state import TrainState
from mt3.errors import ConfigError, DataError, OutputError, near_misses

_LOG = logging.getLogger("mt3")

Inferences = tuple[Sequence[Any], Mapping[str, Any]]
WriteFn = Callable[[str, Inferences, Any, str, Any], None]
MergeFn = Callable[[str, str, str, int | None], None]

# The feature that names an example's recording in tasks of this package.
RECORDING = "unique_id"


def write_inferences_to_file(
    path: str,
    inferences: Inferences,
    task_ds: Any,
    mode: str,
    vocabulary: Any = None,
) -> None:
    """Writes one JSON line for each example; `mt3.inference` has one for notes.

    A line has `inputs` (the example's `unique_id` and features that end in
    `_pretokenized`) and `prediction` (decoded tokens) or `score`, and `aux`.

    Args:
      path: the file to write; it appears whole or not at all.
      inferences: predictions or scores, and auxiliary values by name.
      task_ds: the examples.
      mode: 'predict', 'predict_with_aux' or 'score'.
      vocabulary: decodes predicted ids; None writes the ids.
    """
    outputs, aux = inferences
    examples = task_ds.as_numpy_iterator()
    with files.atomic_file(path) as stream:
        for number, example in enumerate(examples):
            line: dict[str, Any] = {
                "inputs": {
                    name: _plain(value)
                    for name, value in example.items()
                    if name == RECORDING or name.endswith("_pretokenized")
                }
            }
            value = outputs[number]
            if mode == "score":
                line["score"] = _plain(value)
            else:
                ids = np.asarray(value).tolist()
                decoded = ids if vocabulary is None else vocabulary.decode(ids)
                line["prediction"] = _plain(decoded)
            if aux:
                line["aux"] = {name: _plain(aux[name][number]) for name in aux}
            stream.write((json.dumps(line) + "\n").encode())


def _plain(value: Any) -> Any:
    """Returns a value that JSON can hold."""
    if isinstance(value, (str, bytes)):
        return value.decode() if isinstance(value, bytes) else value
    plain = np.asarray(value).tolist()
    if isinstance(plain, list):
        return [v.decode() if isinstance(v, bytes) else v for v in plain]
    return plain.decode() if isinstance(plain, bytes) else plain


def merge_chunks_to_file(
    output_dir: str, output_fname: str, tmp_dir: str, step: int | None
) -> None:
    """Joins the chunks' files in order.

    Args:
      output_dir: folder of the result.
      output_fname: its name; chunks have `-chunk00000` and so on after it.
      tmp_dir: folder of the chunks.
      step: of the checkpoint; not used.
    """
    del step
    chunks = sorted(Path(tmp_dir).glob(f"{output_fname}-chunk?????"))
    with files.atomic_file(Path(output_dir) / output_fname) as merged:
        for chunk in chunks:
            with open(chunk, "rb") as part:
                shutil.copyfileobj(part, merged)


def infer(
    *,
    mode: str,
    model: Any,
    dataset_cfg: utils.DatasetConfig,
    restore_checkpoint_cfg: utils.RestoreCheckpointConfig,
    partitioner: PjitPartitioner,
    output_dir: str,
    checkpoint_period: int,
    shard_id: int = 0,
    num_shards: int = 1,
    merge_chunked_results: bool = True,
    write_fn: WriteFn = write_inferences_to_file,
    checkpoint_ds_iter: bool = True,
    train_state_initializer_cls: Any = None,
    fallback_init_rng: int | None = None,
    merge_fn: MergeFn = merge_chunks_to_file,
    summarize_config_fn: Callable[..., None] = gin_utils.summarize_gin_config,
    verify_matching_vocabs_fn: Callable[..., None]
    | None = utils.verify_matching_vocabs,
    output_vocab_feature_name: str = "targets",
    file_extension: str = "jsonl",
    keep_aux_as_numpy: bool = False,
    use_orbax: bool = True,
) -> list[str]:
    """Runs a checkpoint over a seqio task or mixture, and writes the results.

    Args:
      mode: 'predict' (ids), 'predict_with_aux' (ids and their scores) or 'score'
        (log-likelihoods of the targets).
      model: offers the methods of `prediction.METHODS`, get_initial_variables.
      dataset_cfg: task or mixture, split, lengths, batch size.
      restore_checkpoint_cfg: which checkpoint.
      partitioner: the devices.
      output_dir: folder for the results.
      checkpoint_period: batches of a chunk.
      shard_id: which part of the data this run does.
      num_shards: parts of the data, for several runs side by side.
      merge_chunked_results: join the chunks; else they stay in `tmp-...`.
      write_fn: called as (path, (outputs, auxiliary values), examples, mode,
        vocabulary) for each chunk.
      checkpoint_ds_iter: accepted for T5X's files, unused.
      train_state_initializer_cls: accepted for T5X's files, unused.
      fallback_init_rng: accepted for T5X's files, unused.
      merge_fn: called as (output_dir, file name, folder of chunks, step).
      summarize_config_fn: called as (model_dir=, summary_writer=None, step=0).
      verify_matching_vocabs_fn: called as (DatasetConfig, model) unless None.
      output_vocab_feature_name: whose vocabulary `write_fn` gets.
      file_extension: of the results.
      keep_aux_as_numpy: accepted for T5X's files; auxiliary values are NumPy arrays.
      use_orbax: accepted for T5X's files; every form is read.

    Returns:
      The results' paths, one per task.

    Raises:
      ConfigError: no such task, split or mode; other vocabularies; not one
        checkpoint.
      CheckpointError: there is no checkpoint, or it belongs to another model.
      DataError: the data cannot be read, or has no example.
      OutputError: `output_dir` cannot be written, or holds other results.
    """
    del checkpoint_ds_iter, train_state_initializer_cls, fallback_init_rng
    del keep_aux_as_numpy, use_orbax
    _check_arguments(mode, shard_id, num_shards, checkpoint_period)
    name = dataset_cfg.mixture_or_task_name
    reader = utils.seqio_data(f"infer on {name!r}")
    with utils.output_folder(output_dir, "infer") as folder:
        if shard_id == 0:
            summarize_config_fn(model_dir=str(folder), summary_writer=None, step=0)
    if verify_matching_vocabs_fn is not None:
        verify_matching_vocabs_fn(dataset_cfg, model)
    provider = reader.get_provider(dataset_cfg)
    reader.check_readable(
        provider, dataset_cfg.split, use_cached=dataset_cfg.use_cached
    )
    paths = checkpoint_paths(restore_checkpoint_cfg)
    if len(paths) != 1:
        raise ConfigError(f"infer: {len(paths)} checkpoints, {paths}; expected one")
    examples = reader.InferenceExamples(
        dataset_cfg, model.FEATURE_CONVERTER_CLS, shard_id, num_shards
    )
    loader = WeightLoader(model, examples.specs(provider), partitioner)
    if shard_id == 0:
        with utils.output_folder(folder, "infer"):
            utils.write_model_info(folder, loader.like.params)
    state = loader.load(paths[0], restore_checkpoint_cfg.dtype)
    predictor = Predictor(
        model, partitioner, loader.shardings.params, dataset_cfg.batch_size
    )
    settings = {
        "checkpoint": paths[0],
        "step": int(state.step),
        "mode": mode,
        "split": dataset_cfg.split,
        "lengths": dict(dataset_cfg.task_feature_lengths or {}),
        "chunk": checkpoint_period * dataset_cfg.batch_size,
    }
    results = []
    for task in examples.tasks(provider):
        job = Job(
            folder=folder,
            task=task.name,
            file_name=f"{task.name}-{mode}.{file_extension}-"
            f"{shard_id:05}-of-{num_shards:05}",
            shard=f"{shard_id:05}-of-{num_shards:05}",
            settings=settings,
        )
        features = task.output_features
        if output_vocab_feature_name not in features:
            raise ConfigError(
                f"infer: task {task.name!r} has no feature "
                f"{output_vocab_feature_name!r}."
                f"{near_misses(output_vocab_feature_name, features)}"
            )
        vocabulary = features[output_vocab_feature_name].vocabulary
        if not job.done():
            _run(job, examples, task, predictor, state, write_fn, vocabulary)
            job.finish(merge_fn if merge_chunked_results else None)
        results.append(str(folder / job.file_name))
    return results


def _check_arguments(
    mode: str, shard_id: int, num_shards: int, checkpoint_period: int
) -> None:
    if mode not in METHODS:
        raise ConfigError(
            f"infer: mode {mode!r} is unknown.{near_misses(mode, METHODS)}"
        )
    if not 0 <= shard_id < num_shards:
        raise ConfigError(
            f"infer: shard_id is {shard_id}; expected 0 to {num_shards - 1}, since "
            f"num_shards is {num_shards}"
        )
    if checkpoint_period < 1:
        raise ConfigError(
            f"infer: checkpoint_period is {checkpoint_period}; expected at least 1"
        )


def _run(
    job: Job,
    examples: Any,
    task: Any,
    predictor: Predictor,
    state: TrainState,
    write_fn: WriteFn,
    vocabulary: Any,
) -> None:
    """Does the chunks of a task that are not complete."""
    mode = job.settings["mode"]
    job.start()
    started, count = time.monotonic(), 0
    # Writing (tokens to notes, say) goes on beside decoding the next chunk.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        writing: concurrent.futures.Future | None = None
        chunks = _chunks(examples.read(task), job.settings["chunk"])
        for number, chunk in enumerate(chunks):
            if job.chunk_done(number):
                _LOG.info("infer: %s, chunk %d is done already", job.task, number)
                continue
            numbered = enumerate(examples.model_features(task, chunk))
            outputs = _in_order(predictor.run(mode, state.params, numbered))
            if len(outputs[0]) != len(chunk):
                raise DataError(
                    f"infer: {job.task}, chunk {number}: {len(outputs[0])} results "
                    f"for {len(chunk)} examples"
                )
            if writing is not None:
                writing.result()
            writing = pool.submit(
                job.write_chunk,
                number,
                lambda path, outputs=outputs, chunk=chunk: write_fn(
                    path, outputs, examples.dataset(task, chunk), mode, vocabulary
                ),
            )
            count += len(chunk)
            elapsed = time.monotonic() - started
            _LOG.info(
                "infer: %s, chunk %d, %d examples, %.3g examples/s",
                job.task,
                number,
                count,
                count / elapsed,
                extra={
                    "stage": "infer",
                    "task": job.task,
                    "chunk": number,
                    "examples": count,
                    "elapsed": round(elapsed, 3),
                },
            )
        if writing is not None:
            writing.result()


def _chunks(
    examples: Iterable[Mapping[str, np.ndarray]], size: int
) -> Iterator[list[Mapping[str, np.ndarray]]]:
    """Yields lists of at least `size` examples that end with a recording."""
    chunk: list[Mapping[str, np.ndarray]] = []
    for example in examples:
        if len(chunk) >= size and not _same_recording(chunk[-1], example):
            yield chunk
            chunk = []
        chunk.append(example)
    if chunk:
        yield chunk


def _same_recording(
    one: Mapping[str, np.ndarray], other: Mapping[str, np.ndarray]
) -> bool:
    return RECORDING in one and bool(np.all(one[RECORDING] == other[RECORDING]))


def _in_order(results: Any) -> Inferences:
    """Returns (outputs, auxiliary values) in the order of the examples."""
    numbered, aux = results if isinstance(results, tuple) else (results, {})
    order = np.argsort([number for number, _ in numbered], kind="stable")
    outputs = [numbered[place][1] for place in order]
    aux = jax.tree.map(
        lambda values: [values[place] for place in order],
        aux,
        is_leaf=lambda leaf: isinstance(leaf, list),
    )
    return outputs, aux


@dataclasses.dataclass(frozen=True)
class Job:
    """The files of one task and shard."""

    folder: Path
    task: str
    file_name: str
    shard: str
    settings: Mapping[str, Any]

    @property
    def temporary(self) -> Path:
        """Folder of the chunks."""
        return self.folder / f"tmp-{self.task}-{self.shard}"

    def done(self) -> bool:
        """Whether the result is there.

        Raises:
          OutputError: a result of other settings is.
        """
        mark = self.folder / f"{self.file_name}.COMPLETED"
        if not mark.exists():
            return False
        found = _read_settings(mark)
        # T5X leaves an empty file.
        if found is not None and found != self.settings:
            changed = sorted(
                name
                for name in found.keys() | self.settings.keys()
                if found.get(name) != self.settings.get(name)
            )
            raise OutputError(
                f"infer: {self.folder / self.file_name} is a result of other settings "
                f"({', '.join(f'{n} {found.get(n)!r}' for n in changed)}); choose "
                "another output_dir, or remove it and its .COMPLETED file"
            )
        _LOG.info("infer: %s is complete already", self.file_name)
        return True

    def start(self) -> None:
        """Makes the folder of the chunks; chunks of other settings are removed."""
        with utils.output_folder(self.temporary, "infer"):
            record = self.temporary / "settings.json"
            if _read_settings(record) != self.settings:
                for path in self.temporary.iterdir():
                    path.unlink()
                files.write_text(record, json.dumps(self.settings))

    def chunk_done(self, number: int) -> bool:
        """Whether a chunk is complete."""
        path = self._chunk(number)
        return path.exists() and path.with_name(path.name + ".COMPLETED").exists()

    def write_chunk(self, number: int, write: Callable[[str], None]) -> None:
        """Writes a chunk and then its mark."""
        path = self._chunk(number)
        with utils.output_folder(self.temporary, "infer"):
            write(str(path))
            path.with_name(path.name + ".COMPLETED").touch()

    def finish(self, merge_fn: MergeFn | None) -> None:
        """Joins the chunks, if that is asked for, and marks the result."""
        if not self._chunk(0).exists():
            raise DataError(f"infer: {self.task}: not a single example to infer on")
        with utils.output_folder(self.folder, "infer"):
            if merge_fn is not None:
                step = self.settings["step"]
                merge_fn(str(self.folder), self.file_name, str(self.temporary), step)
                shutil.rmtree(self.temporary)
            mark = self.folder / f"{self.file_name}.COMPLETED"
            files.write_text(mark, json.dumps(self.settings))

    def _chunk(self, number: int) -> Path:
        return self.temporary / f"{self.file_name}-chunk{number:05}"


def _read_settings(path: Path) -> dict[str, Any] | None:
    """Returns what a file says about the results; None where it says nothing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


if __name__ == "__main__":
    from mt3.engine import launch

    raise SystemExit(launch.main(mode="infer"))
