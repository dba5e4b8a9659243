"""SIGKILL at random moments."""

from __future__ import annotations

import contextlib
import json
import pathlib
import re
import signal
import sys
import threading
import time
from collections.abc import Mapping, Set

import httpx
import jax
import numpy as np
import soundfile

from mt3 import checkpoints as model_checkpoints
from mt3.data import tfrecords
from mt3.engine import checkpoints
from tests.faults import driver
from tests.faults.driver import Ended, Place, Row, check
from tests.support import tiny_model

TRAIN_STEPS = 50
TRAIN_KILLS = 20
_SHARD, _REPORT = ".tfrecord-", "prepare-report.json"
_SLOTS = 4


def train_command(folder: pathlib.Path, steps: int, *more: str) -> list[str]:
    """Returns a tiny training run, with a checkpoint after every step."""
    settings = {
        "MODEL_DIR": repr(str(folder)),
        "TRAIN_STEPS": steps,
        "BATCH_SIZE": 2,
        "CHECKPOINT_PERIOD": 1,
        "KEEP_CHECKPOINTS": None,
        "train.train_eval_dataset_cfg": None,
        "train.stats_period": 1,
    }
    given = [f"--gin.{name}={value}" for name, value in settings.items()]
    return driver.mt3("train", "--gin_file=gin/synthetic_tiny.gin", *given, *more)


def same_checkpoints(one: pathlib.Path, other: pathlib.Path) -> bool:
    """Says whether two checkpoints are equal, bit for bit."""
    return all(
        np.array_equal(left, right)
        for left, right in zip(_arrays(one), _arrays(other), strict=True)
    )


def _arrays(path: pathlib.Path) -> list[np.ndarray]:
    saved = model_checkpoints.load_t5x(path, with_state=True)
    position = checkpoints.read_data_state(path)
    numbers = [saved.step, position["random_seed"], position["source"]["batch"]]
    return [*jax.tree.leaves((saved.params, saved.param_states)), np.array(numbers)]


def metrics(folder: pathlib.Path) -> dict[int, float]:
    """Returns the loss after each step; the last line of a step counts."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    found = map(json.loads, lines)
    return {line["step"]: line["loss"] for line in found}


class Training:
    """See `driver.Work`."""

    environment = None

    def __init__(
        self,
        folder: pathlib.Path,
        reference: pathlib.Path,
        *more: str,
        steps: int = TRAIN_STEPS,
    ):
        self._folder, self._reference = folder, reference
        self.command = train_command(folder, steps, *more)
        self._checked: set[int] = set()
        self._newest = 0

    def progress(self) -> int:
        return max(checkpoints.checkpoint_steps(self._folder), default=0)

    def check_killed(self, ended: Ended) -> None:
        self._check_resumed(ended)
        steps = set(checkpoints.checkpoint_steps(self._folder))
        check(
            self._checked <= steps, f"lost checkpoints {sorted(self._checked - steps)}"
        )
        for step in steps - self._checked:
            name = f"checkpoint_{step}"
            check(
                same_checkpoints(self._folder / name, self._reference / name),
                f"{name} differs from the uninterrupted run's",
            )
        self._checked = steps
        self._newest = max(steps, default=0)

    def check_whole(self, ended: Ended) -> None:
        self.check_killed(ended)
        found, wanted = (
            sorted(path.name for path in folder.iterdir())
            for folder in (self._folder, self._reference)
        )
        check(found == wanted, f"found {found}, expected {wanted}")
        check(
            metrics(self._folder) == metrics(self._reference),
            "metrics.jsonl differs from the uninterrupted run's",
        )
        for name in ("model.json", "model-info.txt"):
            one, other = ((f / name).read_bytes() for f in self._both())
            check(one == other, f"{name} differs")

    def _both(self) -> tuple[pathlib.Path, pathlib.Path]:
        return self._folder, self._reference

    def _check_resumed(self, ended: Ended) -> None:
        begun = re.search(r"training from step (\d+)", ended.output)
        if begun:
            check(
                int(begun[1]) == self._newest,
                f"went on at step {begun[1]}; the last checkpoint is {self._newest}",
            )


def train(place: Place) -> list[Row]:
    """`mt3 train`, both forms of checkpoints."""
    rows = []
    for name, times, more in (
        ("Orbax", TRAIN_KILLS, []),
        ("the released weights' form", 5, ["--gin.train.use_orbax=False"]),
    ):
        part = Place(place.below(f"form_{len(rows)}"), place.rng)
        reference = part.below("reference")
        command = train_command(reference, TRAIN_STEPS, *more)
        driver.run(command, part.folder).needs(0)
        kills = driver.kill_often(
            part,
            lambda folder, reference=reference, more=more: Training(
                folder, reference, *more
            ),
            times=times,
            ahead=4,
            start_seconds=8.0,
            piece_seconds=1.0,
        )
        rows.append(
            Row(
                f"SIGKILL, `mt3 train`, a checkpoint each step ({name})",
                str(kills),
                "each start went on at the newest complete checkpoint; all "
                f"{TRAIN_STEPS} checkpoints, the losses and `model.json` equal those "
                "of a run that was not killed, bit for bit; nothing else is left",
            )
        )
    return rows


def write_weights(folder: pathlib.Path) -> pathlib.Path:
    """Writes a tiny model."""
    path = folder / "tiny.safetensors"
    tiny_model.write(path)
    return path


def write_recordings(folder: pathlib.Path, number: int, seconds: float = 3.0) -> None:
    """Writes recordings of noise, in two folders."""
    rng = np.random.default_rng(0)
    for index in range(number):
        path = folder / f"{'ab'[index % 2]}" / f"{index:02d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, 0.1 * rng.standard_normal(round(16000 * seconds)), 16000)


def transcribe_command(
    weights: pathlib.Path, recordings: pathlib.Path, output: pathlib.Path, *more: str
) -> list[str]:
    """Returns the transcription of a folder into several formats."""
    return driver.mt3(
        "transcribe",
        recordings,
        "-o",
        output,
        "--format",
        "mid,json,csv,html,wav",
        "--model",
        weights,
        "--slots",
        _SLOTS,
        *more,
    )


def contents(folder: pathlib.Path) -> dict[str, bytes]:
    """Returns every file below a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


