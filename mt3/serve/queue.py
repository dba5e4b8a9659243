"""The queue of recordings: one model, one thread, clients in turn.

Each client, an address, has a line of its own. One job of each of up to `MOST_RUNNING`
clients is running; these take turns segment by segment, so that an hour of one client
does not keep a minute of another waiting. Who is next to run goes round, too.

Nothing is kept: a recording lies in a private folder until it is transcribed, a result
in memory until it is some minutes old, and neither survives the queue.

Jobs are changed by the queue's thread and read by others: what they read is replaced in
one step, or only grows.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import json
import pathlib
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from mt3 import terminal
from mt3.audio.reading import AudioSource
from mt3.errors import AudioError, MT3Error, StreamError
from mt3.inference import FileResult, SegmentNotes
from mt3.options import TranscribeOptions
from mt3.outputs import OutputOptions, Transcription
from mt3.outputs.transcription import TIME_DECIMALS, note_to_dict
from mt3.serve.folder import private_folder
from mt3.serve.limits import Limits, RefusedError, internal_error, too_large, too_long

MOST_RUNNING = 4
QUEUED, RUNNING = "queued", "running"
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
# How long those wait who are refused, if the queue cannot tell, in seconds.
_RETRY_SECONDS = 10


@dataclasses.dataclass(frozen=True)
class Request:
    """How a recording is to be transcribed and written.

    Attributes:
      transcribe: how to transcribe.
      output: settings of the formats.
      start: where the part to transcribe begins, seconds.
      end: where it ends; None for the recording's end.
    """

    transcribe: TranscribeOptions
    output: OutputOptions
    start: float = 0.0
    end: float | None = None


class Upload:
    """A recording on its way in, or waiting to be transcribed.

    Attributes:
      client: address of the one who sends it.
      path: where it lies.
      size: bytes so far.
    """

    def __init__(self, client: str, path: pathlib.Path):
        self.client = client
        self.path = path
        self.size = 0


class Job:
    """A recording to transcribe, and what has come of it.

    Attributes:
      id: unguessable; who knows it may read the result.
      name: of the recording, for people.
      client: address of the one who sent it.
      state: as the queue has it, see `shown_state`.
      seconds_done: transcribed so far.
      seconds_total: length of the part to transcribe; None if not known yet.
      num_notes: found so far.
      segments: what each segment brought, as JSON text.
      error: why it failed.
      is_defect: whether it failed by a defect of ours.
      warnings: what a user should know of the recording.
      result: the transcription, once done.
      cancelled: whether its result is no longer wanted.
      has_ended: whether the queue is done with it.
      asked_at: when it was last asked about, or ended.
    """

    def __init__(
        self, name: str, request: Request, source: AudioSource, upload: Upload
    ):
        self.id = secrets.token_urlsafe(24)
        self.name = name
        self.client = upload.client
        self.request = request
        self.state = QUEUED
        self.seconds_done = 0.0
        self.seconds_total = source.duration
        self.num_notes = 0
        self.segments: list[str] = []
        self.error: str | None = None
        self.is_defect = False
        self.warnings: tuple[str, ...] = ()
        self.result: Transcription | None = None
        self.has_ended = False
        self.asked_at = 0.0
        self.cancelled = False
        self.source: AudioSource | None = source
        self.upload: Upload | None = upload
        self.steps: Iterator[SegmentNotes | FileResult] | None = None
        self._watchers: list[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = []

    @property
    def shown_state(self) -> str:
        """The state: "queued", "running", "done", "failed" or "cancelled"."""
        # A segment that is at hand can't be interrupted, but nobody waits for it.
        return CANCELLED if self.cancelled else self.state

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come of it."""
        return self.cancelled or self.has_ended

    @contextlib.contextmanager
    def watched(self) -> Iterator[asyncio.Event]:
        """Gives an event that is set whenever the job changes."""
        watcher = (asyncio.get_running_loop(), asyncio.Event())
        self._watchers.append(watcher)
        try:
            yield watcher[1]
        finally:
            self._watchers.remove(watcher)

    def changed(self) -> None:
        """Tells those who watch, from any thread."""
        for loop, event in list(self._watchers):
            with contextlib.suppress(RuntimeError):  # The loop is closed.
                loop.call_soon_threadsafe(event.set)


Transcriber = Callable[[AudioSource, TranscribeOptions], Iterator[Any]]


