"""What requests and responses look like, for the OpenAPI description and for checks."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from mt3.serve.results import MEDIA_TYPES
from mt3.serve.uploads import FIELD


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
    score: bool = Field(description="whether sheet music can be drawn")
    palette: list[str] = Field(description="colours of instruments, in turn")
    drum_colour: str
    drum_lanes: list[str] = Field(description="names of the kinds of drums")
    drum_lane_of: list[int] = Field(description="the kind of each percussion pitch")
    max_megabytes: float = Field(description="of a recording")
    max_minutes: float = Field(description="of a recording, or of the part of it")
    minutes_kept: float = Field(description="how long a result is kept")


class Page(BaseModel):
    """A page of sheet music."""

    svg: str
    bars: int = Field(description="how many bars are on it")


class Score(BaseModel):
    """Sheet music to look at."""

    bars: list[float] = Field(description="when each bar begins, seconds")
    pages: list[Page]


class Error(BaseModel):
    """Why a request was refused, or failed."""

    error: str


_MEANINGS = {
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
_OTHERS = {"default": {"model": Error, "description": "any other error"}}
UPLOADING = (400, 408, 413, 415, 422, 507)


def errors(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Returns the errors of a route, for its description: these, and those of all."""
    named = {
        code: {"model": Error, "description": _MEANINGS[code]}
        for code in sorted({*codes, *_ALWAYS})
    }
    # Without these, FastAPI describes errors of its own.
    return named | _OTHERS


FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {
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
RESULT = {
    200: {
        "description": "the file",
        "content": {kind.split(";")[0]: {} for kind in MEDIA_TYPES.values()},
    }
}
