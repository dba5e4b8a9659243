"""The queue of `mt3 serve`: turns, limits, faults, and what is forgotten when."""

from __future__ import annotations

import pathlib
import tempfile

import pytest

from mt3 import terminal
from mt3.errors import AudioError, StreamError
from mt3.options import TranscribeOptions
from mt3.outputs import OutputOptions
from mt3.serve import folder
from mt3.serve.limits import Limits, RefusedError
from mt3.serve.queue import MOST_RUNNING, JobQueue, Request
from mt3.serve.transcriber import Transcriber
from tests.support.serving import SlowModel, job, until

REQUEST = Request(TranscribeOptions(), OutputOptions())


class Recorded:
    """Transcribes as a model does, and notes whose segment was next.

    Attributes:
      model: that it transcribes with.
      steps: names of recordings, one for each segment.
      most_open: recordings that were in the works at once.
    """

    def __init__(self):
        self.model = SlowModel()
        self.steps: list[str] = []
        self.most_open = self._open = 0

    def __call__(self, source, options):
        self._open += 1
        self.most_open = max(self.most_open, self._open)
        try:
            for item in Transcriber(self.model)(source, options):
                self.steps.append(source.name)
                yield item
        finally:
            self._open -= 1


@pytest.fixture
def transcriber():
    return Recorded()


@pytest.fixture
def make_queue(transcriber):
    made = []

    def make(**values):
        clock = values.pop("clock", None)
        more = {"clock": clock} if clock else {}
        made.append(JobQueue(transcriber, Limits(**values), **more))
        return made[-1]

    yield make
    transcriber.model.may_go.set()
    for queue in made:
        queue.close()


def blocked(queue, transcriber):
    """Makes a client's job wait, so that the others can line up."""
    transcriber.model.may_go.clear()
    first = job(queue, REQUEST, "first", "first", 1.0)
    until(lambda: transcriber.model.began == ["first"])
    return first


def test_clients_take_turns_segment_by_segment(make_queue, transcriber):
    queue = make_queue()
    blocked(queue, transcriber)
    long = job(queue, REQUEST, "a", "long", 5.0)
    short = job(queue, REQUEST, "b", "short", 1.0)
    more = [job(queue, REQUEST, "a", f"more{number}", 1.0) for number in range(2)]
    transcriber.model.may_go.set()
    until(lambda: all(each.state == "done" for each in (long, short, *more)))
    # A segment each, and a step for the result.
    assert transcriber.steps[:6] == ["first", "long", "short", "first", "long", "short"]
    assert transcriber.model.began == ["first", "long", "short", "more0", "more1"]


def test_who_starts_next_goes_round(make_queue, transcriber):
    queue = make_queue()
    blocked(queue, transcriber)
    greedy = [job(queue, REQUEST, "a", f"a{number}", 1.0) for number in range(6)]
    others = [
        job(queue, REQUEST, f"b{number}", f"b{number}", 1.0) for number in range(5)
    ]
    assert [queue.position(each) for each in greedy] == [0, 6, 7, 8, 9, 10]
    assert [queue.position(each) for each in others] == [1, 2, 3, 4, 5]
    transcriber.model.may_go.set()
    until(lambda: all(each.state == "done" for each in greedy + others))
    began = transcriber.model.began
    assert set(began[1 : 1 + MOST_RUNNING]) == {"a0", "b0", "b1", "b2"}
    assert max(began.index(f"b{number}") for number in range(5)) < began.index("a2")
    assert began[-4:] == ["a2", "a3", "a4", "a5"]
    assert queue.position(greedy[0]) is None


def test_no_more_jobs_than_can_run_are_open(make_queue, transcriber):
    queue = make_queue()
    blocked(queue, transcriber)
    waiting = [job(queue, REQUEST, f"c{number}", "x", 3.0) for number in range(9)]
    transcriber.model.may_go.set()
    until(lambda: all(each.state == "done" for each in waiting))
    assert transcriber.most_open == MOST_RUNNING


def test_a_fault_that_nobody_reads_of_ends_its_job_alone(
    make_queue, transcriber, monkeypatch
):
    def defect(error):
        raise StreamError("standard error: its reader closed the pipe")

    monkeypatch.setattr(terminal, "defect", defect)
    queue = make_queue()
    broken = job(queue, REQUEST, "a", "fault", 3.0)
    fine = job(queue, REQUEST, "a", "fine")
    until(lambda: fine.has_ended)
    assert broken.error == "internal error (RuntimeError); please report it"


def test_a_job_is_cancelled_between_segments(make_queue, transcriber):
    queue = make_queue()
    running = blocked(queue, transcriber)
    waiting = job(queue, REQUEST, "first", "waiting")
    paths = [running.upload.path, waiting.upload.path]
    queue.remove(waiting)
    assert waiting.state == "cancelled"
    assert not paths[1].exists()
    queue.remove(running)
    assert queue.get(running.id) is None
    assert (running.state, running.shown_state) == ("running", "cancelled")
    transcriber.model.may_go.set()
    until(lambda: running.has_ended)
    assert running.state == "cancelled"
    assert transcriber.model.left == ["first"]
    assert not paths[0].exists()