class Results:
    """Files that are written one by one, each whole; see `driver.Work`."""

    environment: Mapping[str, str] | None = None

    def __init__(
        self, command: list[str], folder: pathlib.Path, wanted: Mapping[str, bytes]
    ):
        """Takes what is to come out.

        Args:
          command: writes the files.
          folder: where to.
          wanted: what an uninterrupted run writes.
        """
        self.command, self._folder, self._wanted = command, folder, wanted
        self._stamps: dict[str, int] = {}

    def progress(self) -> int:
        return sum((self._folder / name).exists() for name in self._wanted)

    def check_killed(self, ended: Ended) -> None:
        found = contents(self._folder)
        there = self._wanted.keys() & found.keys()
        for name in there:
            check(found[name] == self._wanted[name], f"{name} is not whole")
        stamps = {
            name: (self._folder / name).stat().st_mtime_ns
            for name in there
            if self._is_finished(name, there)
        }
        for name, stamp in self._stamps.items():
            check(stamps.get(name) == stamp, f"{name} was made again, or is lost")
        self._stamps = stamps

    def _is_finished(self, name: str, there: Set[str]) -> bool:
        """Whether a file that is there is not made again."""
        return True

    def check_whole(self, ended: Ended) -> None:
        self.check_killed(ended)
        found = contents(self._folder)
        check(
            found.keys() == self._wanted.keys(),
            f"found besides: {sorted(found.keys() - self._wanted.keys())}; "
            f"missing: {sorted(self._wanted.keys() - found.keys())}",
        )


def transcribe(place: Place) -> list[Row]:
    """`mt3 transcribe` of a folder."""
    weights = write_weights(place.folder)
    recordings = place.below("recordings")
    write_recordings(recordings, 16)
    reference = place.folder / "reference"
    command = transcribe_command(weights, recordings, reference)
    driver.run(command, place.folder).needs(0)
    wanted = contents(reference)
    check(len(wanted) == 16 * 5, f"{len(wanted)} results")

    def make(folder: pathlib.Path) -> Results:
        return Results(transcribe_command(weights, recordings, folder), folder, wanted)

    kills = driver.kill_often(
        place, make, times=10, ahead=12, start_seconds=5.0, piece_seconds=0.3
    )
    return [
        Row(
            "SIGKILL, `mt3 transcribe` of a folder, 16 recordings, 5 formats",
            str(kills),
            "every result that is there is whole; finished ones are not made again; in "
            "the end the files are those of a run that was not killed, byte for byte",
        )
    ]


