"""Whether the same recording gives the same notes, and the same seed the same training.

    python benchmarks/determinism.py                       # the two examples
    python benchmarks/determinism.py music/*.wav --seconds 60 --slots 1 3 8 64
    python benchmarks/determinism.py --parts training

* notes: every recording alone, together with the others, in the opposite order, and
  from samples in memory at once; with the token decoder also with `--slots`. Each
  in processes bound to one core and to two (XLA makes as many threads), with programs
  compiled there, and on two cores with the programs compiled on one. Tokens and notes
  (also those that are streamed) must be equal, to the last bit of every time.
* training: `gin/synthetic_tiny.gin`, twice on two cores, on one core, and with its
  batches made by two workers. Parameters and metrics must be equal.

What differs is printed with how far apart the log odds of onsets and the scores of
segments (log probabilities) are. The exit code is 1 if anything differs.
"""

# check: needs an hour

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

PARTS = ("notes", "training")
ARRANGEMENTS = ("alone", "together", "backwards", "samples")
_EXAMPLES = [str(ROOT / "examples" / name) for name in ("example.flac", "piano.flac")]
# How many cores a process is bound to, and on how many its programs were compiled.
PLACES = ((1, 1), (2, 2), (2, 1))


class Heard(NamedTuple):
    """What one way of transcribing made of a recording.

    Attributes:
      tokens: ids of all segments, in order; empty without a token decoder.
      streamed: fields of the notes as segments brought them.
      notes: fields of the notes of the whole recording.
      numbers: scores of the segments, or the log odds of onsets.
    """

    tokens: list[list[int]]
    streamed: list[Any]
    notes: list[Any]
    numbers: list[float]


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", default=_EXAMPLES, help="recordings")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--model", default="default")
    parser.add_argument("--seconds", type=float, help="of each recording; default all")
    parser.add_argument("--decode", nargs="+", default=["frames", "beam1"])
    parser.add_argument("--arrangements", nargs="+", default=list(ARRANGEMENTS))
    parser.add_argument("--slots", type=int, nargs="*", default=[])
    parser.add_argument("--max-length", type=int, help="most tokens of a segment")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def ways(options: argparse.Namespace) -> Iterator[tuple[str, str, int | None, str]]:
    """Yields (name, decoding strategy, slots, arrangement); the first is compared."""
    for decode in options.decode:
        for arrangement in options.arrangements:
            yield f"{decode}, {arrangement}", decode, None, arrangement
        for slots in () if decode == "frames" else options.slots:
            yield f"{decode}, {slots} slots", decode, slots, "together"


def transcribed(
    model: Any, files: list[str], seconds: float | None, arrangement: str
) -> dict[str, Heard]:
    """Transcribes recordings in one arrangement; returns what was heard by file."""
    if arrangement == "backwards":
        files = files[::-1]
    if arrangement == "alone" and len(files) > 1:
        one_by_one = [transcribed(model, [file], seconds, "alone") for file in files]
        return {name: heard for found in one_by_one for name, heard in found.items()}

    recordings = [model.opened(file, end=seconds) for file in files]
    if arrangement == "samples":
        import soundfile

        recordings = []
        for file in files:
            samples, rate = soundfile.read(file, dtype="float32", always_2d=True)
            recordings.append(model.opened(samples, rate, end=seconds))
    heard = {file: Heard([], [], [], []) for file in files}
    segments: dict[tuple[int, int], Any] = {}
    scores: dict[tuple[int, int], float] = {}

    def listening(found: Any) -> Any:
        def listen(*arguments: Any) -> Iterator[Any]:
            for item in found(*arguments):
                segments[item[0]] = item[1]
                yield item

        return listen

    def scoring(run: Any) -> Any:
        def score(*arguments: Any) -> Iterator[Any]:
            for result in run(*arguments):
                scores[result.key] = result.score
                yield result

        return score

    model._found, before = listening(model._found), model._found
    if model._decoder is not None:
        model._decoder.run, run = scoring(model._decoder.run), model._decoder.run
    try:
        for item in model.run(recordings, beats=False):
            file = heard[files[item.file]]
            if hasattr(item, "notes"):
                file.streamed.extend(_fields(item.notes))
            elif item.error is not None:
                raise item.error
            else:
                file.notes.extend(_fields(item.transcription.notes))
    finally:
        model._found = before
        if model._decoder is not None:
            model._decoder.run = run
    for number, segment in sorted(segments):
        found = segments[number, segment]
        if found.ids is None:
            heard[files[number]].numbers.extend(found.heard.onset.ravel().tolist())
        else:
            heard[files[number]].tokens.append(found.ids.tolist())
            heard[files[number]].numbers.append(scores[number, segment])
    return heard


def _fields(notes: Any) -> list[Any]:
    from mt3.note_sequences import note_values

    return [list(note_values(note).values()) for note in notes]


