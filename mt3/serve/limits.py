"""How much a server takes in, and how it says that something is too much."""

from __future__ import annotations

import dataclasses

from mt3.errors import MT3Error


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much is taken in, and for how long it is kept.

    Attributes:
      upload_bytes: of one recording.
      held_bytes: of all recordings that are kept, those being uploaded included.
      recording_seconds: length of one recording, or of the part to transcribe.
      jobs: that wait or run, of all clients, uploads included.
      jobs_of_client: likewise, of one client.
      results: that are kept, of all clients; the oldest go first.
      results_of_client: likewise, of one client.
      kept_notes: of all results that are kept; the oldest go first.
      keep_seconds: how long a result is kept after it was last asked about.
      connections: that are open, of all clients.
      connections_of_client: likewise, of one client.
      requests: that are answered at once, of all clients.
      requests_of_client: likewise, of one client.
      upload_grace: seconds that an upload may take however small it is.
      upload_rate: bytes per second that it must reach beyond that.
    """

    upload_bytes: int = 512 << 20
    held_bytes: int = 4 << 30
    recording_seconds: float = 4 * 3600.0
    jobs: int = 400
    jobs_of_client: int = 200
    results: int = 1000
    results_of_client: int = 200
    # About half a kilobyte each.
    kept_notes: int = 2_000_000
    keep_seconds: float = 600.0
    connections: int = 1000
    connections_of_client: int = 500
    requests: int = 500
    requests_of_client: int = 250
    upload_grace: float = 30.0
    upload_rate: float = 64 << 10


class RefusedError(MT3Error):
    """A request that is not taken, now or at all.

    Attributes:
      status: of the HTTP response.
      retry_after: seconds after which to try again; None for never.
    """

    def __init__(self, status: int, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after


def internal_error(error: Exception) -> str:
    """Returns what a client is told of a defect; the traceback is not for it."""
    return f"internal error ({type(error).__name__}); please report it"


def too_large(limit: int) -> RefusedError:
    """Returns the refusal of a recording that has too many bytes."""
    return RefusedError(
        413,
        "the recording is larger than allowed; expected at most "
        f"{limit / (1 << 20):g} megabytes",
    )


def too_long(name: str, limit: float) -> str:
    """Returns the message for a recording that is too long."""
    return (
        f"{name}: reading audio: found a recording that is too long, expected at most "
        f"{limit / 60:g} minutes; choose a part of it with start and end"
    )
