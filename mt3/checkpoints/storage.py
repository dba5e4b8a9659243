"""Checkpoint folders, local or in a bucket, and the arrays that lie in them.

Local folders are read through the operating system, others (`gs://bucket/path`,
`s3://bucket/path`, any URL that TensorStore knows) through TensorStore's key-value
stores. Arrays are zarr (version 2 or 3) in such a folder or in an OCDBT database.

Reading is strict where TensorStore is lenient: a chunk that is not there would be
filled with zeros in silence; here it is an error. Nothing is written by reading.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mt3 import files
from mt3.errors import CheckpointError

# How many problems an error message lists before it only counts them.
LISTED_PROBLEMS = 20

# Without these, a path into a bucket takes minutes to fail on a machine that is
# offline: TensorStore's default is 32 retries.
_CONTEXT = {
    "gcs_request_retries": {"max_retries": 3, "max_delay": "4s"},
    "s3_request_retries": {"max_retries": 3, "max_delay": "4s"},
}

# What TensorStore raises for damaged, missing and unreachable data.
STORE_ERRORS = (OSError, ValueError, RuntimeError, LookupError)

# Arrays may take this many times the bytes of their folder's files, and some more.
# gzip makes zeros 1032 times smaller, random weights hardly.
_MAX_RATIO = 1000
_SPARE_BYTES = 1 << 26

# Metadata file of an array by its TensorStore driver.
_METADATA_FILES = {"zarr": ".zarray", "zarr3": "zarr.json"}


def is_url(path: str | Path) -> bool:
    """Whether a path is a URL such as `gs://bucket/folder`."""
    return "://" in str(path)


def problem_list(problems: Iterable[str]) -> str:
    """Returns problems as indented lines, at most `LISTED_PROBLEMS` of them."""
    problems = list(problems)
    lines = "".join(f"\n  {problem}" for problem in problems[:LISTED_PROBLEMS])
    left = len(problems) - LISTED_PROBLEMS
    return lines + (f"\n  and {left} more" if left > 0 else "")


def short_reason(error: BaseException) -> str:
    """Returns a library's error message in one line, without its specification."""
    text = str(error).split("[tensorstore_spec=")[0]
    text = " ".join(text.split()) or type(error).__name__
    # TensorStore begins with what it was doing, and ends with why that failed.
    return text if len(text) <= 300 else f"{text[:145]} ... {text[-150:]}"


def _context():
    import tensorstore as ts

    return ts.Context(_CONTEXT)


