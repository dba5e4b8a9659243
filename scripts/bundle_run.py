r"""Trains for some minutes from an unpacked bundle, and leaves what the next run needs.

    python3.12 bundle_run.py train --minutes 9 --out OUT
    python3.12 bundle_run.py train --minutes 9 --out OUT2 --resume OUT
    python3.12 bundle_run.py unpack OUT2 runs/small

Needs Python, JAX, Flax, Optax, Orbax, NumPy and SciPy, and no network; the rest is in
the bundle, beside this file. See docs/bundle.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

# Before anything that takes time.
_STARTED = time.monotonic()


def main(argv: Sequence[str] | None = None, started: float | None = None) -> int:
    """Parses arguments and runs.

    Args:
      argv: arguments; None for the process's.
      started: when the program began, on `time.monotonic`'s clock; None for now.

    Returns:
      The exit code: 1 after an error.
    """
    started = time.monotonic() if started is None else started
    argv = sys.argv[1:] if argv is None else argv
    options = _parser().parse_args(_rewrite(argv))
    from mt3.errors import MT3Error

    try:
        return options.run(options, started)
    except MT3Error as error:
        print(f"bundle_run: error: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="bundle_run.py",
        description="Trains from an unpacked bundle, in pieces.",
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_train(commands)
    unpack = commands.add_parser("unpack", help="make a run's folder from a state")
    unpack.set_defaults(run=_unpack)
    unpack.add_argument("state", type=Path, help="folder that a piece left")
    unpack.add_argument("model_dir", type=Path, help="folder to make")
    return parser


def _add_train(commands) -> None:
    parser = commands.add_parser(
        "train",
        help="train for some minutes",
        description="Further arguments --gin.NAME=VALUE change the configuration.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=_train)
    add = parser.add_argument
    add("--minutes", type=float, required=True, help="from start to end, all included")
    add("--out", type=Path, required=True, help="folder for all that is to be kept")
    add("--resume", type=Path, help="folder that the piece before left")
    add("--bundle", type=Path, default=Path(__file__).resolve().parent)
    add("--work", type=Path, help="folder for the rest (default: beside the bundle)")
    add("--seed", type=int, help="of the corpus (default: the step that it begins at)")
    add("--hours", type=float, default=40.0, help="audio to render at most")
    add("--first_hours", type=float, default=0.2, help="audio to begin training with")
    add("--clips_per_shard", type=int, default=64, help="clips rendered at a time")
    add("--render_workers", type=int, help="processes (default: one a core)")
    add("--data_workers", type=int, help="processes (default: a third of the cores)")
    add("--moments", default="auto", help="float32, bfloat16, or auto: what fits")
    add("--peak_tflops", type=float, help="of one device (default: known or measured)")
    add("--gin_file", action="append", default=[], help="after the bundle's own")
    add("--gin_bindings", action="append", default=[], metavar="NAME=VALUE")
    parser.epilog = "A state that is damaged is refused before anything is started."


def _train(options: argparse.Namespace, started: float) -> int:
    from bundle import piece

    _allow_many_files()
    bundle = options.bundle.resolve()
    work = options.work or bundle.with_name(f"{bundle.name}-work")
    return piece.Piece(
        piece.PieceOptions(
            bundle=bundle,
            out=options.out.resolve(),
            minutes=options.minutes,
            resume=options.resume and options.resume.resolve(),
            work=work.resolve(),
            seed=options.seed,
            hours=options.hours,
            first_hours=options.first_hours,
            clips_per_shard=options.clips_per_shard,
            render_workers=options.render_workers,
            data_workers=options.data_workers,
            moments=options.moments,
            peak_tflops=options.peak_tflops,
            gin_files=tuple(os.path.abspath(name) for name in options.gin_file),
            bindings=tuple(options.gin_bindings),
        ),
        started,
    ).run()


def _unpack(options: argparse.Namespace, started: float) -> int:
    del started
    from bundle import state

    step = state.unpack(options.state, options.model_dir)
    print(f"{options.model_dir}: checkpoint of step {step}")
    return 0


def _allow_many_files() -> None:
    """Every shard of a corpus stays open in every process that draws from it."""
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _rewrite(argv: Sequence[str]) -> list[str]:
    """Turns --gin.NAME=VALUE into --gin_bindings=NAME=VALUE."""
    return [
        f"--gin_bindings={arg.removeprefix('--gin.')}"
        if arg.startswith("--gin.")
        else arg
        for arg in argv
    ]


if __name__ == "__main__":
    sys.exit(main(started=_STARTED))
