"""Loading of any kind of checkpoint, and conversion between kinds.

`load` takes

* a single file as `save_safetensors` writes it;
* a T5X checkpoint folder as Magenta released them (msgpack and zarr), or as T5X
  writes them today (Orbax), local or behind a URL such as `gs://bucket/folder`;
* a checkpoint folder of the embedded engine (Orbax, with `model.json`);
* a folder that holds `checkpoint_N` folders: the newest is taken.

Nothing is written to what is read, and nothing in it is executed.
"""

from __future__ import annotations

import contextlib
import logging
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mt3 import files
from mt3.checkpoints import layout, orbax_folder, released, sizes, storage, t5x
from mt3.checkpoints.safetensors_file import (
    load_safetensors,
    parameters_sha256,
    save_safetensors,
)
from mt3.checkpoints.storage import Folder
from mt3.configs import ModelConfig
from mt3.errors import CheckpointError

logger = logging.getLogger(__name__)

# What safetensors calls the types that we store.
_DTYPES = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}
# Where a training run keeps the parameters of what helps it to learn.
_AUXILIARY = "auxiliary"
_UNFINISHED = re.compile(r"checkpoint_\d+\..*tmp.*|\.checkpoint_\d+\.tmp-.*")
# First bytes of files that gzip, bzip2 and xz write.
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
# gsutil and gcloud copy to such a name first.
_HALF_COPIED = "*.gstmp"


class LoadedModel(NamedTuple):
    """A model, ready to use.

    Attributes:
      params: nested dict of float32 NumPy arrays, checked against the configuration.
      config: sizes, tokens, spectrogram.
      info: `source` (the file or folder read), `format` ('safetensors', 't5x' or
        'orbax'), `step` (int or None), `num_parameters`, `dtypes` (stored types),
        `config_origin` ('recorded', 'given' or 'inferred'), `parameters_sha256` (of
        names, types, shapes and values; for a folder, values as float32, so a float32
        file made of it has the same), and what a file's provenance says.
    """

    params: dict[str, Any]
    config: ModelConfig
    info: dict[str, Any]


def load(
    path: str | Path,
    *,
    config: ModelConfig | None = None,
    num_heads: int | None = None,
) -> LoadedModel:
    """Reads a checkpoint of any kind and checks it.

    Args:
      path: file, folder or URL; see the module.
      config: the model, for checkpoints that do not record it. Left out, it is worked
        out from the parameters' shapes as `sizes.infer_config` says.
      num_heads: attention heads, for checkpoints that record neither them nor the
        model.

    Returns:
      The model.

    Raises:
      CheckpointError: there is nothing at the path or nothing of these kinds, it is
        damaged, or its parameters are not exactly those of the model; the message
        lists what is wrong.
    """
    if not storage.is_url(path):
        path = Path(path).expanduser()
        if not files.exists(path, CheckpointError):
            raise CheckpointError(f"{path}: no such file or folder")
        if path.is_file():
            return _load_file(path, config, num_heads)
    elif str(path).startswith(("http://", "https://")):
        raise CheckpointError(f"{path}: {_no_web_address(str(path))}")
    try:
        folder = find_checkpoint(path)
    except CheckpointError as error:
        if not str(path).startswith("gs://"):
            raise
        raise CheckpointError(f"{error}. {released.how_to_copy(str(path))}") from error
    is_t5x = t5x.is_t5x_folder(folder)
    try:
        read = t5x.load_t5x(folder) if is_t5x else orbax_folder.load_orbax(folder)
    except CheckpointError as error:
        unfinished = _half_copied(folder)
        if not unfinished:
            raise
        raise CheckpointError(f"{error}\n{unfinished}") from error
    origin = "given"
    if config is None:
        config = sizes.recorded_config(folder)
        origin = "recorded"
    if config is None:
        origin = "inferred"
        config = sizes.infer_config(
            read.params, folder=folder, num_heads=num_heads, source=folder
        )
    else:
        _check_heads(config, num_heads, folder)
    if _AUXILIARY in read.params:
        raise CheckpointError(
            f"{folder}: holds parameters of training aids ({_AUXILIARY!r}), as guided "
            "runs save them; expected a file exported from the run: python -c 'from "
            'mt3.engine.export import export; export("RUN_FOLDER", '
            '"model.safetensors")\''
        )
    layout.check_parameters(read.params, config, source=folder)
    info = {
        "source": str(folder),
        "format": "t5x" if is_t5x else "orbax",
        "step": read.step,
        "num_parameters": layout.num_parameters(read.params),
        "dtypes": list(read.dtypes),
        "config_origin": origin,
        "parameters_sha256": parameters_sha256(layout.flatten(read.params)),
    }
    return LoadedModel(read.params, config, info)


