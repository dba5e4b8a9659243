"""A full disk, a read-only one, and a checkpoint that goes while it is read."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from unittest import mock

import numpy as np

from mt3 import checkpoints as model_checkpoints
from mt3.checkpoints import storage
from mt3.errors import CheckpointError
from tests.faults import driver, killed
from tests.faults.driver import Place, Row, check

MOUNTS = "MT3_FAULTS_MOUNTS"
_FULL = "No space left on device; make room"
_READ_ONLY = "Read-only file system"
_MIDI = "examples/example.mid"
_STEPS = 6


class Disk:
    """A small file system in memory.

    Attributes:
      folder: where it is mounted.
    """

    def __init__(self, folder: pathlib.Path):
        self.folder = folder

    def remount(self, options: str) -> None:
        """Changes its size, or whether it can be written to."""
        _mount("-o", f"remount,{options}", self.folder)

    def fill(self) -> None:
        """Leaves no room."""
        with contextlib.suppress(OSError), (self.folder / "filler").open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()


@contextlib.contextmanager
def disk(place: Place, name: str, size: int) -> Iterator[Disk]:
    """Mounts a file system of some bytes, until the block ends."""
    if os.environ.get(MOUNTS) != "yes":
        raise driver.NotPossible("nothing can be mounted here (unshare --mount)")
    folder = place.below(name)
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def _mount(*arguments: object) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def _size(folder: pathlib.Path) -> int:
    return sum(len(data) for data in killed.contents(folder).values())


def full(place: Place) -> list[Row]:
    """Every command that writes, on a disk without room."""
    rows = [
        _full_transcribe(place),
        _full_train(place, "Orbax"),
        _full_train(place, "the released weights' form", "--gin.train.use_orbax=False"),
        _full_prepare(place),
    ]
    return [*rows, *_full_files(place)]


def _full_transcribe(place: Place) -> Row:
    weights = killed.write_weights(place.folder)
    recordings = place.below("recordings")
    killed.write_recordings(recordings, 4)
    reference = place.folder / "results"
    command = killed.transcribe_command(weights, recordings, reference)
    driver.run(command, place.folder).needs(0)
    wanted = killed.contents(reference)
    with disk(place, "results_full", _size(reference) // 2) as small:
        command = killed.transcribe_command(weights, recordings, small.folder)
        work = killed.Results(command, small.folder, wanted)
        ended = driver.run(command, place.folder).needs(1, _FULL, " not done")
        check(ended.output.count(_FULL) == 1, f"goes on:\n{ended.output}")
        work.check_killed(ended)
        check(0 < work.progress() < len(wanted), f"{work.progress()} results")
        small.remount("size=1g")
        work.check_whole(driver.run(command, place.folder).needs(0))
    return Row(
        "full disk, `mt3 transcribe` of a folder",
        "1",
        "exit code 1, the first file that finds no room is named, with what to do, and "
        "ends the run; those before it are whole; with room, the next run makes the "
        "missing ones",
    )


def _full_train(place: Place, name: str, *more: str) -> Row:
    part = Place(place.below("train_" + str(len(more))), place.rng)
    reference = part.below("reference")
    command = killed.train_command(reference, _STEPS, *more)
    driver.run(command, part.folder).needs(0)
    one = _size(reference / "checkpoint_1")
    with disk(part, "full", _size(reference) - 2 * one) as small:
        command = killed.train_command(small.folder, _STEPS, *more)
        work = killed.Training(small.folder, reference, *more, steps=_STEPS)
        where = f"{small.folder}: saving checkpoint_"
        said = (where, "No space left", "start the run again")
        ended = driver.run(command, part.folder).needs(1, *said)
        work.check_killed(ended)
        reached = work.progress()
        check(0 < reached < _STEPS, f"{reached} checkpoints")
        small.fill()
        ended = driver.run(command, part.folder).needs(1, "No space left")
        work.check_killed(ended)
        for file in ("model.json", "config.gin", "model-info.txt"):
            check((small.folder / file).read_bytes(), f"{file} is empty")
        (small.folder / "filler").unlink()
        small.remount("size=1g")
        work.check_whole(driver.run(command, part.folder).needs(0))
    return Row(
        f"full disk, `mt3 train` ({name}), started twice",
        "2",
        f"exit code 1; {reached} of {_STEPS} checkpoints are whole, `model.json` too; "
        "with room, the next run ends like one never interrupted, bit for bit",
    )


def _full_prepare(place: Place) -> Row:
    reference = place.folder / "data"
    driver.run(killed.prepare_command(reference), place.folder).needs(0)
    wanted = killed.contents(reference)
    with disk(place, "data_full", _size(reference) // 2) as small:
        work = killed.Shards(
            killed.prepare_command(small.folder, "--jobs", "2"), small.folder, wanted
        )
        ended = driver.run(work.command, place.folder).needs(1, _FULL, ".tfrecord-")
        work.check_killed(ended)
        reached = work.progress()
        small.remount("size=1g")
        work.check_whole(driver.run(work.command, place.folder).needs(0))
    return Row(
        "full disk, `mt3 prepare --jobs 2`",
        "1",
        f"exit code 1, the shard is named; {reached} of {len(work.wanted)} files are "
        "whole; with room, the next run makes the missing ones",
    )


def _single_files(place: Place, folder: pathlib.Path) -> dict[str, list[str]]:
    """Returns commands that write few files, by the beginning of a name."""
    weights = place.folder / "tiny.safetensors"
    return {
        "scores.json": driver.mt3("score", _MIDI, _MIDI, "-o", folder / "scores.json"),
        "notes.png": driver.mt3("score", _MIDI, _MIDI, "-o", folder / "notes.png"),
        "model.safetensors": driver.mt3(
            "models", "--convert", weights, folder / "model.safetensors"
        ),
        "example.": driver.mt3("synthesize", _MIDI, "-o", folder),
    }


def _full_files(place: Place) -> list[Row]:
    with disk(place, "files", 1 << 14) as small:
        # What these commands replace, as the others never do.
        before = {"scores.json": b"the scores", "notes.png": b"the picture"}
        for name, data in before.items():
            (small.folder / name).write_bytes(data)
        small.fill()
        for name, command in _single_files(place, small.folder).items():
            driver.run(command, place.folder).needs(1, _FULL, name)
        (small.folder / "filler").unlink()
        found = killed.contents(small.folder)
        check(found == before, f"found {found}, expected {before}")
    full = driver.run(
        ["sh", "-c", 'exec "$@" > /dev/full', "sh", *driver.mt3("score", _MIDI, _MIDI)],
        place.folder,
    )
    full.needs(1, "standard output: cannot write: No space left on device")
    return [
        Row(
            "full disk, `mt3 score -o`, `models --convert`, `synthesize`; `/dev/full`",
            "5",
            "exit code 1, the file is named; what bore its name before is still there",
        )
    ]


def read_only(place: Place) -> list[Row]:
    """Every command that writes, on a disk that cannot be written to."""
    weights = killed.write_weights(place.folder)
    recordings = place.below("recordings")
    killed.write_recordings(recordings, 2)
    with disk(place, "fixed", 1 << 28) as fixed:
        run = fixed.folder / "run"
        data = fixed.folder / "data"
        results = fixed.folder / "results"
        driver.run(killed.train_command(run, 2), place.folder).needs(0)
        driver.run(killed.prepare_command(data), place.folder).needs(0)
        finished = killed.transcribe_command(weights, recordings, results)
        driver.run(finished, place.folder).needs(0)
        before = killed.contents(fixed.folder)
        fixed.remount("ro")
        commands: Sequence[list[str]] = [
            killed.train_command(run, 4),
            killed.train_command(fixed.folder / "other", 4),
            killed.prepare_command(data, "--overwrite"),
            killed.prepare_command(fixed.folder / "other"),
            [*finished, "--overwrite"],
            killed.transcribe_command(weights, recordings, fixed.folder / "other"),
            *_single_files(place, fixed.folder).values(),
        ]
        for command in commands:
            driver.run(command, place.folder).needs(1, _READ_ONLY, str(fixed.folder))
        # Nothing is left to do.
        driver.run(finished, place.folder).needs(0)
        check(killed.contents(fixed.folder) == before, "something has changed")
    return [
        Row(
            "read-only folder, `mt3 train`, `prepare`, `transcribe`, `score -o`, "
            "`models --convert`, `synthesize`",
            str(len(commands)),
            "exit code 1, the folder or file is named before any work is done for it; "
            "where all results are there already, exit code 0",
        )
    ]


def removed(place: Place) -> list[Row]:
    """A checkpoint that is removed between two reads."""
    times = 0
    for name, more in (("orbax", []), ("t5x", ["--gin.train.use_orbax=False"])):
        run = place.below(name)
        driver.run(killed.train_command(run, 2, *more), place.folder).needs(0)
        copy = place.folder / f"{name}_copy"

        def read_once(copy=copy, run=run) -> None:
            model_checkpoints.load_t5x(copy / "checkpoint_2", with_state=True)

        for count in range(100):
            for part in ("all of it", "half its files"):
                shutil.rmtree(copy, ignore_errors=True)
                shutil.copytree(run, copy)
                reached = _remove_at(
                    count, part, copy / "checkpoint_2", read_once, place.rng
                )
                times += reached
            if not reached:
                break
        check(count >= 2, f"{name}: {count} reads")
        # The program itself: the newest one goes, the one before it is taken.
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        shutil.rmtree(copy / "checkpoint_2")
        output = driver.run(killed.train_command(copy, 2, *more), place.folder)
        output.needs(0, "training from step 1")
        check(
            killed.same_checkpoints(copy / "checkpoint_2", run / "checkpoint_2"),
            "another checkpoint_2",
        )
    return [
        Row(
            "a checkpoint is removed, or half its files, before each of the reads",
            str(times),
            "an error that names it, never other numbers; training goes on from the "
            "checkpoint before it",
        )
    ]


def _remove_at(
    count: int,
    part: str,
    checkpoint: pathlib.Path,
    read: Callable[[], None],
    rng: np.random.Generator,
) -> bool:
    """Removes a checkpoint before the read of a number; says whether it came to it."""
    calls = 0

    def before_it(function):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == count + 1:
                files = [path for path in checkpoint.rglob("*") if path.is_file()]
                if part == "all of it":
                    shutil.rmtree(checkpoint)
                for path in files:
                    if rng.random() < 0.5:
                        path.unlink(missing_ok=True)
            return function(*arguments, **options)

        return call

    with contextlib.ExitStack() as stack:
        for owner, name in (
            (storage.Folder, "read"),
            (storage.Folder, "children"),
            (storage, "list_arrays"),
            (storage, "read_arrays"),
        ):
            new = before_it(getattr(owner, name))
            stack.enter_context(mock.patch.object(owner, name, new))
        try:
            read()
        except CheckpointError as error:
            check(str(checkpoint) in str(error), f"not named: {error}")
        else:
            # Removed after the last byte was read, or never.
            return calls > count
    return True


SCENARIOS: dict[str, driver.Scenario] = {
    "full-disk": full,
    "read-only": read_only,
    "removed": removed,
}