def prepare_command(root: pathlib.Path, *more: str) -> list[str]:
    """Returns the making of eight shards of rendered songs."""
    return driver.mt3(
        "prepare",
        "synthetic",
        *("-o", root, "--songs", 16, "--seconds", 2, "--shards", 8),
        *("--validation", 0, "--test", 0, *more),
    )


class Shards(Results):
    """What `mt3 prepare` makes; a report counts what was there before.

    Attributes:
      wanted: the shards, and what describes them.
    """

    def __init__(
        self, command: list[str], folder: pathlib.Path, wanted: Mapping[str, bytes]
    ):
        """Takes all files of an uninterrupted run."""
        self._all = wanted
        self.wanted = {name: data for name, data in wanted.items() if _SHARD in name}
        super().__init__(command, folder, self.wanted)

    def _is_finished(self, name: str, there: Set[str]) -> bool:
        # What describes a shard is written last; without it the shard is made again.
        path = pathlib.PurePath(name)
        state = path.parent / ".prepare" / f"{path.name}.json"
        return path.parent.name == ".prepare" or str(state) in there

    def check_killed(self, ended: Ended) -> None:
        super().check_killed(ended)
        for name in self._stamps:
            if not name.endswith(".json"):
                path = str(self._folder / name)
                for span in tfrecords.scan(path):
                    tfrecords.read_payload(path, span)

    def check_whole(self, ended: Ended) -> None:
        self.check_killed(ended)
        found, wanted = contents(self._folder), dict(self._all)
        for files in (found, wanted):
            report = next(name for name in files if name.endswith(_REPORT))
            counts = json.loads(files.pop(report))
            for split in counts["splits"].values():
                del split["shards"]
            files["report"] = json.dumps(counts).encode()
        different = sorted(
            name
            for name in found.keys() | wanted.keys()
            if found.get(name) != wanted.get(name)
        )
        check(not different, f"differences: {different}")


def prepare(place: Place) -> list[Row]:
    """`mt3 prepare`, in two processes."""
    reference = place.folder / "reference"
    driver.run(prepare_command(reference), place.folder).needs(0)
    wanted = contents(reference)

    def make(folder: pathlib.Path) -> Shards:
        return Shards(prepare_command(folder, "--jobs", "2"), folder, wanted)

    kills = driver.kill_often(
        place, make, times=10, ahead=6, start_seconds=6.0, piece_seconds=1.0
    )
    return [
        Row(
            "SIGKILL, `mt3 prepare synthetic --jobs 2`, 8 shards",
            str(kills),
            "every shard that is there is whole, its checksums agree; finished ones "
            "are not made again; worker processes end too; in the end all files are "
            "those of a run that was not killed",
        )
    ]


class Caching:
    """seqio's own program; see `driver.Work`."""

    def __init__(
        self, folder: pathlib.Path, root: pathlib.Path, task: str, wanted: list[bytes]
    ):
        self._folder, self._task, self._wanted = folder, task, wanted
        self.environment = {"MT3_DATA_DIR": str(root)}
        self.command = [
            str(pathlib.Path(sys.executable).with_name("seqio_cache_tasks")),
            f"--tasks={task}",
            f"--output_cache_dir={folder}",
            "--module_import=mt3.registered_tasks",
            "--pipeline_options=--runner=FnApiRunner",
            "--min_shards=2",
        ]

    def progress(self) -> int:
        return len(contents(self._folder))

    def check_killed(self, ended: Ended) -> None:
        complete = self._folder / self._task / "COMPLETED"
        if complete.exists():
            self.check_whole(ended)

    def check_whole(self, ended: Ended) -> None:
        found = cached_examples(self._folder / self._task)
        check(found == self._wanted, "the cache has other examples")


def cached_examples(folder: pathlib.Path) -> list[bytes]:
    """Returns a cached task's examples, sorted: their order is Beam's.

    Each process writes an example's features in an order of its own; here it is one.
    """
    # With TensorFlow, which no other scenario needs.
    from tensorflow.core.example import example_pb2

    found = []
    for path in folder.glob("*.tfrecord-*-of-*"):
        for span in tfrecords.scan(str(path)):
            payload = tfrecords.read_payload(str(path), span)
            example = example_pb2.Example.FromString(payload)
            found.append(example.SerializeToString(deterministic=True))
    return sorted(found)


