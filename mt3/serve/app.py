"""The HTTP interface: routes, and what they answer.

    app = create_app(InferenceModel())

A job is made of a recording (`POST /jobs`), watched (`GET /jobs/ID/events`), and its
result fetched in any format (`GET /jobs/ID/result`); `POST /transcribe` does all that
at once. Every error is JSON, `{"error": "..."}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pathlib
import secrets
from collections.abc import AsyncIterator
from typing import Annotated, Any

import fastapi
from fastapi import Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from mt3 import outputs
from mt3.audio import formats as audio_formats
from mt3.audio import reading
from mt3.cli import DESCRIPTION
from mt3.errors import MT3Error
from mt3.files import FULL
from mt3.midi import general_midi
from mt3.outputs import pianoroll
from mt3.serve import results, security, uploads
from mt3.serve.limits import Limits, RefusedError, too_long
from mt3.serve.parameters import (
    Notation,
    ResultQuery,
    Settings,
    TranscribeQuery,
    message_of,
)
from mt3.serve.queue import DONE, Job, JobQueue, Upload
from mt3.serve.schema import (
    FORM,
    RESULT,
    UPLOADING,
    About,
    JobState,
    Page,
    Score,
    errors,
)
from mt3.serve.transcriber import Transcriber
from mt3.version import __version__

_REPORT_PAGE = pathlib.Path(outputs.__file__).parent / "report_page"
_PAGE = pathlib.Path(__file__).parent / "page"
# The table of types of a machine may say otherwise.
_PAGE_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
# Written at once, by Python alone; the others by libraries that do not promise to draw
# two at a time.
_QUICK = {"mid", "json", "jsonl", "csv"}
# Seconds after which a stream of events says that it is still there.
KEEP_ALIVE = 15.0


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
            app.state.ended = await run_in_threadpool(app.state.queue.close)

    app = fastapi.FastAPI(
        title="MT3",
        summary="Music transcription",
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        # Their pages load programs from other sites.
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.model = model
    app.state.limits = limits
    app.state.formats = results.available_formats()
    app.state.drawing = asyncio.Lock()
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
    """Adds the page; it shares files with the report."""
    files = {
        path.name: path
        for folder in (_REPORT_PAGE, _PAGE)
        for path in folder.glob("*")
        if path.suffix in _PAGE_TYPES
    }

    @app.get("/", include_in_schema=False)
    @app.get("/page/{name}", include_in_schema=False)
    async def page(name: str = "index.html") -> FileResponse:
        if name not in files:
            raise HTTPException(404, "there is no such file")
        return _WholeFile(
            files[name],
            media_type=_PAGE_TYPES[files[name].suffix],
            headers={"Cache-Control": "no-cache", "Accept-Ranges": "none"},
        )


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
    async def not_written(request: Request, error: OSError) -> JSONResponse:
        if error.errno not in FULL:
            raise error
        return answer(507, f"writing a file: {error.strerror}")


router = fastapi.APIRouter()


@router.get("/about", summary="What this server is, and takes", responses=errors())
async def about(request: Request) -> About:
    """Returns version, model, formats and limits."""
    state = request.app.state
    return About(
        version=__version__,
        model=state.model.name,
        formats=list(state.formats),
        accepts=sorted(audio_formats.readable_suffixes()),
        families=list(general_midi.FAMILIES),
        score="musicxml" in state.formats,
        palette=list(pianoroll.PALETTE),
        drum_colour=pianoroll.DRUM_COLOUR,
        drum_lanes=list(general_midi.DRUM_LANES),
        drum_lane_of=[general_midi.drum_lane(pitch) for pitch in range(128)],
        max_megabytes=state.limits.upload_bytes / (1 << 20),
        max_minutes=state.limits.recording_seconds / 60,
        minutes_kept=state.limits.keep_seconds / 60,
    )


@router.post(
    "/jobs",
    summary="Begin to transcribe a recording",
    status_code=202,
    responses=errors(*UPLOADING),
    openapi_extra=FORM,
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


@router.get("/jobs/{job_id}", summary="How a job stands", responses=errors(404))
async def job_state(request: Request, job_id: str) -> JobState:
    """Returns the job's state and progress."""
    return _state_of(_job(request, job_id), request)