def _local_store(path: str | Path) -> dict[str, str]:
    # TensorStore refuses paths with `..` in them.
    return {"driver": "file", "path": os.path.realpath(path) + "/"}


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder that can be local or in a bucket.

    Attributes:
      path: local path or URL, without a slash at its end.
    """

    path: str

    @classmethod
    def of(cls, path: str | Path | Folder) -> Folder:
        """Makes a folder of a path; `~` means the home folder."""
        if isinstance(path, Folder):
            return path
        if is_url(path):
            return cls(str(path).rstrip("/"))
        return cls(str(Path(path).expanduser()))

    def __str__(self) -> str:
        return self.path

    @property
    def remote(self) -> bool:
        """Whether the folder is behind a URL."""
        return is_url(self.path)

    @property
    def name(self) -> str:
        """The last part of the path."""
        if self.remote:
            return self.path.rsplit("/", 1)[-1]
        return Path(self.path).absolute().name

    @property
    def parent(self) -> Folder:
        """The folder that holds this one."""
        if self.remote:
            return Folder(self.path.rsplit("/", 1)[0])
        return Folder(str(Path(self.path).absolute().parent))

    def __truediv__(self, name: str) -> Folder:
        if self.remote:
            return Folder(f"{self.path}/{name}")
        return Folder(str(Path(self.path) / name))

    def kvstore(self) -> Any:
        """The folder as a TensorStore key-value store specification."""
        if self.remote:
            return self.path + "/"
        return _local_store(self.path)

    def read(self, name: str) -> bytes | None:
        """Returns the bytes of a file in the folder, None if there is no such file.

        Raises:
          CheckpointError: the file is there and cannot be read.
        """
        try:
            if not self.remote:
                file = Path(self.path) / name
                return file.read_bytes() if file.is_file() else None
            result = self._open().read(name).result()
        except STORE_ERRORS as error:
            raise CheckpointError(
                f"{self}/{name}: cannot be read: {short_reason(error)}"
            ) from error
        return bytes(result.value) if result.state == "value" else None

    def has(self, name: str) -> bool:
        """Whether a file or folder of that name is directly in the folder."""
        if not self.remote:
            return files.exists(Path(self.path) / name, CheckpointError)
        import tensorstore as ts

        # The keys from "name" to before "name0", which is what follows "name/...".
        keys = self._list(ts.KvStore.KeyRange(name, name + "0"))
        return any(key == name or key.startswith(name + "/") for key in keys)

    def children(self) -> set[str]:
        """Returns the names directly in the folder; empty if there is no folder.

        Raises:
          CheckpointError: the folder is there and cannot be listed.
        """
        if self.remote:
            return {key.split("/")[0] for key in self._list(None)}
        folder = Path(self.path)
        try:
            return {p.name for p in folder.iterdir()} if folder.is_dir() else set()
        except OSError as error:
            raise CheckpointError(
                f"{self}: cannot be listed: {short_reason(error)}"
            ) from error

    def num_bytes(self) -> int:
        """Returns the bytes of all files in a local folder and below.

        Arrays may be links to folders: those in the folder itself are followed.
        """
        inside = (os.path.join(self.path, name) for name in self.children())
        total = 0
        for top in (self.path, *filter(os.path.islink, inside)):
            for folder, _, names in os.walk(top):
                for name in names:
                    with contextlib.suppress(OSError):  # removed in the meantime
                        total += os.stat(os.path.join(folder, name)).st_size
        return total

    def _list(self, keys: Any) -> list[str]:
        """Returns the keys of the store in a range, all for None."""
        try:
            found = self._open().list(keys).result()
        except STORE_ERRORS as error:
            raise CheckpointError(
                f"{self}: cannot be listed: {short_reason(error)}"
            ) from error
        return [key.decode("utf-8", "replace") for key in found]

    def _open(self):
        import tensorstore as ts

        return ts.KvStore.open(self.kvstore(), context=_context()).result()


@dataclasses.dataclass(frozen=True)
class ArraySpec:
    """Where an array lies.

    Attributes:
      kvstore: TensorStore specification of the key-value store of its folder.
      driver: 'zarr' or 'zarr3'.
      place: how messages name it.
      shape: the shape that a table of contents promises, None if there is none.
    """

    kvstore: Any
    driver: str
    place: str
    shape: tuple[int, ...] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The array as a TensorStore specification."""
        return {
            "driver": self.driver,
            "kvstore": self.kvstore,
            # Else a chunk whose file is lost reads as zeros.
            "fill_missing_data_reads": False,
        }


def array_in_folder(
    folder: Folder, name: str, *, shape: tuple[int, ...] | None = None
) -> ArraySpec:
    """Returns the place of the zarr array in sub-folder `name`."""
    driver = "zarr"
    if not folder.remote:
        sub = Path(folder.path) / name
        if not (sub / ".zarray").exists() and (sub / "zarr.json").exists():
            driver = "zarr3"
    place = folder / name
    return ArraySpec(place.kvstore(), driver, str(place), shape)


def list_arrays(folder: Folder) -> dict[str, ArraySpec]:
    """Finds all arrays in an OCDBT database or in the sub-folders of a folder.

    Args:
      folder: an Orbax item: it holds `manifest.ocdbt` or a sub-folder per array.

    Returns:
      Dotted name -> place.

    Raises:
      CheckpointError: the folder cannot be read.
    """
    import tensorstore as ts

    ocdbt = folder.has("manifest.ocdbt")
    base = folder.kvstore()
    try:
        store = {"driver": "ocdbt", "base": base} if ocdbt else base
        keys = ts.KvStore.open(store, context=_context()).result().list().result()
    except STORE_ERRORS as error:
        raise CheckpointError(
            f"{folder}: the list of arrays cannot be read: {short_reason(error)}"
        ) from error
    arrays = {}
    for key in keys:
        name, _, file = key.decode("utf-8", "replace").rpartition("/")
        for driver, metadata_file in _METADATA_FILES.items():
            if file == metadata_file and name and "/" not in name:
                kvstore = (
                    {"driver": "ocdbt", "base": base, "path": name + "/"}
                    if ocdbt
                    else (folder / name).kvstore()
                )
                arrays[name] = ArraySpec(kvstore, driver, name)
    return arrays


