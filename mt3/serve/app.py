"""The HTTP interface: routes, and what they answer.

    app = create_app(InferenceModel())

A job is made of a recording (`POST /jobs`), watched (`GET /jobs/ID/events`), and its
result fetched in any format (`GET /jobs/ID/result`); `POST /transcribe` does all that
at once. Every error is JSON, `{"error": "..."}`.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import importlib.resources
import os
import pathlib
import secrets
from collections.abc import AsyncIterator, Hashable, Iterator
from typing import Annotated, Any

import fastapi
from fastapi import Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mt3 import outputs
from mt3.audio import formats as audio_formats
from mt3.audio import reading
from mt3.cli import DESCRIPTION
from mt3.errors import MT3Error, OutputError
from mt3.midi import general_midi
from mt3.options import TranscribeOptions
from mt3.serve import security, uploads
from mt3.serve.parameters import ResultQuery, Settings, TranscribeQuery, message_of
from mt3.serve.queue import (
    DONE,
    Job,
    JobQueue,
    Limits,
    RefusedError,
    Upload,
    private_file,
    too_long,
)
from mt3.version import __version__

MEDIA_TYPES = {
    "mid": "audio/midi",
    "json": "application/json",
    "jsonl": "application/jsonl",
    "csv": "text/csv; charset=utf-8",
    "png": "image/png",
    "html": "text/html; charset=utf-8",
    "wav": "audio/wav",
    "musicxml": "application/vnd.recordare.musicxml+xml",
    "mxl": "application/vnd.recordare.musicxml",
    "pdf": "application/pdf",
}
# Seconds after which a stream of events says that it is still there.
KEEP_ALIVE = 15.0
# Models with other programs than the first: as many as are kept.
_MOST_MODELS = 3


class JobState(BaseModel):
    """A job, as it stands."""

    id: str = Field(description="unguessable; who knows it may read the result")
    name: str = Field(description="of the recording")
    state: str = Field(description="queued, running, done, failed or cancelled")
    position: int | None = Field(
        description="how many jobs start before this one; null once it has started"
    )
    seconds_done: float = Field(description="transcribed so far")
    seconds_total: float | None = Field(description="null where it is not known yet")
    notes: int = Field(description="found so far")
    error: str | None = Field(description="why it failed")
    warnings: list[str] = Field(description="what to know of the recording")
    formats: list[str] = Field(description="in which the result can be had")


class About(BaseModel):
    """What this server is, and takes."""

    version: str
    model: str = Field(description="name of the weights")
    formats: list[str] = Field(description="in which results can be had")
    accepts: list[str] = Field(description="endings of the names of recordings")
    families: list[str] = Field(description="of instruments, for `instruments`")
    max_megabytes: float = Field(description="of a recording")
    max_minutes: float = Field(description="of a recording, or of the part of it")
    minutes_kept: float = Field(description="how long a result is kept")


class Error(BaseModel):
    """Why a request was refused, or failed."""

    error: str


_ERRORS = {
    400: "the request cannot be read",
    403: "the request comes from another site",
    404: "there is no such job, or none any longer",
    408: "the upload is too slow",
    409: "the job has no result (yet)",
    413: "the recording is too large or too long",
    415: "the body is no form with a file",
    421: "the request is for another host",
    422: "a setting is wrong, or the recording cannot be read",
    429: "too many recordings or requests of this client; `Retry-After` says when",
    500: "a defect of the server",
    503: "too many recordings or requests of all clients; `Retry-After` says when",
    507: "the disk of the server is full",
}
_ALWAYS = (403, 421, 429, 500, 503)
_UPLOADING = (400, 408, 413, 415, 422, 507)


def _errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {
        code: {"model": Error, "description": _ERRORS[code]}
        for code in sorted({*codes, *_ALWAYS})
    }


_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [uploads.FIELD],
                    "properties": {
                        uploads.FIELD: {
                            "type": "string",
                            "format": "binary",
                            "description": "the recording",
                        }
                    },
                }
            }
        },
    }
}
_RESULT = {
    200: {
        "description": "the file",
        "content": {kind.split(";")[0]: {} for kind in MEDIA_TYPES.values()},
    }
}


class Transcriber:
    """Transcribes one recording after the other, each in its own way.

    Args:
      model: whose weights are used.
    """

    def __init__(self, model: Any):
        self._model = model
        self._others: collections.OrderedDict[Hashable, Any] = collections.OrderedDict()

    def __call__(
        self, source: reading.AudioSource, options: TranscribeOptions
    ) -> Iterator[Any]:
        """Yields the segments of a recording, then its result."""
        return self._for(options).run([source])

    def _for(self, options: TranscribeOptions) -> Any:
        key = self._model.arrangement_for(options)
        if key == self._model.arrangement:
            return self._model.with_options(options)
        if key not in self._others:
            if len(self._others) == _MOST_MODELS:
                import jax

                self._others.popitem(last=False)
                # Its programs, too. Those that are still wanted are on disk.
                jax.clear_caches()
            self._others[key] = self._model.with_options(options)
        self._others.move_to_end(key)
        return self._others[key].with_options(options)


def available_formats() -> tuple[str, ...]:
    """Returns the formats whose packages are installed."""
    found = []
    for name in outputs.FORMATS:
        with contextlib.suppress(OutputError):
            found += outputs.check_formats([name])
    return tuple(found)


def create_app(
    model: Any,
    *,
    limits: Limits | None = None,
    host: str = "127.0.0.1",
    names: tuple[str, ...] = (),
) -> fastapi.FastAPI:
    """Makes the application.

    It transcribes from when it starts (its lifespan) until it ends.

    Args:
      model: an `InferenceModel`.
      limits: how much is taken in.
      host: the address that the server is bound to.
      names: further names under which it answers.
    """
    limits = limits or Limits()

    @contextlib.asynccontextmanager
    async def lifespan(app: fastapi.FastAPI) -> AsyncIterator[None]:
        app.state.queue = JobQueue(Transcriber(model), limits)
        try:
            yield
        finally:
            await run_in_threadpool(app.state.queue.close)

    app = fastapi.FastAPI(
        title="MT3",
        summary="Music transcription",
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        # Their pages load programs from other sites.
        docs_url=None,
        redoc_url=None,
    )
    app.state.model = model
    app.state.limits = limits
    app.state.formats = available_formats()
    # Scores are drawn by libraries that do not say they can do so twice at once.
    app.state.writing = asyncio.Lock()
    app.add_middleware(
        security.Guard,
        hosts=security.AllowedHosts(host, names),
        most=limits.requests,
        most_of_client=limits.requests_of_client,
    )
    app.include_router(router)
    _add_page(app)
    _add_error_handlers(app)
    return app


def _add_page(app: fastapi.FastAPI) -> None:
    folder = pathlib.Path(str(importlib.resources.files("mt3.serve"))) / "page"
    app.mount("/page", StaticFiles(directory=folder, check_dir=False))

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(folder / "index.html")


def _add_error_handlers(app: fastapi.FastAPI) -> None:
    def answer(status: int, message: str, headers: Any = None) -> JSONResponse:
        return JSONResponse({"error": message}, status, headers)

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        after = error.retry_after
        headers = None if after is None else {"Retry-After": str(after)}
        return answer(error.status, str(error), headers)

    @app.exception_handler(MT3Error)
    async def wrong(request: Request, error: MT3Error) -> JSONResponse:
        return answer(422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        return answer(422, message_of(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(OSError)
    async def no_space(request: Request, error: OSError) -> JSONResponse:
        return answer(507, f"writing the recording: {error.strerror or error}")

    @app.exception_handler(Exception)
    async def defect(request: Request, error: Exception) -> JSONResponse:
        return answer(500, f"internal error ({type(error).__name__}); please report it")


router = fastapi.APIRouter()


@router.get("/about", summary="What this server is, and takes", responses=_errors())
async def about(request: Request) -> About:
    """Returns version, model, formats and limits."""
    state = request.app.state
    return About(
        version=__version__,
        model=state.model.name,
        formats=list(state.formats),
        accepts=sorted(audio_formats.SUFFIXES),
        families=list(general_midi.FAMILIES),
        max_megabytes=state.limits.upload_bytes / (1 << 20),
        max_minutes=state.limits.recording_seconds / 60,
        minutes_kept=state.limits.keep_seconds / 60,
    )


@router.post(
    "/jobs",
    summary="Begin to transcribe a recording",
    status_code=202,
    responses=_errors(*_UPLOADING),
    openapi_extra=_FORM,
)
async def begin(
    request: Request,
    response: fastapi.Response,
    settings: Annotated[Settings, Query()],
) -> JobState:
    """Takes a recording and puts it into the queue; `Location` is the job's address.

    The recording is deleted when it is transcribed, the result some minutes later.
    """
    state = request.app.state
    job = await _take(request, settings, state.formats)
    response.headers["Location"] = f"/jobs/{job.id}"
    return _state_of(job, request)


@router.get("/jobs/{job_id}", summary="How a job stands", responses=_errors(404))
async def job_state(request: Request, job_id: str) -> JobState:
    """Returns the job's state and progress."""
    return _state_of(_job(request, job_id), request)


