"""The files of an inference run: lines for examples, chunks, and the joined result."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mt3.engine import utils
from mt3.errors import DataError, OutputError
from mt3.files import atomic_file

_LOG = logging.getLogger("mt3")

Inferences = tuple[Sequence[Any], Mapping[str, Any]]
WriteFn = Callable[[str, Inferences, Any, str, Any], None]
MergeFn = Callable[[str, str, str, int | None], None]

# What says which recording an example is of, in tasks of this package.
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
    with atomic_file(path) as stream:
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
    with atomic_file(Path(output_dir) / output_fname) as merged:
        for chunk in chunks:
            with open(chunk, "rb") as part:
                shutil.copyfileobj(part, merged)


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
                record.write_text(json.dumps(self.settings), encoding="utf-8")

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
            mark.write_text(json.dumps(self.settings), encoding="utf-8")

    def _chunk(self, number: int) -> Path:
        return self.temporary / f"{self.file_name}-chunk{number:05}"


def _read_settings(path: Path) -> dict[str, Any] | None:
    """Returns what a file says about the results; None where it says nothing."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