class JobQueue:
    """Takes recordings in and transcribes them in a thread of its own."""

    def __init__(
        self,
        transcriber: Transcriber,
        limits: Limits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Makes the folder and starts the thread.

        Args:
          transcriber: yields the segments of a recording and then its result, as
            `InferenceModel.run` does.
          limits: how much to take in.
          clock: seconds, for how long results are kept.
        """
        self.limits = limits or Limits()
        self.folder, self._lock = private_folder()
        self._transcriber = transcriber
        self._clock = clock
        self._held_bytes = 0
        self._uploads: collections.Counter[str] = collections.Counter()
        self._jobs: dict[str, Job] = {}
        # Jobs that have not ended, of each client; the clients in the order of turns.
        self._lines: collections.OrderedDict[str, collections.deque[Job]] = (
            collections.OrderedDict()
        )
        self._closed = False
        self._wake = threading.Condition(threading.RLock())
        self._thread = threading.Thread(
            target=self._work, name="mt3-serve", daemon=True
        )
        self._thread.start()

    # Uploads.

    def begin_upload(self, client: str) -> Upload:
        """Makes room for a recording.

        Raises:
          RefusedError: too many wait already.
        """
        with self._wake:
            self.forget_old()
            waiting = {name: len(line) for name, line in self._lines.items()}
            total = sum(waiting.values()) + self._uploads.total()
            own = waiting.get(client, 0) + self._uploads[client]
            if own >= self.limits.jobs_of_client:
                raise RefusedError(
                    429,
                    f"{own} recordings of yours wait already; expected fewer than "
                    f"{self.limits.jobs_of_client}: try again when some are done",
                    _RETRY_SECONDS,
                )
            if total >= self.limits.jobs:
                raise RefusedError(
                    503,
                    f"{total} recordings wait already, as many as are taken; try again "
                    "later",
                    _RETRY_SECONDS,
                )
            self._uploads[client] += 1
        return Upload(client, self.folder / secrets.token_hex(16))

    def grow(self, upload: Upload, count: int) -> None:
        """Accounts for bytes of a recording that have come.

        Raises:
          RefusedError: it is larger than allowed, or all together are.
        """
        with self._wake:
            if upload.size + count > self.limits.upload_bytes:
                raise too_large(self.limits.upload_bytes)
            if self._held_bytes + count > self.limits.held_bytes:
                raise RefusedError(
                    503,
                    "the recordings that wait fill the space for them; try again later",
                    _RETRY_SECONDS,
                )
            upload.size += count
            self._held_bytes += count

    def end_upload(self, upload: Upload) -> None:
        """Notes that a recording has come, or will not."""
        with self._wake:
            self._uploads[upload.client] -= 1
            if not self._uploads[upload.client]:
                del self._uploads[upload.client]

    def discard(self, upload: Upload) -> None:
        """Deletes a recording."""
        with self._wake:
            self._held_bytes -= upload.size
            upload.size = 0
        with contextlib.suppress(OSError):  # Its reader has it open (Windows).
            upload.path.unlink(missing_ok=True)

    # Jobs.

    def add(self, job: Job) -> None:
        """Puts a job at the end of its client's line."""
        with self._wake:
            self._jobs[job.id] = job
            self._lines.setdefault(job.client, collections.deque()).append(job)
            self._wake.notify_all()

    def get(self, job_id: str) -> Job | None:
        """Returns a job; None if there is none, or none any longer."""
        with self._wake:
            self.forget_old()
            job = self._jobs.get(job_id)
            if job is not None:
                job.asked_at = self._clock()
            return job

    def remove(self, job: Job) -> None:
        """Forgets a job; one that has not ended is cancelled."""
        with self._wake:
            self._jobs.pop(job.id, None)
            if not job.has_ended:
                job.cancelled = True
            if job.state == QUEUED:
                self._end(job, CANCELLED)
        job.changed()

    def position(self, job: Job) -> int | None:
        """Returns how many jobs start before this one; None if it has started."""
        with self._wake:
            if job.state != QUEUED:
                return None
            lines = {
                client: [other for other in line if other.state == QUEUED]
                for client, line in self._lines.items()
            }
            rank = lines[job.client].index(job)
            before, seen = rank, False
            for client, line in lines.items():
                if client == job.client:
                    seen = True
                else:
                    before += min(len(line), rank + (not seen))
            return before

    def forget_old(self) -> None:
        """Forgets results that were kept long enough, and the oldest of too many."""
        with self._wake:
            ended = sorted(
                (job for job in self._jobs.values() if job.has_ended),
                key=lambda job: job.asked_at,
            )
            now, left = self._clock(), len(ended)
            notes = sum(job.num_notes for job in ended)
            left_of = collections.Counter(job.client for job in ended)
            for job in ended:
                if (
                    now - job.asked_at > self.limits.keep_seconds
                    or left > self.limits.results
                    or left_of[job.client] > self.limits.results_of_client
                    or notes > self.limits.kept_notes
                ):
                    del self._jobs[job.id]
                    left -= 1
                    notes -= job.num_notes
                    left_of[job.client] -= 1

    def stop(self) -> collections.Counter[str]:
        """Cancels all jobs; those who watch them are told. Returns at once.

        Returns:
          How many were `RUNNING` and `QUEUED`.
        """
        with self._wake:
            self._closed = True
            lost = collections.Counter(
                job.state for job in self._jobs.values() if not job.is_over
            )
            for job in list(self._jobs.values()):
                self.remove(job)
            self._wake.notify_all()
        return lost

    def close(self, seconds: float = 5.0) -> bool:
        """Deletes everything, and ends the thread after the segment at hand.

        Args:
          seconds: how long to wait for that.

        Returns:
          Whether the thread has ended.
        """
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)
        self._thread.join(seconds)
        self._lock.close()
        # Windows deletes no file that is being read.
        shutil.rmtree(self.folder, ignore_errors=True)
        return not self._thread.is_alive()

    # The thread.

    def _work(self) -> None:
        while (job := self._next()) is not None:
            self._step(job)
            with self._wake:
                # Behind those who came meanwhile.
                if job.client in self._lines:
                    self._lines.move_to_end(job.client)

    def _next(self) -> Job | None:
        """Waits for a job whose turn it is; returns None when the queue is closed."""
        with self._wake:
            while True:
                for line in self._lines.values():
                    job = line[0]
                    if job.state == RUNNING or self._may_start():
                        job.state = RUNNING
                        return job
                if self._closed:
                    return None
                # Results are to go also when nobody asks.
                self._wake.wait(timeout=60.0)
                self.forget_old()

    def _may_start(self) -> bool:
        running = sum(line[0].state == RUNNING for line in self._lines.values())
        return running < MOST_RUNNING and not self._closed

    def _step(self, job: Job) -> None:
        """Transcribes one segment; whatever happens, the thread goes on."""
        try:
            if job.cancelled:
                self._end(job, CANCELLED)
                return
            if job.steps is None:
                job.changed()
                self._tell_waiting()
                job.steps = self._transcriber(job.source, job.request.transcribe)
            item = next(job.steps)
            if isinstance(item, FileResult):
                self._finish(job, item)
            else:
                self._advance(job, item)
        except MT3Error as error:
            job.error = str(error)
            self._end(job, FAILED)
        except Exception as error:
            # The traceback is for the one who runs the server, not for the client.
            # Standard error may be closed.
            with contextlib.suppress(OSError, ValueError, StreamError):
                terminal.defect(error)
            job.is_defect = True
            job.error = internal_error(error)
            self._end(job, FAILED)

    def _advance(self, job: Job, item: SegmentNotes) -> None:
        zero = job.request.start if job.request.transcribe.times == "recording" else 0.0
        done = item.end_time - zero
        if done > self.limits.recording_seconds:
            raise AudioError(too_long(job.name, self.limits.recording_seconds))
        segment = {
            "start_time": round(zero + job.seconds_done, TIME_DECIMALS),
            "end_time": round(item.end_time, TIME_DECIMALS),
            "notes": [note_to_dict(note) for note in item.notes],
        }
        job.segments.append(json.dumps(segment))
        job.seconds_done = done
        job.num_notes += len(item.notes)
        job.changed()

    def _finish(self, job: Job, item: FileResult) -> None:
        if item.error is not None:
            raise item.error
        job.result = item.transcription
        job.num_notes = len(item.transcription.notes)
        job.seconds_total = job.seconds_done
        self._end(job, DONE)

    def _end(self, job: Job, state: str) -> None:
        if job.steps is not None:
            with contextlib.suppress(Exception):
                job.steps.close()
        if job.source is not None:
            job.warnings = tuple(job.source.warnings)
        upload, job.upload, job.source, job.steps = job.upload, None, None, None
        with self._wake:
            if upload is not None:
                self.discard(upload)
            line = self._lines.get(job.client)
            if line is not None and job in line:
                line.remove(job)
                if not line:
                    del self._lines[job.client]
            job.state = state
            job.asked_at = self._clock()
            job.has_ended = True
        job.changed()
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        """Tells those whose place in the queue may have changed."""
        with self._wake:
            waiting = [job for line in self._lines.values() for job in line]
        for job in waiting:
            if job.state == QUEUED:
                job.changed()