def _load_file(
    path: Path, config: ModelConfig | None, num_heads: int | None
) -> LoadedModel:
    if path.name in ("checkpoint", "_METADATA", "_CHECKPOINT_METADATA"):
        raise CheckpointError(
            f"{path}: a part of a checkpoint folder; expected the folder: {path.parent}"
        )
    archive = _kind_of_archive(path)
    if archive:
        raise CheckpointError(f"{path}: {archive}")
    params, recorded, header = load_safetensors(path)
    if config is not None and config != recorded:
        # The same parameters can be read in more than one way (heads, ties), and the
        # file's own word for it is the better one unless the caller insists.
        layout.check_parameters(params, config, source=path)
    chosen = config or recorded
    _check_heads(chosen, num_heads, path)
    info = header.info | {
        "source": str(path),
        "format": "safetensors",
        "step": header.info.get("step"),
        "num_parameters": header.num_parameters,
        "dtypes": [_DTYPES.get(name, name) for name in header.dtypes],
        "config_origin": "recorded" if config is None else "given",
        "parameters_sha256": header.parameters_sha256,
    }
    return LoadedModel(params, chosen, info)


def _kind_of_archive(path: Path) -> str:
    """Returns what an archive is and what was expected, "" for any other file."""
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
            if any(name.endswith("data.pkl") for name in names):
                return "PyTorch's weights, which mt3 does not read"
            return "a zip archive; expected the folder in it: unzip it first"
    except (OSError, ValueError, RuntimeError, struct.error, zipfile.BadZipFile):
        pass  # Whatever it is, it is no such archive.
    # Not unpacked to look into it: a damaged file can ask for gigabytes (xz).
    with contextlib.suppress(OSError), path.open("rb") as file:
        start = file.read(512)
        if start.startswith(_PACKED) or start[257:262] == b"ustar":
            return "a packed file; expected the folder in it: tar -xf it first"
    return ""


def _no_web_address(url: str) -> str:
    """Returns why a web address names no model, and what does."""
    address = released.bucket_address(url)
    if address is not None:
        return f"the bucket's address is {address}. {released.how_to_copy(address)}"
    return (
        "a web address, from which mt3 reads no models; download it yourself, and give "
        f"the file or the folder. See {released.PAGE}"
    )


def _half_copied(folder: Folder) -> str:
    """Says what looks like an interrupted copy in a local folder, "" if nothing."""
    if folder.remote:
        return ""
    files = sorted(Path(folder.path).rglob(_HALF_COPIED))
    if not files:
        return ""
    return (
        f"{len(files)} files are half copied ({files[0].name}): copy the folder again; "
        f"see {released.PAGE}"
    )


def _check_heads(config: ModelConfig, num_heads: int | None, source: Any) -> None:
    """Refuses a number of heads that contradicts the model's configuration."""
    recorded = layout.network_config(config, source=source).num_heads
    if num_heads is not None and num_heads != recorded:
        raise CheckpointError(
            f"{source}: num_heads={num_heads} was asked for, but the model's "
            f"configuration says {recorded}"
        )