def cache(place: Place) -> list[Row]:
    """`seqio_cache_tasks`."""
    root = place.below("data")
    # With TensorFlow, too.
    from tests.support import tiny_datasets

    splits = ("train", "validation")
    tiny_datasets.write_all(root, data_sets=["guitarset"], splits=splits, seconds=3.0)
    task = "guitarset_notes_ties_vb1_validation"
    reference = Caching(place.below("reference"), root, task, [])
    driver.run(reference.command, place.folder, reference.environment)
    wanted = cached_examples(place.folder / "reference" / task)
    check(wanted, "nothing was cached")
    kills = driver.kill_often(
        place,
        lambda folder: Caching(folder, root, task, wanted),
        times=5,
        ahead=3,
        start_seconds=20.0,
        piece_seconds=2.0,
    )
    return [
        Row(
            "SIGKILL, `seqio_cache_tasks`",
            str(kills),
            "no cache was marked as complete before it was; run again, it has the "
            "examples of a run that was not killed",
        )
    ]


@contextlib.contextmanager
def server(weights: pathlib.Path, folder: pathlib.Path, log: str):
    """Runs `mt3 serve`; yields the program and its address."""
    command = driver.mt3("serve", "--port", 0, "--model", weights)
    with driver.running(
        command, folder / log, {"TMPDIR": str(folder / "temporary")}
    ) as program:
        address = re.compile(r"^http://\S+", re.MULTILINE)
        if not program.until(lambda: bool(address.search(program.output))):
            raise driver.Failed(f"the server ended:\n{program.output}")
        yield program, address.search(program.output)[0].rstrip("/")


def serve(place: Place) -> list[Row]:
    """`mt3 serve`, killed in the midst of jobs."""
    times = 5
    weights = write_weights(place.folder)
    temporary = place.below("temporary")
    write_recordings(place.folder / "recordings", 1, seconds=30.0)
    audio = (place.folder / "recordings/a/00.wav").read_bytes()
    whole = cut = 0
    wanted = None
    for number in range(times):
        with server(weights, place.folder, f"log_{number}.txt") as (program, address):
            left = [path.name for path in temporary.iterdir()]
            check(len(left) == 1, f"folders of servers: {left}, expected this one's")
            if wanted is None:
                wanted = _ask(address, audio)
                check(isinstance(wanted, bytes), f"no result: {wanted}")
            answers: list[bytes | Exception] = []
            clients = [
                threading.Thread(target=lambda: answers.append(_ask(address, audio)))  # noqa: B023
                for _ in range(4)
            ]
            for client in clients:
                client.start()
            time.sleep(place.rng.uniform(0.2, 4.0))
            program.send(signal.SIGKILL)
            for client in clients:
                client.join()
        for answer in answers:
            check(
                answer == wanted or isinstance(answer, httpx.TransportError),
                f"a client got {answer!r:.200}",
            )
        cut += sum(isinstance(answer, Exception) for answer in answers)
        whole += sum(isinstance(answer, bytes) for answer in answers)
    with server(weights, place.folder, "log_last.txt") as (program, address):
        left = [path.name for path in temporary.iterdir()]
        check(len(left) == 1, f"folders of servers: {left}, expected this one's")
        check(_ask(address, audio) == wanted, "another result")
        program.send(signal.SIGTERM).needs(0)
    check(not list(temporary.iterdir()), "the server left its folder")
    return [
        Row(
            "SIGKILL, `mt3 serve` with 4 clients' jobs",
            str(times),
            f"{whole} clients had their whole result, {cut} a connection error, none a "
            "part; the next server deleted the recordings that were left",
        )
    ]


def _ask(address: str, audio: bytes) -> bytes | Exception:
    """Returns a transcription, or the error of the connection."""
    try:
        answer = httpx.post(
            f"{address}/transcribe",
            files={"file": ("a.wav", audio)},
            timeout=driver.TIME_LIMIT,
            trust_env=False,
        )
    except httpx.HTTPError as error:
        return error
    return answer.raise_for_status().content


SCENARIOS: dict[str, driver.Scenario] = {
    "kill-train": train,
    "kill-transcribe": transcribe,
    "kill-prepare": prepare,
    "kill-cache": cache,
    "kill-serve": serve,
}