def work(options: argparse.Namespace) -> None:
    """Transcribes in all ways, in this process; leaves the results in a folder."""
    import numpy as np

    from mt3 import inference
    from mt3.options import TranscribeOptions

    models: dict[tuple[str, int | None], Any] = {}
    model = None
    for number, (_, decode, slots, arrangement) in enumerate(ways(options)):
        if (decode, slots) not in models:
            chosen = TranscribeOptions(
                decode=decode, num_slots=slots, max_length=options.max_length
            )
            if model is None:
                model = inference.InferenceModel(options.model, chosen)
            models[decode, slots] = model.with_options(chosen)
        found = transcribed(
            models[decode, slots], options.files, options.seconds, arrangement
        )
        numbers = {
            str(i): np.array(found[file].numbers, np.float32)
            for i, file in enumerate(options.files)
        }
        np.savez(f"{options.worker}/{number}.npz", **numbers)
        values = [found[file]._replace(numbers=[]) for file in options.files]
        Path(f"{options.worker}/{number}.json").write_text(json.dumps(values))


def bound(cores: int, command: list[str], **environment: str) -> None:
    """Runs a command on that number of cores, with further environment variables."""
    available = sorted(os.sched_getaffinity(0))
    if cores > len(available):
        raise SystemExit(f"{cores} cores are needed; this process has {len(available)}")
    subprocess.run(
        command,
        check=True,
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "MT3_CACHE_DIR": "off", **environment},
        # XLA makes as many threads as the process may use cores.
        preexec_fn=lambda: os.sched_setaffinity(0, set(available[:cores])),
    )


def compare_notes(options: argparse.Namespace, arguments: list[str]) -> int:
    """Prints how the ways and places differ from the first; returns how many do."""
    import numpy as np

    differing = 0
    with tempfile.TemporaryDirectory() as root:
        folders = []
        for cores, compiled in PLACES:
            folder = Path(root, f"{cores} cores, programs of {compiled}")
            folder.mkdir()
            bound(
                cores,
                [sys.executable, __file__, *arguments, "--worker", str(folder)],
                JAX_COMPILATION_CACHE_DIR=f"{root}/programs{compiled}",
                JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
            )
            folders.append(folder)
        reference: dict[str, tuple[list, dict]] = {}
        for folder in folders:
            for number, (name, decode, *_) in enumerate(ways(options)):
                values = json.loads((folder / f"{number}.json").read_text())
                numbers = dict(np.load(folder / f"{number}.npz"))
                first = reference.setdefault(decode, (values, numbers))
                apart = max(
                    float(np.max(np.abs(numbers[key] - first[1][key])))
                    for key in numbers
                )
                equal = []
                for field, what in enumerate(("tokens", "streamed notes", "notes")):
                    same = sum(
                        mine[field] == other[field]
                        for mine, other in zip(values, first[0], strict=True)
                    )
                    equal.append(f"{what} {same}/{len(values)}")
                    differing += len(values) - same
                count = sum(len(value[2]) for value in values)
                print(
                    f"{folder.name:26} {name:18} {count:6} notes  equal: "
                    f"{', '.join(equal)}; numbers differ by {apart:.3g}",
                    flush=True,
                )
    return differing


def compare_training() -> int:
    """Prints how runs of training differ from the first; returns how many do."""
    from mt3 import checkpoints

    runs = {
        "2 cores": (2, []),
        "2 cores again": (2, []),
        "1 core": (1, []),
        "2 workers": (2, ["--gin.NUM_WORKERS=2"]),
    }
    first, differing = None, 0
    with tempfile.TemporaryDirectory() as root:
        for name, (cores, further) in runs.items():
            folder = Path(root, name)
            command = [sys.executable, "-m", "mt3", "train"]
            command += ["--gin_file=gin/synthetic_tiny.gin"]
            command += [f"--gin.MODEL_DIR={str(folder)!r}", *further]
            bound(cores, command, JAX_COMPILATION_CACHE_DIR=f"{root}/programs{cores}")
            found = checkpoints.load(folder).info["parameters_sha256"]
            lines = (folder / "metrics.jsonl").read_text().splitlines()
            losses = [json.loads(line).get("loss_per_token") for line in lines]
            first = first or (found, losses)
            differing += (found, losses) != first
            print(
                f"{name:14} parameters {found[:16]}, last loss {losses[-1]:.9g}, "
                f"{'equal' if (found, losses) == first else 'DIFFERENT'}",
                flush=True,
            )
    return differing


def main(arguments: list[str] | None = None) -> int:
    """Runs the parts that were asked for; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = parse_arguments(arguments)
    options.files = [os.path.abspath(file) for file in options.files]
    if options.worker:
        work(options)
        return 0
    differing = 0
    if "notes" in options.parts:
        differing += compare_notes(options, arguments)
    if "training" in options.parts:
        differing += compare_training()
    print(f"{differing} differences" if differing else "everything is equal")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