@router.get(
    "/jobs/{job_id}/events",
    summary="Follow a job, segment by segment",
    response_class=StreamingResponse,
    responses=_errors(404)
    | {
        200: {
            "description": "Server-sent events. `progress`: the job, as `GET "
            "/jobs/ID` returns it. `notes`: `start_time` and `end_time` of a segment, "
            "and the notes that ended in it, as the JSON format has them. At the end "
            "`done`, `failed` or `cancelled`: the job. Who comes late gets all from "
            "the start.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        }
    },
)
async def events(request: Request, job_id: str) -> StreamingResponse:
    """Streams notes and progress as they come."""
    stream = _events(_job(request, job_id), request)
    return StreamingResponse(stream, media_type="text/event-stream")


@router.get(
    "/jobs/{job_id}/result",
    summary="The result, in any format",
    response_class=FileResponse,
    responses=_errors(404, 409, 422) | _RESULT,
)
async def result(
    request: Request, job_id: str, query: Annotated[ResultQuery, Query()]
) -> FileResponse:
    """Returns the transcription as a file."""
    return await _result(request, _job(request, job_id), query)


@router.delete(
    "/jobs/{job_id}",
    summary="Cancel and forget a job",
    status_code=204,
    responses=_errors(404),
)
async def delete(request: Request, job_id: str) -> None:
    """Ends a job that has not ended, and deletes what is kept of any."""
    request.app.state.queue.remove(_job(request, job_id))


@router.post(
    "/transcribe",
    summary="Transcribe a recording and wait for the result",
    response_class=FileResponse,
    responses=_errors(*_UPLOADING) | _RESULT,
    openapi_extra=_FORM,
)
async def transcribe(
    request: Request, query: Annotated[TranscribeQuery, Query()]
) -> fastapi.Response:
    """Takes a recording and returns the transcription as a file.

    If the client leaves before, the work ends. Nothing is kept.
    """
    outputs.check_formats([query.format])
    job = await _take(request, query, (query.format,))
    try:
        await _end_of(job, request)
        return await _result(request, job, query)
    finally:
        request.app.state.queue.remove(job)


async def _take(request: Request, settings: Settings, formats: tuple[str, ...]) -> Job:
    """Takes a recording in."""
    queue: JobQueue = request.app.state.queue
    uploads.boundary_of(request)
    wanted = settings.request(formats)
    upload = queue.begin_upload(security.client_of(request.scope))
    try:
        name = await uploads.receive(request, queue, upload)
        job = await run_in_threadpool(_opened, name, wanted, upload, queue.limits)
        queue.add(job)
        return job
    except BaseException as error:
        queue.discard(upload)
        if isinstance(error, ClientDisconnect):
            raise RefusedError(400, "the client left") from error
        raise
    finally:
        queue.end_upload(upload)


def _opened(name: str, wanted: Any, upload: Upload, limits: Limits) -> Job:
    """Opens a recording, so that what is none is refused at once."""
    source = reading.open_audio(
        upload.path, allow_truncated=wanted.transcribe.allow_truncated, name=name
    )
    if wanted.start or wanted.end is not None:
        source = source.part(wanted.start, wanted.end)
    if (source.duration or 0.0) > limits.recording_seconds:
        raise RefusedError(413, too_long(name, limits.recording_seconds))
    return Job(name, wanted, source, upload)


def _job(request: Request, job_id: str) -> Job:
    job = request.app.state.queue.get(job_id)
    if job is None:
        raise HTTPException(404, "there is no such job, or none any longer")
    return job


def _state_of(job: Job, request: Request) -> JobState:
    return JobState(
        id=job.id,
        name=job.name,
        state=job.state,
        position=request.app.state.queue.position(job),
        seconds_done=round(job.seconds_done, 3),
        seconds_total=None
        if job.seconds_total is None
        else round(job.seconds_total, 3),
        notes=job.num_notes,
        error=job.error,
        warnings=list(job.warnings),
        formats=list(request.app.state.formats),
    )


async def _events(job: Job, request: Request) -> AsyncIterator[str]:
    sent = 0
    with job.watched() as changed:
        while True:
            changed.clear()
            ended = job.has_ended
            for segment in job.segments[sent:]:
                yield f"event: notes\ndata: {segment}\n\n"
                sent += 1
            kind = job.state if ended else "progress"
            state = _state_of(job, request).model_dump_json()
            yield f"event: {kind}\ndata: {state}\n\n"
            if ended:
                return
            while not changed.is_set():
                try:
                    await asyncio.wait_for(changed.wait(), KEEP_ALIVE)
                except TimeoutError:
                    yield ": still here\n\n"


async def _end_of(job: Job, request: Request) -> None:
    """Waits until a job has ended, or its client leaves."""
    gone = asyncio.ensure_future(request.receive())
    try:
        with job.watched() as changed:
            while not job.has_ended:
                changed.clear()
                waiting = asyncio.ensure_future(changed.wait())
                await asyncio.wait({waiting, gone}, return_when="FIRST_COMPLETED")
                waiting.cancel()
                if gone.done():
                    raise RefusedError(400, "the client left")
    finally:
        gone.cancel()


async def _result(request: Request, job: Job, query: ResultQuery) -> FileResponse:
    """Writes a result and answers with it."""
    if job.error is not None:
        raise RefusedError(422, job.error)
    if job.state != DONE:
        raise RefusedError(409, f"the job is {job.state}; expected one that is done")
    outputs.check_formats([query.format])
    options = query.output_options(job.request.output)
    path = request.app.state.queue.folder / secrets.token_hex(16)
    stem = os.path.splitext(job.name)[0] or "recording"
    try:
        async with request.app.state.writing:
            await run_in_threadpool(_write, job.result, path, query.format, options)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return FileResponse(
        path,
        media_type=MEDIA_TYPES[query.format],
        filename=stem + outputs.FORMATS[query.format][0],
        background=BackgroundTask(path.unlink, missing_ok=True),
    )


def _write(
    transcription: outputs.Transcription,
    path: pathlib.Path,
    format: str,
    options: outputs.OutputOptions,
) -> None:
    with private_file(path) as stream:
        outputs.write_stream(transcription, stream, format, options)