def test_a_fault_ends_its_job_alone(make_queue, transcriber, capfd):
    queue = make_queue()
    broken = job(queue, REQUEST, "a", "fault", 3.0)
    until(lambda: broken.has_ended)
    assert broken.state == "failed"
    assert broken.error == "internal error (RuntimeError); please report it"
    assert "out of order" in capfd.readouterr().err
    assert len(broken.segments) == 1
    transcriber.model.fault = AudioError("fault: reading audio: found damage")
    damaged = job(queue, REQUEST, "a", "fault", 3.0)
    fine = job(queue, REQUEST, "a", "fine")
    until(lambda: fine.has_ended)
    assert damaged.error == "fault: reading audio: found damage"
    assert (fine.state, fine.num_notes) == ("done", 2)
    assert not list(queue.folder.glob("?" * 32))


def test_a_recording_that_is_longer_than_its_header_says(make_queue):
    queue = make_queue(recording_seconds=2.0)
    long = job(queue, REQUEST, "a", "long", 4.0)
    until(lambda: long.has_ended)
    assert long.state == "failed"
    assert "expected at most 0.0333333 minutes" in long.error


def test_limits_of_jobs_and_bytes(make_queue, transcriber):
    queue = make_queue(jobs=4, jobs_of_client=2, held_bytes=40, upload_bytes=20)
    blocked(queue, transcriber)
    job(queue, REQUEST, "first", "second")
    with pytest.raises(RefusedError, match="2 recordings of yours wait") as refused:
        queue.begin_upload("first")
    assert (refused.value.status, refused.value.retry_after) == (429, 10)
    large = queue.begin_upload("a")
    with pytest.raises(RefusedError, match="larger than allowed") as refused:
        queue.grow(large, 21)
    assert refused.value.status == 413
    # Two of 9 bytes wait.
    queue.grow(large, 20)
    other = queue.begin_upload("b")
    with pytest.raises(RefusedError, match="fill the space") as refused:
        queue.grow(other, 3)
    assert refused.value.status == 503
    with pytest.raises(RefusedError, match="4 recordings wait already") as refused:
        queue.begin_upload("c")
    assert refused.value.status == 503
    queue.discard(large)
    queue.end_upload(large)
    queue.grow(queue.begin_upload("c"), 20)


def test_results_are_forgotten(make_queue):
    now = [0.0]
    queue = make_queue(
        clock=lambda: now[0], keep_seconds=10.0, results=3, results_of_client=2
    )

    def done(client, name):
        now[0] += 1.0
        made = job(queue, REQUEST, client, name, 1.0)
        until(lambda: made.has_ended)
        return made

    first, second = done("a", "1"), done("a", "2")
    now[0] += 1.0
    assert queue.get(first.id) is first
    third = done("a", "3")
    # The one that nobody asked about, in place of the oldest.
    assert queue.get(second.id) is None
    now[0] += 1.0
    assert queue.get(first.id) is first
    done("b", "1")
    done("b", "2")
    assert queue.get(third.id) is None
    now[0] += 7.0
    assert queue.get(first.id) is first
    now[0] += 9.0
    assert queue.get(first.id) is first
    now[0] += 11.0
    assert queue.get(first.id) is None


def test_results_with_many_notes_are_forgotten_sooner(make_queue):
    queue = make_queue(kept_notes=5)
    jobs = []
    for number in range(3):
        jobs.append(job(queue, REQUEST, "a", str(number), 2.0))
        until(lambda: jobs[-1].has_ended)
    assert [made.num_notes for made in jobs] == [2, 2, 2]
    assert [queue.get(made.id) is made for made in jobs] == [False, True, True]


def test_closing_deletes_everything(make_queue, transcriber):
    queue = make_queue()
    running = blocked(queue, transcriber)
    waiting = job(queue, REQUEST, "b", "waiting")
    assert queue.folder.stat().st_mode & 0o777 == 0o700
    assert len(list(queue.folder.iterdir())) == 3
    assert not queue.close(seconds=0.0)
    assert waiting.state == "cancelled"
    assert not queue.folder.exists()
    transcriber.model.may_go.set()
    assert queue.close()
    assert running.state == "cancelled"


def test_what_a_killed_server_left_is_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    alive, lock = folder.private_folder()
    killed = tmp_path / "mt3-serve-killed"
    killed.mkdir()
    (killed / "lock").touch()
    (killed / "recording").write_bytes(b"private")
    others = tmp_path / "mt3-serve-of-something-else"
    others.mkdir()
    (tmp_path / "mt3-serve-linked").symlink_to(pathlib.Path(__file__).parent)
    with lock:
        _, other = folder.private_folder()
    other.close()
    assert alive.exists()
    assert others.exists()
    assert not killed.exists()