@router.get(
    "/jobs/{job_id}/events",
    summary="Follow a job, segment by segment",
    response_class=StreamingResponse,
    responses=errors(404)
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
    responses=errors(404, 409, 422) | RESULT,
)
async def result(
    request: Request, job_id: str, query: Annotated[ResultQuery, Query()]
) -> FileResponse:
    """Returns the transcription as a file."""
    return await _result(request, _job(request, job_id), query)


@router.get(
    "/jobs/{job_id}/score",
    summary="Sheet music to look at",
    responses=errors(404, 409, 422),
)
async def score(
    request: Request, job_id: str, notation: Annotated[Notation, Query()]
) -> Score:
    """Returns the pages of the score; 404 where there is none.

    There is none without beats, for recordings of more than 20 minutes, and where the
    extra `[score]` is not installed.
    """
    job = _finished(_job(request, job_id))
    options = notation.output_options(job.request.output)
    async with request.app.state.drawing:
        found = await run_in_threadpool(_score, job.result, options)
    if found is None:
        raise HTTPException(
            404,
            "there is no sheet music: no beats were found, or it is too long",
        )
    return found


@router.delete(
    "/jobs/{job_id}",
    summary="Cancel and forget a job",
    status_code=204,
    responses=errors(404),
)
async def delete(request: Request, job_id: str) -> None:
    """Ends a job that has not ended, and deletes what is kept of any."""
    request.app.state.queue.remove(_job(request, job_id))


@router.post(
    "/transcribe",
    summary="Transcribe a recording and wait for the result",
    response_class=FileResponse,
    responses=errors(*UPLOADING) | RESULT,
    openapi_extra=FORM,
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
    # What does not fit the model is refused at once, too.
    request.app.state.model.arrangement_for(wanted.transcribe)
    upload = queue.begin_upload(security.client_of(request.scope))
    try:
        name = await uploads.receive(request, queue, upload)
        job = await run_in_threadpool(_opened, name, wanted, upload, queue.limits)
        if await request.is_disconnected():
            raise ClientDisconnect
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
        state=job.shown_state,
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
            ended = job.is_over
            for segment in job.segments[sent:]:
                yield f"event: notes\ndata: {segment}\n\n"
                sent += 1
            kind = job.shown_state if ended else "progress"
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
            while not job.is_over:
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
    _finished(job)
    outputs.check_formats([query.format])
    options = query.output_options(job.request.output)
    path = request.app.state.queue.folder / secrets.token_hex(16)
    stem = os.path.splitext(job.name)[0] or "recording"
    is_quick = query.format in _QUICK
    turn = contextlib.nullcontext() if is_quick else request.app.state.drawing
    try:
        async with turn:
            await run_in_threadpool(
                results.write, job.result, path, query.format, options
            )
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return _PassingFile(
        path,
        media_type=results.MEDIA_TYPES[query.format],
        filename=stem + outputs.FORMATS[query.format][0],
        headers={"Accept-Ranges": "none"},
    )


class _WholeFile(FileResponse):
    """A file that is sent whole, whatever part of it is asked for."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        headers = [item for item in scope["headers"] if item[0] != b"range"]
        await super().__call__({**scope, "headers": headers}, receive, send)


class _PassingFile(_WholeFile):
    """A file that is deleted however sending it ends.

    Each request has it written anew, so that parts of it need not fit together.
    """

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            pathlib.Path(self.path).unlink(missing_ok=True)


def _finished(job: Job) -> Job:
    """Returns a job that has a result.

    Raises:
      RefusedError: it has none, or none yet.
    """
    if job.error is not None:
        raise RefusedError(500 if job.is_defect else 422, job.error)
    if job.state != DONE:
        raise RefusedError(
            409, f"the job is {job.shown_state}; expected one that is done"
        )
    return job


def _score(
    result: outputs.Transcription, options: outputs.OutputOptions
) -> Score | None:
    score = outputs.score_to_show(result, options)
    if score is None:
        return None
    from mt3.outputs.score import engraving

    return Score(
        bars=[round(bar.seconds, 3) for bar in score.bars],
        pages=[
            Page(svg=page.svg, bars=page.bars)
            for page in engraving.engrave(score, to_print=False)
        ],
    )
