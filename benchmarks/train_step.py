"""A training step of the embedded engine beside T5X's: time, memory, utilisation.

Both engines train the same model (made by the gin files of each size) with the same
optimiser on the same made-up batch, from the same seed and with the same dropout. The
losses of the first steps must agree before anything is timed.

    python benchmarks/train_step.py --sizes tiny small base --batch 2

The size `default` is a step of `gin/synthetic.gin`, which T5X cannot take: encoder,
heads and their losses, augmentation included, of segments of 200 frames whatever the
arguments say. Its operations are those that XLA counts.

    python benchmarks/train_step.py --sizes default --batch 4 --targets-length 640

Each engine has a process of its own for each size, and they take turns, so that other
work on the machine meets both of them; a large float32 matrix product has turns as
well. A turn is the engine's own `Trainer.train`: from batches in the memory of the host
to metrics on the host, without a data pipeline. Columns:

    compile s     tracing and compiling the step
    step ms       median over the turns
    ours / T5X    ratio of the step times: below 1 the embedded engine is faster
    GFLOP/s       operations that the model needs (`train_engines.step_flops`) a second
    utilisation   that divided by what the matrix product reached (median of its turns)
    XLA MB        what the compiled step needs: state, batch, results, temporary arrays
    peak MB       of the device's memory where JAX tells, else of the process
    imports MB    that before there was a model; T5X imports TensorFlow

T5X is found as Python finds it (docs/t5x.md says how it is installed); where it cannot
be imported there are our rows alone. Both engines' states are in memory together.
"""

# check: needs hours

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Run as a file, its neighbours are found from the root of the source tree.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.train_engines import ENGINES, SIZES, EngineMissingError, Settings, serve

# Steps whose losses are compared, and the largest relative difference. Rounding alone
# gives some 1e-7 on a processor; TF32 on a GPU and other orders of summing more.
CHECKED_STEPS = 3
TOLERANCE = 1e-4
# A turn is as many steps as take about this long: what a call costs beside its steps,
# and the clock, must not count.
TURN_SECONDS = 0.2
MAX_STEPS_PER_TURN = 200


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--batch", type=int, default=4, help="examples of a step")
    parser.add_argument("--inputs-length", type=int, default=256, help="frames")
    parser.add_argument("--targets-length", type=int, default=1024, help="tokens")
    parser.add_argument(
        "--dtypes",
        nargs="+",
        choices=("float32", "bfloat16"),
        default=["float32"],
        help="of the computation; parameters and the matrix product are float32",
    )
    parser.add_argument(
        "--steps",
        type=int,
        default=10,
        help="turns of each engine, of one step or more",
    )
    parser.add_argument("--json", help="also write the figures here")
    return parser.parse_args(argv)


class Child:
    """A process with an engine, or the matrix product, in it."""

    def __init__(self, name: str, settings: Settings):
        """Starts it.

        Raises:
          EngineMissingError: it cannot be imported.
        """
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=serve, args=(theirs, name, settings), daemon=True
        )
        self._process.start()
        theirs.close()
        self._receive()

    def ask(self, method: str, *arguments: Any) -> Any:
        """Calls a method of what is in the process."""
        self._connection.send((method, arguments))
        return self._receive()

    def _receive(self) -> Any:
        try:
            kind, value = self._connection.recv()
        except EOFError:
            self._process.join()
            raise SystemExit(
                f"{self._name}: its process ended with status "
                f"{self._process.exitcode} (-9: most likely out of memory)"
            ) from None
        if kind == "missing":
            self._process.join()
            raise EngineMissingError(value)
        if kind == "error":
            raise SystemExit(f"{self._name}: {value}")
        return value

    def close(self) -> None:
        """Ends the process."""
        self._connection.send(None)
        self._process.join()


