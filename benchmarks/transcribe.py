"""Speed of encoder, decoder and whole, against a plain T5X-style decoder.

    python benchmarks/transcribe.py                    # everything below
    python benchmarks/transcribe.py forced --tokens 192 1024
    python benchmarks/transcribe.py slots precision startup profile check
    python benchmarks/transcribe.py default --threads 1 2      # parts come first

* forced: eight segments (16.4 s) through a network of the `mt3` size with random
  weights, each with a given number of tokens; and segments that end at different
  lengths, as music has them. Both sides choose the tokens (one-beam search); only
  where a segment ends is forced. They must choose the same.
* slots: the same network by how many segments are decoded at once.
* precision: float32 and bfloat16, in matrix products, in the same network, and with
  the weights in the package, whose notes are scored.
* default: the weights in the package on `examples/example.flac`, repeated: from the
  frames alone, and with the token decoder by slots; and one-beam search alone against
  the plain decoder.
* startup: a fresh `mt3 transcribe`, from its start to the first note and to the end.
* profile: where the time of a decoding step and of the encoder goes.
* check: tokens equal to the plain decoder's, for the default weights on the example
  and for the golden model on golden inputs.

Sides take turns within a round, and a ratio is that of the medians. `--threads 1 2`
runs all of it in a process bound to that many cores. With T5X on the path the plain
step also runs in T5X's own beam search; `--torch-python` names a Python with mt3-infer,
whose PyTorch port of the network is then timed too.
"""

# check: needs hours

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

PARTS = ("forced", "slots", "precision", "default", "startup", "profile", "check")


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(PARTS)}; all")
    parser.add_argument("--tokens", type=int, nargs="+", default=[192, 1024])
    parser.add_argument(
        "--music",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="segments that end at different lengths, too",
    )
    parser.add_argument("--segments", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, nargs="+", default=[4, 8, 16, 32])
    parser.add_argument("--threads", type=int, nargs="+", help="cores to be bound to")
    parser.add_argument("--torch-python", help="a Python that has mt3-infer")
    parser.add_argument("--json", help="also write the figures here")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.parts) - set(PARTS))
    if unknown:
        parser.error(f"unknown parts {', '.join(unknown)}; known: {', '.join(PARTS)}")
    options.parts = options.parts or list(PARTS)
    return options


def run_bound(options: argparse.Namespace, arguments: list[str]) -> int:
    """Runs this program once for each number of threads, on that number of cores."""
    cores = sorted(os.sched_getaffinity(0))
    at = arguments.index("--threads")
    rest = arguments[:at] + arguments[at + 1 + len(options.threads) :]
    for threads in options.threads:
        if not 1 <= threads <= len(cores):
            raise SystemExit(f"--threads {threads}: this process has {len(cores)}")
        print(f"\n# {threads} thread{'s' * (threads > 1)}", flush=True)
        chosen = set(cores[:threads])
        command = [sys.executable, __file__, *rest]
        # XLA makes as many threads as the process may use cores.
        subprocess.run(
            command, check=True, preexec_fn=lambda c=chosen: os.sched_setaffinity(0, c)
        )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts that were asked for."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    if options.threads:
        return run_bound(options, arguments)
    # JAX counts the cores when it is imported.
    from benchmarks import transcribe_parts

    figures = transcribe_parts.run(options)
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