def find_checkpoint(path: str | Path | Folder) -> Folder:
    """Returns the checkpoint folder that a path means.

    Args:
      path: a checkpoint folder, or a folder of `checkpoint_N` folders.

    Returns:
      The folder itself or its newest checkpoint; the log says which.

    Raises:
      CheckpointError: there is no checkpoint.
    """
    folder = Folder.of(path)
    if t5x.is_t5x_folder(folder):
        return folder
    item = orbax_folder.find_item(folder)
    if item is not None:
        # A path to the item inside a checkpoint means the checkpoint, whose
        # configuration lies beside the item.
        inside = item == folder and folder.name == orbax_folder.STATE_ITEM
        return folder.parent if inside else folder
    names = folder.children()
    steps = {
        int(match.group(1)): name
        for name in sorted(names)
        if (match := sizes.STEP_FOLDER.fullmatch(name))
    }
    for step in sorted(steps, reverse=True):
        candidate = folder / steps[step]
        if t5x.is_t5x_folder(candidate) or orbax_folder.find_item(candidate):
            logger.info("%s: taking the newest checkpoint, %s", folder, candidate.name)
            return candidate
        logger.warning("%s: is no complete checkpoint; passed over", candidate)
    inside = _checkpoints_inside(folder, names)
    if inside:
        raise CheckpointError(
            f"{folder}: a folder with {len(inside)} checkpoint"
            f"{'s' if len(inside) > 1 else ''} in it; expected one of "
            + ", ".join(str(folder / name) for name in inside)
        )
    if any(name.startswith("target.") for name in names):
        raise CheckpointError(
            f"{folder}: arrays of a T5X checkpoint (target.*) without its file "
            f"`{t5x.INDEX_FILE}`: the copy is not complete; copy the folder again, see "
            f"{released.PAGE}"
        )
    if any(_UNFINISHED.fullmatch(name) for name in names):
        found = "only checkpoints whose writing was not finished"
    elif names:
        found = ", ".join(sorted(names)[:8]) + (" ..." if len(names) > 8 else "")
    else:
        found = "nothing"
    raise CheckpointError(
        f"{folder}: no checkpoint here. Expected a T5X folder (with a file "
        "`checkpoint`), an Orbax folder (with `state/_METADATA`), a folder of "
        f"checkpoint_N folders, or a .safetensors file; found: {found}"
    )


def _checkpoints_inside(folder: Folder, names: set[str]) -> list[str]:
    """Returns the folders in a local folder that hold checkpoints or model files."""
    if folder.remote:
        return []
    inside = []
    for name in sorted(names):
        below = folder / name
        # `target.*` alone is a copy that is not complete, as reading it will say.
        marks = ("checkpoint_", "target.")
        if (
            name.endswith(".safetensors")
            or t5x.is_t5x_folder(below)
            or orbax_folder.find_item(below)
            or any(child.startswith(marks) for child in below.children())
        ):
            inside.append(name)
    return inside


def convert(
    source: str | Path,
    target: str | Path,
    *,
    config: ModelConfig | None = None,
    num_heads: int | None = None,
    info: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
) -> Path:
    """Rewrites a checkpoint of any kind as a single file, or as a T5X folder.

    Args:
      source: what `load` takes.
      target: a path that ends in `.safetensors`; any other is a T5X checkpoint folder
        to make (parameters and step, no optimiser state).
      config: see `load`.
      num_heads: see `load`.
      info: provenance to add to what the source records.
      dtype: storage type of the file: 'float32', 'bfloat16' or 'float16'.
      overwrite: replace a file that is there; folders are never replaced.

    Returns:
      The path written.

    Raises:
      CheckpointError: as `load`.
      OutputError: the target is there already or cannot be written.
      ConfigError: unknown storage type.
    """
    model = load(source, config=config, num_heads=num_heads)
    if Path(target).suffix != ".safetensors":
        return t5x.save_t5x(target, model.params, step=model.info["step"] or 0)
    volatile = ("format", "num_parameters", "dtypes", "config_origin")
    volatile += ("parameters_sha256",)
    provenance = {k: v for k, v in model.info.items() if k not in volatile}
    # A local path says nothing to the next reader, and may say too much.
    if not storage.is_url(provenance["source"]):
        provenance["source"] = Folder.of(provenance["source"]).name
    return save_safetensors(
        target,
        model.params,
        model.config,
        info=provenance | dict(info or {}),
        dtype=dtype,
        overwrite=overwrite,
    )
