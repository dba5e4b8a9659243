"""Where a compiled JAX function spends its time, operation by operation.

JAX's profiler writes a trace of each operation that XLA runs; this adds them up by the
shapes they work on. On CPU the threads' times are added, so that the sum may be more
than the time that passed.
"""

from __future__ import annotations

import collections
import gzip
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax


class Row(NamedTuple):
    """One kind of operation.

    Attributes:
      seconds: in all.
      count: how often it ran.
      what: its kind, with the shapes of the result and of what it reads.
    """

    seconds: float
    count: int
    what: str


def profile(run: Callable[[], Any], hlo: str) -> list[Row]:
    """Runs a function once under the profiler.

    Args:
      run: calls the compiled function; what it returns is waited for.
      hlo: `compiled.as_text()` of the function.

    Returns:
      Kinds of operation, the longest first.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(run())
        (path,) = Path(folder).rglob("*.trace.json.gz")
        with gzip.open(path, "rt") as file:
            events = json.load(file)["traceEvents"]
    return add_up(events, hlo)


def add_up(events: list[dict[str, Any]], hlo: str) -> list[Row]:
    """Adds up the events of a trace that are operations of a program."""
    operations = _operations(hlo)
    seconds: collections.Counter[str] = collections.Counter()
    counts: collections.Counter[str] = collections.Counter()
    for event in events:
        what = operations.get(event.get("name", ""))
        if event.get("ph") == "X" and what is not None:
            seconds[what] += event["dur"] * 1e-6
            counts[what] += 1
    return [Row(value, counts[what], what) for what, value in seconds.most_common()]


def _operations(hlo: str) -> dict[str, str]:
    """Returns what each named operation of a program is."""
    name, shape = r"%([\w.-]+)", r"(\w+\[[\d,]*\])"
    shapes = dict(re.findall(rf"{name} = {shape}", hlo))
    found = {}
    pattern = rf"{name} = {shape}\S* (fusion|dot|custom-call|scatter|call|convolution)"
    for match in re.finditer(rf"{pattern}\(([^)]*)\)", hlo):
        operands = [part.strip().lstrip("%") for part in match[4].split(",")]
        read = [shapes.get(operand, "") for operand in operands]
        kind = re.sub(r"[.\d]+$", "", match[1])
        found[match[1]] = f"{kind} {match[2]} of {', '.join(filter(None, read[:3]))}"
    return found


def table(rows: list[Row], per: int, top: int = 15) -> str:
    """Returns lines: milliseconds and count per step, share of all, and what."""
    total = sum(row.seconds for row in rows)
    lines = [f"{'ms':>9} {'count':>6} {'share':>6}"]
    for row in rows[:top]:
        lines.append(
            f"{1000 * row.seconds / per:9.3f} {row.count / per:6.1f} "
            f"{row.seconds / total:6.1%} {row.what}"
        )
    return "\n".join(lines)
