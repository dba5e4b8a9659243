"""Two runs in one folder, a clock that runs backwards, Ctrl-C and SIGTERM."""

from __future__ import annotations

import os
import pathlib
import signal
import time
from collections.abc import Callable, Mapping

from tests.faults import driver, killed
from tests.faults.driver import Ended, Place, Row, Work, check

_STEPS = 10
_BACKWARDS = """
import time
now, begin = time.time, time.time()
# It was set back by a day, and runs backwards.
time.time = lambda: 2 * begin - now() - 86400
"""
_TEN_YEARS = 10 * 365 * 86400


def works(place: Place) -> dict[str, Callable[[pathlib.Path], Work]]:
    """Returns what makes each kind of work in a folder; runs the references."""
    weights = killed.write_weights(place.folder)
    recordings = place.below("recordings")
    killed.write_recordings(recordings, 8)
    trained, transcribed, prepared = (
        place.folder / f"reference_{name}" for name in ("train", "results", "data")
    )
    for command in (
        killed.train_command(trained, _STEPS),
        killed.transcribe_command(weights, recordings, transcribed),
        killed.prepare_command(prepared),
    ):
        driver.run(command, place.folder).needs(0)
    results, shards = killed.contents(transcribed), killed.contents(prepared)
    return {
        "train": lambda folder: killed.Training(folder, trained, steps=_STEPS),
        "transcribe": lambda folder: killed.Results(
            killed.transcribe_command(weights, recordings, folder), folder, results
        ),
        "prepare": lambda folder: killed.Shards(
            killed.prepare_command(folder, "--jobs", "2"), folder, shards
        ),
    }


def _until_begun(
    work: Work, log: pathlib.Path, environment: Mapping[str, str], then: Callable
) -> Ended:
    """Runs a work; calls `then` with the program when a piece is finished."""
    with driver.running(work.command, log, environment) as program:
        begun = program.until(lambda: work.progress() > 0)
        check(begun, f"it ended before its first piece:\n{program.output}")
        then(program)
        return program.wait()


def two_runs(place: Place) -> list[Row]:
    """The same command twice at a time."""
    for name, make in works(place).items():
        folder = place.below(name)
        work = make(folder)

        def second(program, name=name, work=work) -> None:
            if name == "transcribe":
                driver.run(work.command, place.folder).needs(0)
                return
            # It must not be through before the other one has begun.
            program.process.send_signal(signal.SIGSTOP)
            other = driver.run(work.command, place.folder)
            program.process.send_signal(signal.SIGCONT)
            other.needs(1, f"{name}: ", "another run is writing to this folder")

        log = place.folder / f"{name}.txt"
        work.check_whole(_until_begun(work, log, {}, second).needs(0))
    return [
        Row(
            "two runs at a time in one folder, `mt3 train`, `prepare`, `transcribe`",
            "3",
            "training and preparing: the second ends with exit code 1 and says why, "
            "the first is not disturbed; transcribing: both end well, each file is "
            "whole",
        )
    ]


def clock(place: Place) -> list[Row]:
    """Files from the future, and a clock that goes backwards."""
    (place.below("site") / "sitecustomize.py").write_text(_BACKWARDS)
    paths = [str(place.folder / "site"), os.getcwd()]
    environment = {"PYTHONPATH": os.pathsep.join(paths)}
    for name, make in works(place).items():
        folder = place.below(name)
        work = make(folder)
        ended = _until_begun(
            work,
            place.folder / f"{name}.txt",
            {},
            lambda program: program.send(signal.SIGKILL),
        )
        future = time.time() + _TEN_YEARS
        for path in [*folder.rglob("*"), *(place.folder / "recordings").rglob("*")]:
            os.utime(path, (future, future))
        work.check_killed(ended)
        ended = driver.run(work.command, place.folder, environment).needs(0)
        work.check_whole(ended)
    return [
        Row(
            "the clock is set back and runs backwards, files are ten years ahead; "
            "`mt3 train`, `prepare`, `transcribe`, killed before",
            "3",
            "each goes on where it stopped; results as ever",
        )
    ]


def signals(place: Place) -> list[Row]:
    """Ctrl-C and SIGTERM."""
    says = {
        signal.SIGINT: (130, "mt3: interrupted; what was finished stays"),
        signal.SIGTERM: (143, "mt3: told to end (SIGTERM); what was finished stays"),
    }
    made = works(place)
    for number, (code, message) in says.items():
        for name, make in made.items():
            work = make(place.below(f"{name}_{number.name}"))
            ended = _until_begun(
                work,
                place.folder / f"{name}_{number.name}.txt",
                {},
                lambda program, number=number: program.send(number),
            )
            if name == "train":
                ended.needs(
                    0, f"stopped at step {work.progress()}: received {number.name}"
                )
            else:
                ended.needs(code, message)
            work.check_killed(ended)
            work.check_whole(driver.run(work.command, place.folder).needs(0))
    weights = place.folder / "tiny.safetensors"
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 0)):
        with killed.server(weights, place.folder, "server.txt") as (program, _):
            place.below("temporary")
            program.send(number).needs(code)
    check(not list((place.folder / "temporary").iterdir()), "the server left files")
    return [
        Row(
            "Ctrl-C and SIGTERM, `mt3 transcribe`, `prepare`, `train`, `serve`",
            "8",
            "exit codes 130 and 143 and one line; training writes a checkpoint and "
            "ends with 0, a server told to end with 0; nothing is left half-written, "
            "the next run goes on",
        )
    ]


SCENARIOS: dict[str, driver.Scenario] = {
    "two-runs": two_runs,
    "clock": clock,
    "signals": signals,
}
