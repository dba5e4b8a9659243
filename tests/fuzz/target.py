"""What is tried with damaged input, and how one input is tried."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import pathlib
import pkgutil
import random
import re
import traceback
from collections import Counter
from collections.abc import Callable, Iterator

from mt3.errors import MT3Error
from tests.fuzz import mutation

try:
    import resource
except ImportError:  # Windows has no such limits.
    resource = None

# What one input may take beyond what the process has.
MOST_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Target:
    """Something that reads what a user hands in.

    Attributes:
      name: as the command line has it.
      seeds: makes inputs to begin with in a folder, and returns their paths: files, or
        folders. The same ones at every call. Each is tried as it is, then mutated.
      run: reads one input as a program does. It may return, having asserted what can
        be said of the answer, or raise what is `expected`; all else is a failure.
      expected: the errors that are right answers to bad input.
      repair: makes checksums right in the bytes of a mutated file, else what lies
        behind them is never tried; half of the inputs are repaired. Takes any bytes.
      quick: how many inputs `make test` tries.
      printed: regular expression of what a library prints and nobody can prevent.
    """

    name: str
    seeds: Callable[[pathlib.Path], list[pathlib.Path]]
    run: Callable[[pathlib.Path], object]
    expected: tuple[type[Exception], ...] = (MT3Error,)
    repair: Callable[[bytes], bytes] | None = None
    quick: int = 20
    printed: str = r"\Z"


@dataclasses.dataclass(frozen=True)
class Result:
    """What an input gave.

    Attributes:
      answer: "read", or the name of the error's class.
      failure: what went wrong, of several lines; "" if nothing did.
    """

    answer: str
    failure: str = ""


def find_targets() -> dict[str, Target]:
    """Returns the targets of all modules `targets_*` by name, in order."""
    package = importlib.import_module("tests.fuzz")
    found = {}
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda m: m.name):
        if module.name.startswith("targets_"):
            targets = importlib.import_module(f"tests.fuzz.{module.name}").TARGETS
            found |= {target.name: target for target in targets}
    return found


def make_input(
    target: Target,
    seeds: list[pathlib.Path],
    number: int,
    seed: int,
    folder: pathlib.Path,
) -> pathlib.Path:
    """Makes an input, the same one for the same arguments.

    Args:
      target: what it is for.
      seeds: what `target.seeds` returned.
      number: of the input; those below `len(seeds)` are the seeds themselves.
      seed: of everything that is drawn.
      folder: where to put it.

    Returns:
      Its path, with the ending of the seed's name.
    """
    draw = random.Random(f"{seed} {target.name} {number}")
    source = seeds[number] if number < len(seeds) else draw.choice(seeds)
    path = folder / f"input{source.suffix}"
    mutation.copy(source, path)
    if number >= len(seeds):
        mutation.mutate_path(path, draw, draw.choice(seeds), target.repair)
    return path


def try_input(target: Target, path: pathlib.Path) -> Result:
    """Tries one input; all but right answers and expected errors are failures."""
    try:
        with limited_memory():
            target.run(path)
    except target.expected as error:
        return Result(type(error).__name__)
    except (Exception, SystemExit) as error:
        return Result(type(error).__name__, "".join(traceback.format_exception(error)))
    return Result("read")


def try_some(
    target: Target, seeds: list[pathlib.Path], folder: pathlib.Path, count: int
) -> Counter[str]:
    """Tries the first good input and some damaged ones of seed 0, in this process.

    Returns:
      How many gave each answer.

    Raises:
      AssertionError: an input is a failure; it names the input.
    """
    answers: Counter[str] = Counter()
    for number in [0, *range(len(seeds), len(seeds) + count)]:
        result = try_input(target, make_input(target, seeds, number, 0, folder))
        assert not result.failure, f"input {number} of seed 0: {result.failure}"
        answers[result.answer] += 1
    return answers


def summary(failure: str) -> str:
    """Returns what failures of one cause share: the error, and its place in `mt3`."""
    places = re.findall(r'File ".*?/(mt3/[^"]+)", line (\d+)', failure)
    place = ":".join(places[-1]) if places else "elsewhere"
    error = re.sub(r"\d+", "N", failure.strip().splitlines()[-1])
    return f"{place}: {error}"[:160]


@contextlib.contextmanager
def limited_memory(count: int = MOST_BYTES) -> Iterator[None]:
    """Lets the block take `count` bytes more than the process has, where that is known.

    What exceeds it is refused, so that even memory that is never touched counts.
    """
    status = pathlib.Path("/proc/self/statm")
    if resource is None or not status.exists():
        yield
        return
    pages = int(status.read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + count
    if soft != resource.RLIM_INFINITY:
        limit = min(limit, soft)
    resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