def read_arrays(
    specs: Mapping[str, ArraySpec], *, source: Folder
) -> dict[str, np.ndarray]:
    """Reads arrays at the same time.

    Their sizes are checked before memory is taken (TensorStore ends the process where
    there is not enough), but not behind URLs, where the size of files is not known.

    Args:
      specs: name -> place.
      source: the checkpoint, for messages; its files hold the arrays.

    Returns:
      name -> array, of the stored type.

    Raises:
      CheckpointError: arrays are missing, damaged, not of the promised shape, or
        larger than their files can be; all of them are listed.
    """
    import tensorstore as ts

    context = _context()
    opening = {
        name: ts.open(spec.to_dict(), open=True, read=True, context=context)
        for name, spec in specs.items()
    }
    problems: dict[str, str] = {}
    reading = {}
    room = math.inf if source.remote else _MAX_RATIO * source.num_bytes() + _SPARE_BYTES
    for name, future in opening.items():
        try:
            store = future.result()
            if specs[name].shape not in (None, tuple(store.shape)):
                problems[name] = (
                    f"shape {tuple(store.shape)}, but the checkpoint's table of "
                    f"contents says {specs[name].shape}"
                )
                continue
            # A chunk is decoded whole; an array without dimensions has no chunk shape.
            chunk = store.chunk_layout.read_chunk.shape or ()
            size = store.dtype.numpy_dtype.itemsize * max(
                math.prod(store.shape), math.prod(chunk)
            )
            if size > room:
                problems[name] = (
                    f"shape {tuple(store.shape)} in chunks of {chunk}: {size} bytes, "
                    "more than can be in the checkpoint's files"
                )
                continue
            room -= size
            reading[name] = store.read()
        except STORE_ERRORS as error:
            problems[name] = _array_problem(specs[name], error)
    arrays = {}
    for name, future in reading.items():
        try:
            arrays[name] = np.asarray(future.result())
        except STORE_ERRORS as error:
            problems[name] = _array_problem(specs[name], error)
    if problems:
        listed = problem_list(f"{name}: {text}" for name, text in problems.items())
        raise CheckpointError(
            f"{source}: {len(problems)} of {len(specs)} arrays cannot be read:{listed}"
        )
    return arrays


def _array_problem(spec: ArraySpec, error: BaseException) -> str:
    """Returns what is wrong with one array, in short where it is common."""
    reason = short_reason(error)
    metadata_file = _METADATA_FILES[spec.driver]
    if reason.startswith("NOT_FOUND") and metadata_file in reason:
        return f"missing ({spec.place}/{metadata_file} is not there)"
    return reason


def write_array(folder: Path, name: str, array: np.ndarray) -> Any:
    """Starts to write an array as T5X does: zarr 2, one chunk, gzip level 1.

    Args:
      folder: the folder in which the sub-folder `name` is made.
      name: name of the sub-folder.
      array: what to write.

    Returns:
      A TensorStore future; its `result()` waits until the array is on disk.
    """
    import tensorstore as ts

    spec = {
        "driver": "zarr",
        "dtype": array.dtype.name,
        "kvstore": _local_store(folder / name),
        "metadata": array_metadata(array),
    }
    return ts.open(spec, create=True, open=False).result().write(array)


def array_metadata(array: np.ndarray) -> dict[str, Any]:
    """Returns T5X's zarr settings for an array: shape, chunks, compressor."""
    return {
        "chunks": list(array.shape),
        "compressor": {"id": "gzip", "level": 1},
        "shape": list(array.shape),
    }
