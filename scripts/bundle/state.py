"""The state of a run in a few small files, for the next piece to go on from.

A folder holds

    state.json             step, when, settings, and the list of the files
    state_<step>.part<n>   parameters, optimiser state, position in the data, metrics
    weights.safetensors    the parameters alone, to transcribe with

The parts are one compressed tar archive, cut into files below 16 MB: `index.json`,
`arrays/<n>` (each array's first bytes, then its second bytes and so on, which
compresses better), `files/<name>`. `state.json` is written last, and files that it
does not list are removed after that, so that there always is a complete set.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import shutil
import tarfile
import tempfile
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mt3.errors import CheckpointError, ConfigError, MT3Error

from .parts import PART_BYTES, Part, PartReader, PartWriter, move

FORMAT = 1
MANIFEST = "state.json"
WEIGHTS = "weights.safetensors"
MOMENTS = ("float32", "bfloat16")
# Files of a run's folder that are kept beside its newest checkpoint.
_FILES = ("model.json", "config.gin", "metrics.jsonl")
_STEM = "state_"
_LOG = logging.getLogger("mt3")


class TooLargeError(CheckpointError):
    """A state that does not fit into the files that it may have."""


def pack(
    model_dir: str | Path,
    folder: str | Path,
    *,
    moments: str = "float32",
    part_bytes: int = PART_BYTES,
    most_bytes: int | None = None,
    weights: bool = True,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes the newest checkpoint of a run, and removes what was there before.

    Args:
      model_dir: the run's folder.
      folder: where the files go; made if it does not exist.
      moments: type in which the optimiser's float32 arrays are kept. Parameters are
        kept as they are.
      part_bytes: the size of a file at most.
      most_bytes: the size of all files of the set at most.
      weights: export the parameters too, where they fit into one file.
      about: facts for `state.json`.

    Returns:
      What `state.json` holds.

    Raises:
      CheckpointError: there is no checkpoint, or it cannot be read.
      TooLargeError: it needs more than `most_bytes`.
      ConfigError: an unknown type of moments.
    """
    from mt3.engine import checkpoints

    if moments not in MOMENTS:
        raise ConfigError(f"moments are {moments!r}; expected one of {MOMENTS}")
    source = checkpoints.checkpoint_path(model_dir)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mt3_pack_") as name:
        scratch = Path(name)
        step, parts = _write_stream(
            source, Path(model_dir), scratch, moments, part_bytes
        )
        exported = (
            _export(Path(model_dir), scratch, step, part_bytes) if weights else None
        )
        total = sum(part.size for part in parts)
        if most_bytes is not None and total > most_bytes:
            hint = (
                "moments='bfloat16' makes it smaller"
                if moments == "float32"
                else "the model is too large for these files"
            )
            raise TooLargeError(
                f"{source}: packed it has {total} bytes; expected {most_bytes} at "
                f"most: {hint}"
            )
        if exported and most_bytes is not None and total + exported.size > most_bytes:
            exported = None
        manifest = {
            "format": FORMAT,
            "step": step,
            "written": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
            "moments": moments,
            "parts": [part.to_dict() for part in parts],
            "weights": exported.to_dict() if exported else None,
            **(about or {}),
        }
        _publish(scratch, folder, manifest)
    return manifest


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Reads `state.json`.

    Raises:
      CheckpointError: it is missing or of another form.
    """
    path = Path(folder) / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); expected the list of a "
            "state's files, as a piece of training writes it"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{path}: expected the list of a state of format {FORMAT}"
        )
    return manifest


def amend(folder: str | Path, about: Mapping[str, Any]) -> None:
    """Changes facts in `state.json`.

    Raises:
      CheckpointError: it is missing or of another form.
    """
    path = Path(folder) / MANIFEST
    manifest = {**read_manifest(folder), **about}
    partial = path.with_name(f"{MANIFEST}.partial")
    partial.write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def check(folder: str | Path) -> dict[str, Any]:
    """Makes sure that all files of a state are there and whole.

    Returns:
      What `state.json` holds.

    Raises:
      CheckpointError: naming the first file that is missing, cut short or changed.
    """
    manifest = read_manifest(folder)
    for part in _parts(Path(folder), manifest):
        part.check(Path(folder))
    return manifest


def unpack(folder: str | Path, model_dir: str | Path) -> int:
    """Makes a run's folder with the checkpoint of a state; returns its step.

    Raises:
      CheckpointError: a file is missing or damaged, or `model_dir` has checkpoints.
    """
    from mt3 import checkpoints as trees
    from mt3.engine import checkpoints

    folder, model_dir = Path(folder), Path(model_dir).absolute()
    manifest = check(folder)
    if found := checkpoints.checkpoint_steps(model_dir):
        raise CheckpointError(
            f"{model_dir}: expected a folder without checkpoints to unpack into; found "
            f"those of steps {found}"
        )
    model_dir.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    with _open_stream(folder, manifest) as archive:
        index: dict[str, Any] = {}
        for member in archive:
            data = archive.extractfile(member).read()
            kind, _, name = member.name.partition("/")
            if member.name == "index.json":
                index = json.loads(data)
            elif kind == "arrays":
                entry = index["arrays"][int(name)]
                arrays[entry["name"]] = _from_planes(data, entry)
            elif kind == "files" and name in _FILES:
                (model_dir / name).write_bytes(data)
    writer = checkpoints.OrbaxWriter(
        model_dir, keep=None, dtype=None, asynchronous=False
    )
    try:
        writer.save(index["step"], trees.unflatten(arrays), index["position"])
        writer.wait()
    finally:
        writer.close()
    return int(index["step"])


def _write_stream(
    source: Path, model_dir: Path, scratch: Path, moments: str, part_bytes: int
) -> tuple[int, list[Part]]:
    from mt3 import checkpoints as trees
    from mt3.engine import checkpoints

    saved = trees.load_t5x(source, with_state=True)
    flat = trees.flatten(
        {
            "target": saved.params,
            "state": {
                "step": np.asarray(saved.step, np.int32),
                "param_states": saved.param_states or {},
            },
        }
    )
    entries, planes = [], []
    for name, array in sorted(flat.items()):
        array = np.asarray(array)
        stored = array
        is_moment = name.startswith("state/") and array.ndim > 0
        if is_moment and moments == "bfloat16" and array.dtype == np.float32:
            stored = array.astype(_bfloat16())
        entries.append(
            {
                "name": name,
                "shape": list(array.shape),
                "dtype": str(array.dtype),
                "stored": str(stored.dtype),
            }
        )
        planes.append(_to_planes(stored))
    index = {
        "step": saved.step,
        "position": checkpoints.read_data_state(source),
        "arrays": entries,
    }
    writer = PartWriter(scratch, f"{_STEM}{saved.step:08d}", part_bytes)
    # Level 1: more takes long, and numbers hardly become smaller by it.
    compressor = _Compressor(writer)
    with tarfile.open(fileobj=compressor, mode="w|") as archive:
        _add(archive, "index.json", json.dumps(index).encode())
        for number, data in enumerate(planes):
            _add(archive, f"arrays/{number}", data)
        for name in _FILES:
            if (model_dir / name).is_file():
                _add(archive, f"files/{name}", (model_dir / name).read_bytes())
    compressor.finish()
    return saved.step, writer.close()


def _export(model_dir: Path, scratch: Path, step: int, part_bytes: int) -> Part | None:
    from mt3.engine import export

    path = scratch / WEIGHTS
    try:
        export.export(model_dir, path, step=step, dtype="bfloat16")
    except MT3Error as error:
        # The state matters more.
        _LOG.warning("no %s: %s", WEIGHTS, error)
        return None
    if path.stat().st_size > part_bytes:
        path.unlink()
        return None
    return Part.of(path)


def _publish(scratch: Path, folder: Path, manifest: Mapping[str, Any]) -> None:
    names = [part["name"] for part in manifest["parts"]]
    if manifest["weights"]:
        names.append(manifest["weights"]["name"])
    for name in names:
        move(scratch / name, folder / name)
    text = json.dumps(manifest, indent=1) + "\n"
    (scratch / MANIFEST).write_text(text, encoding="utf-8")
    move(scratch / MANIFEST, folder / MANIFEST)
    for path in folder.glob(f"{_STEM}*.part*"):
        if path.name not in names:
            path.unlink()
    if not manifest["weights"]:
        (folder / WEIGHTS).unlink(missing_ok=True)


def _parts(folder: Path, manifest: Mapping[str, Any]) -> list[Part]:
    try:
        parts = [Part(**entry) for entry in manifest["parts"]]
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder / MANIFEST}: damaged: its list of files cannot be used"
        ) from error
    if not parts:
        raise CheckpointError(f"{folder / MANIFEST}: damaged: it lists no files")
    return parts


@contextlib.contextmanager
def _open_stream(
    folder: Path, manifest: Mapping[str, Any]
) -> Iterator[tarfile.TarFile]:
    reader = PartReader(folder, _parts(folder, manifest))
    stream = _Decompressor(reader)
    try:
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            yield archive
    except (tarfile.TarError, zlib.error, EOFError) as error:
        raise CheckpointError(
            f"{folder / MANIFEST}: the files that it lists are whole, but what is in "
            f"them cannot be read: {error}"
        ) from error
    finally:
        reader.close()


class _Compressor:
    """What `tarfile` writes to."""

    def __init__(self, target: PartWriter):
        self._target = target
        self._zlib = zlib.compressobj(level=1)

    def write(self, data: bytes) -> int:
        self._target.write(self._zlib.compress(data))
        return len(data)

    def finish(self) -> None:
        self._target.write(self._zlib.flush())


class _Decompressor:
    """What `tarfile` reads from."""

    def __init__(self, source: PartReader):
        self._source = source
        self._zlib = zlib.decompressobj()

    def read(self, size: int) -> bytes:
        found = io.BytesIO()
        while found.tell() < size and not self._zlib.eof:
            data = self._zlib.unconsumed_tail or self._source.read(1 << 16)
            if not data:
                break
            found.write(self._zlib.decompress(data, size - found.tell()))
        return found.getvalue()


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    archive.addfile(member, io.BytesIO(data))


def _to_planes(array: np.ndarray) -> bytes:
    flat = np.frombuffer(array.tobytes(), np.uint8)
    return np.ascontiguousarray(flat.reshape(-1, array.dtype.itemsize).T).tobytes()


def _from_planes(data: bytes, entry: Mapping[str, Any]) -> np.ndarray:
    stored = _bfloat16() if entry["stored"] == "bfloat16" else np.dtype(entry["stored"])
    planes = np.frombuffer(data, np.uint8).reshape(stored.itemsize, -1)
    array = np.frombuffer(np.ascontiguousarray(planes.T).tobytes(), stored)
    return array.reshape(entry["shape"]).astype(entry["dtype"])


def _bfloat16() -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)


def pack_folder(source: Path, target: Path, most_bytes: int = PART_BYTES) -> int:
    """Packs the newest files of a folder into one archive that is not too large.

    For compiled programs: they are compressed already, and what is missing is made
    again.

    Returns:
      The number of files packed; without any, no archive is written.
    """
    if not source.is_dir():
        return 0
    files = [path for path in source.rglob("*") if path.is_file()]
    files.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    room, chosen = most_bytes - 20 * tarfile.BLOCKSIZE, []
    for path in files:
        size = path.stat().st_size + 3 * tarfile.BLOCKSIZE
        if size <= room:
            room -= size
            chosen.append(path)
    if not chosen:
        return 0
    partial = target.with_name(f"{target.name}.partial")
    with tarfile.open(partial, "w") as archive:
        for path in chosen:
            archive.add(path, str(path.relative_to(source)))
    move(partial, target)
    return len(chosen)


def unpack_folder(source: Path, target: Path) -> None:
    """Unpacks what `pack_folder` packed; a damaged archive is left alone."""
    target.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(source) as archive:
            archive.extractall(target, filter="data")
    except (OSError, tarfile.TarError):
        # An incomplete cache is worse than none.
        shutil.rmtree(target, ignore_errors=True)
