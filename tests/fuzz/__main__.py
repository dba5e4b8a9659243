"""Tries damaged and hostile input, and prints what came of it.

    python -m tests.fuzz --minutes 30
    python -m tests.fuzz --target wav --inputs 1000 --seed 3
    python -m tests.fuzz --target wav --input build/fuzz/wav/3-812.wav

The time is divided among the targets. The same seed makes the same inputs. Failing
inputs are kept in build/fuzz, with the traceback beside each; the exit code is then 1.
"""

from __future__ import annotations

import argparse
import collections
import pathlib
import sys

from tests.fuzz.running import Runner
from tests.fuzz.target import find_targets, try_input

_KEPT = pathlib.Path("build") / "fuzz"


def main(argv: list[str] | None = None) -> int:
    """Runs the program; returns the exit code."""
    targets = find_targets()
    options = _options(list(targets), argv)
    chosen = [targets[name] for name in options.targets or targets]
    if options.input is not None:
        if len(chosen) != 1:
            raise SystemExit("--input needs one --target")
        result = try_input(chosen[0], options.input)
        print(result.failure or result.answer)
        return bool(result.failure)
    total = collections.Counter()
    print("| target | inputs | read | errors of ours | failures | slowest |")
    print("|---|---|---|---|---|---|", flush=True)
    kept = []
    for target in chosen:
        with Runner(target, options.seed, _KEPT) as runner:
            seconds = 60 * options.minutes / len(chosen)
            runner.run(options.start, seconds, options.inputs)
        found = runner.findings
        errors = ", ".join(
            f"{name} {count}"
            for name, count in found.answers.most_common()
            if name != "read"
        )
        print(
            f"| {target.name} | {found.inputs} | {found.answers['read']} "
            f"| {errors or '-'} | {found.failures.total()} "
            f"| {found.slowest[0]:.1f} s, number {found.slowest[1]} |",
            flush=True,
        )
        total["inputs"] += found.inputs
        total["failures"] += found.failures.total()
        kept += [
            (target.name, cause, count, found.kept[cause])
            for cause, count in found.failures.most_common()
        ]
    print(f"\n{total['inputs']} inputs, {total['failures']} failures")
    for name, cause, count, path in kept:
        print(f"\n{name}, {count} times: {cause}")
        print(f"  python -m tests.fuzz --target {name} --input {path}")
    return bool(total["failures"])


def _options(names: list[str], argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--minutes", type=float, default=10.0, help="for all targets (default: 10)")
    add("--inputs", type=int, help="of each target at most")
    add("--seed", type=int, default=0, help="of everything that is drawn")
    add("--start", type=int, default=0, help="number of each target's first input")
    add(
        "--target",
        dest="targets",
        action="append",
        choices=names,
        help="only this one; repeat for several",
    )
    add("--input", type=pathlib.Path, help="try this file or folder, and print how")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
