"""What JAX compiles for, and where its programs are kept.

Compiled programs stay on disk, so that a second run starts at once. The logger `mt3`
is told at DEBUG of each that was found there, or was not.
"""

from __future__ import annotations

import functools
import logging
import os
import pathlib
import tempfile

import jax
from jax.experimental.compilation_cache import compilation_cache

from mt3.errors import ConfigError, check_choice

_LOG = logging.getLogger("mt3")
DEVICES = ("cpu", "gpu")
CACHE_VARIABLE = "MT3_CACHE_DIR"
"""Environment variable: the folder of compiled programs, or `off` for none."""


def cache_folder() -> pathlib.Path | None:
    """Returns where compiled programs are kept; `None` if that is switched off.

    It is `$MT3_CACHE_DIR`, else `$XDG_CACHE_HOME/mt3/xla`, else `~/.cache/mt3/xla`.
    """
    chosen = os.environ.get(CACHE_VARIABLE, "").strip()
    if chosen.lower() == "off":
        return None
    if chosen:
        return pathlib.Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    # The XDG specification has relative paths ignored.
    if base and os.path.isabs(base):
        return pathlib.Path(base) / "mt3" / "xla"
    try:
        return pathlib.Path.home() / ".cache" / "mt3" / "xla"
    except RuntimeError:  # No home folder.
        return None


def enable_compilation_cache() -> pathlib.Path | None:
    """Makes JAX keep its compiled programs on disk, if it can.

    Call it before the first compilation. A folder that JAX was already told to use
    (`JAX_COMPILATION_CACHE_DIR`) stays. Nothing happens, and nothing is raised, where
    the folder can't be written.

    Returns:
      The folder in use, or `None`.
    """
    _log_programs()
    present = jax.config.jax_compilation_cache_dir
    if present:
        return pathlib.Path(present)
    folder = cache_folder()
    if folder is None or not _writable(folder):
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # Small programs too: a run has several, and each is quick to read.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    # JAX decides at the first compilation whether there is a cache.
    compilation_cache.reset_cache()
    return folder


@functools.cache  # JAX keeps its listeners.
def _log_programs() -> None:
    """Logs which programs are read from disk and which are compiled."""
    found = {"cache_hits": "read from disk", "cache_misses": "compiled"}

    def listen(event: str, **fields: object) -> None:
        what = found.get(event.removeprefix("/jax/compilation_cache/"))
        if what is not None:
            extra = {"stage": "compile", "cached": what != "compiled"}
            _LOG.debug("a program was %s", what, extra=extra)

    jax.monitoring.register_event_listener(listen)


def _writable(folder: pathlib.Path) -> bool:
    """Makes the folder if need be, and says whether files can be made in it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def choose_device(name: str) -> None:
    """Makes JAX compute on one kind of device, in the whole process.

    Call it before anything is computed: then "cpu" leaves a GPU's memory alone. The
    environment variable `JAX_PLATFORMS` does the same for any program.

    Args:
      name: "cpu" or "gpu".

    Raises:
      ConfigError: there is no such device, or JAX can't use it.
    """
    check_choice("device", name, DEVICES)
    if name == "cpu":
        jax.config.update("jax_platforms", "cpu")
    try:
        device = jax.devices(name)[0]
    except RuntimeError as error:
        raise ConfigError(
            f"device: JAX can't use a {name.upper()} here ({error}). JAX for NVIDIA "
            "GPUs: pip install 'jax[cuda13]'; for others, and about drivers: "
            "https://docs.jax.dev/en/latest/installation.html. The environment "
            "variable JAX_PLATFORMS, where it is set, must name the device"
        ) from error
    if jax.default_backend() != name:
        jax.config.update("jax_default_device", device)
