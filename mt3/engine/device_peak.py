"""What a device can compute at most, to tell how much of it a run uses."""

from __future__ import annotations

import logging
import time
from typing import Any

import jax
import jax.numpy as jnp

from mt3.errors import ConfigError

_LOG = logging.getLogger("mt3")

# Dense bfloat16 FLOP/s by what is in the device's name; of several that fit, the
# first. From the makers' data sheets.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "A100": 312e12,
}
# Matrix products for devices that are not listed: (size, type). A processor has no
# fast bfloat16.
_MEASURED = {"cpu": (1536, jnp.float32), "other": (8192, jnp.bfloat16)}


def peak_flops(setting: float | str | None, device: Any) -> float | None:
    """Returns the peak FLOP/s of a device.

    Args:
      setting: a number; None for none; 'auto' for what `PEAKS` lists, or else what a
        large matrix product reaches.
      device: a JAX device.

    Raises:
      ConfigError: another text, or a number that is not positive.
    """
    if setting is None:
        return None
    if setting == "auto":
        kind = device.device_kind
        for name, peak in PEAKS.items():
            if name.lower() in kind.lower():
                _LOG.info("%s: peak of %.4g TFLOP/s (listed)", kind, peak / 1e12)
                return peak
        peak = measure(device)
        _LOG.info("%s: peak of %.4g TFLOP/s (measured)", kind, peak / 1e12)
        return peak
    if isinstance(setting, int | float) and setting > 0:
        return float(setting)
    raise ConfigError(
        f"trainer: peak_flops is {setting!r}; expected a positive number, 'auto' or "
        "None"
    )


def measure(device: Any, *, tries: int = 5) -> float:
    """Returns the FLOP/s that the best of some large matrix products reaches."""
    size, dtype = _MEASURED.get(device.platform, _MEASURED["other"])
    matrix = jax.device_put(jnp.ones((size, size), dtype), device)
    product = jax.jit(jnp.dot)
    product(matrix, matrix).block_until_ready()
    best = float("inf")
    for _ in range(tries):
        started = time.monotonic()
        product(matrix, matrix).block_until_ready()
        best = min(best, time.monotonic() - started)
    return 2.0 * size**3 / best