def relative_difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Returns the largest relative difference of two lists of losses; NaN if one is."""
    first, second = np.asarray(ours), np.asarray(theirs)
    return float(np.max(np.abs(first - second) / np.maximum(first, second)))


def check_losses(losses: dict[str, list[float]]) -> str:
    """Returns a line that says how far the engines' first losses agree.

    Raises:
      SystemExit: they do not.
    """
    shown = " ".join(f"{loss:.6f}" for loss in losses["ours"])
    line = f"losses of the first {CHECKED_STEPS} steps: {shown}"
    if "T5X" not in losses:
        return line
    difference = relative_difference(losses["ours"], losses["T5X"])
    # Written this way NaN fails as well.
    if not difference <= TOLERANCE:
        raise SystemExit(
            f"the engines do not agree, so nothing was timed: {losses} differ by "
            f"{difference:.1e}, expected at most {TOLERANCE:.0e}"
        )
    return f"{line}; T5X's differ by {difference:.1e} (at most {TOLERANCE:.0e})"


def take_turns(children: dict[str, Child], turns: int) -> dict[str, list[float]]:
    """Lets all children take turns; returns the seconds of a step in each turn."""
    steps = {}
    for name, child in children.items():
        warm = child.ask("turn", 2) / 2
        # The first of several steps may compile, which counts where steps are short.
        if warm < TURN_SECONDS:
            warm = child.ask("turn", 2) / 2
        steps[name] = min(max(round(TURN_SECONDS / warm), 1), MAX_STEPS_PER_TURN)
    times = {name: [] for name in children}
    for number in range(turns):
        # Nobody is always the first after somebody else.
        order = list(children)[:: -1 if number % 2 else 1]
        for name in order:
            seconds = children[name].ask("turn", steps[name])
            times[name].append(seconds / steps[name])
    return times


def measure(settings: Settings, product: Child, engines: list[str], turns: int):
    """Measures a size.

    Args:
      settings: what is trained.
      product: the matrix product.
      engines: names of `ENGINES`; those that cannot be imported are taken out.
      turns: turns of each engine.

    Returns:
      (one dict of figures for each engine, lines to print below them).
    """
    children, lines = {}, []
    for name in list(engines):
        try:
            children[name] = Child(name, settings)
        except EngineMissingError as error:
            engines.remove(name)
            lines.append(f"{name} cannot be imported ({error}): our rows alone")
    facts = {name: child.ask("facts") for name, child in children.items()}
    losses = {
        name: child.ask("losses", CHECKED_STEPS) for name, child in children.items()
    }
    lines.insert(0, check_losses(losses))
    times = take_turns({**children, "product": product}, turns)
    medians = {name: statistics.median(values) for name, values in times.items()}
    reached = product.ask("facts")["flops"] / medians["product"]
    rows = []
    for name, child in children.items():
        rate = facts[name]["flops"] / medians[name]
        rows.append(
            {
                "size": settings.size,
                "dtype": settings.dtype,
                "engine": name,
                **facts[name],
                "step_seconds": medians[name],
                "turns": times[name],
                "flops_per_second": rate,
                "product_flops_per_second": reached,
                "utilisation": rate / reached,
                "losses": losses[name],
                **child.ask("memory"),
            }
        )
        child.close()
    for row in rows:
        row["ratio"] = medians["ours"] / medians["T5X"] if "T5X" in medians else None
    return rows, lines


def heading() -> str:
    """Returns the table's first line."""
    return (
        f"{'size':>6} {'engine':>6} {'compile s':>9} {'step ms':>9} {'ours / T5X':>10} "
        f"{'GFLOP/s':>9} {'utilisation':>11} {'XLA MB':>8} {'peak MB':>8} "
        f"{'imports MB':>10}"
    )


def table_line(row: dict[str, Any]) -> str:
    """Returns a row of the table."""
    ratio = "" if row["ratio"] is None or row["engine"] != "ours" else row["ratio"]
    xla = "" if row["xla_bytes"] is None else f"{row['xla_bytes'] / 1e6:.0f}"
    return (
        f"{row['size']:>6} {row['engine']:>6} {row['compile_seconds']:9.1f} "
        f"{row['step_seconds'] * 1e3:9.1f} {ratio and f'{ratio:.3f}':>10} "
        f"{row['flops_per_second'] / 1e9:9.1f} {row['utilisation']:11.1%} "
        f"{xla:>8} {row['peak_bytes'] / 1e6:8.0f} {row['import_bytes'] / 1e6:10.0f}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the rows of each size."""
    options = parse_arguments(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    # Several processes share a GPU, and its statistics are to tell what was needed.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    shape = (options.batch, options.inputs_length, options.targets_length)
    product = Child("product", Settings(options.sizes[0], *shape))
    machine = product.ask("facts")
    print(
        f"{machine['devices']} ({machine['backend']}), JAX {machine['jax']}; "
        "batch {}, {} frames, {} tokens".format(*shape)
    )
    engines, rows = list(ENGINES), []
    for size, dtype in itertools.product(options.sizes, options.dtypes):
        settings = Settings(size, *shape, dtype)
        found, lines = measure(settings, product, engines, options.steps)
        rows += found
        parameters = found[0]["parameters"] / 1e6
        reached = found[0]["product_flops_per_second"] / 1e9
        lines.append(
            f"{dtype}; {parameters:.1f} million parameters, "
            f"{found[0]['flops'] / 1e9:.1f} GFLOP "
            f"a step; the matrix product: {reached:.1f} GFLOP/s"
        )
        print(heading(), *map(table_line, found), sep="\n")
        print(*(f"       {line}" for line in lines), sep="\n", flush=True)
    product.close()
    if options.json:
        text = json.dumps({"machine": machine, "rows": rows}, indent=2)
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
