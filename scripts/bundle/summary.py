"""What a piece of training did, from its metrics."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def summarize(metrics_file: Path, since: float) -> dict[str, Any]:
    """Summarises the lines of `metrics.jsonl` that were written since a moment.

    Args:
      metrics_file: of the run.
      since: seconds since 1970.

    Returns:
      `first_loss` and `last_loss` per token, and medians over the reports of
      `steps_per_second`, `examples_per_second`, `flops_per_second`, `mfu` and
      `data_share`. Medians, because reports that fall into the compilation of
      another shape of batch say little; `data_wait_seconds` is the sum. What was not
      reported is not there.
    """
    lines = []
    if metrics_file.is_file():
        for text in metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                line = json.loads(text)
            except ValueError:
                continue
            if line.get("split") == "train" and line.get("time", 0.0) >= since:
                lines.append(line)
    result: dict[str, Any] = {"reports": len(lines)}
    losses = [line["loss_per_token"] for line in lines if line.get("loss_per_token")]
    if losses:
        result |= {"first_loss": losses[0], "last_loss": losses[-1]}
    for name in (
        "steps_per_second",
        "examples_per_second",
        "flops_per_second",
        "mfu",
        "data_share",
    ):
        values = [line[name] for line in lines if line.get(name) is not None]
        if values:
            result[name] = statistics.median(values)
    waits = [line.get("data_wait_seconds") or 0.0 for line in lines]
    result["data_wait_seconds"] = sum(waits)
    return result


def describe(piece: Mapping[str, Any]) -> list[str]:
    """Returns a piece's summary as lines to print."""
    lines = [
        f"steps {piece['first_step']} to {piece['last_step']} in "
        f"{piece['seconds']:.0f} s: {piece['setup_seconds']:.0f} s until training "
        f"began, {piece['saving_seconds']:.0f} s from its end"
    ]
    if "steps_per_second" in piece:
        lines.append(
            f"throughput: {piece['examples_per_second']:.4g} examples/s, "
            f"{piece['steps_per_second']:.4g} steps/s (median of "
            f"{piece['reports']} reports)"
        )
    if "mfu" in piece:
        lines.append(
            f"model FLOP utilisation: {piece['mfu']:.2%}, "
            f"{piece['flops_per_second'] / 1e12:.4g} TFLOP/s"
        )
    if "data_share" in piece:
        lines.append(
            f"data: {piece['data_share']:.1%} of the time waiting for batches, "
            f"{piece['data_wait_seconds']:.0f} s in all"
        )
    if "first_loss" in piece:
        lines.append(
            f"loss per token: {piece['first_loss']:.4f} at first, "
            f"{piece['last_loss']:.4f} at last"
        )
    return lines
