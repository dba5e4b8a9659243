"""The server under the application: connections, and its end.

1. Too many connections, of one client or of all, are refused as too many requests are.
2. A connection on which no request comes is closed, and one whose client does not take
   what it asked for.
3. What cannot be read is answered with JSON, as all errors are.
4. Jobs, streams and open requests end with the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import logging
import signal
import threading
from collections.abc import Iterator
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from mt3.errors import StreamError
from mt3.serve import security
from mt3.serve.queue import QUEUED, RUNNING
from mt3.terminal import logs_json, warn

# Seconds in which a request must have come on a connection.
REQUEST_SECONDS = 10.0
# Seconds in which a client must take what waits for it, about 64 kilobytes.
TAKING_SECONDS = 30.0
# Seconds in which responses are taken at the end.
LAST_SECONDS = 3


class Protocol(H11Protocol):
    """One connection."""

    def connection_made(self, transport: Any) -> None:
        """Begins; refuses one connection too many."""
        super().connection_made(transport)
        self._taking: asyncio.TimerHandle | None = None
        self._seen: Any = self
        self._check()
        limits = self.config.app.state.limits
        own = sum(self._host == other._host for other in self.connections)
        if own > limits.connections_of_client:
            self._refuse(429, "too many connections of yours are open; try again later")
        elif len(self.connections) > limits.connections:
            self._refuse(503, "too many connections are open; try again later")

    @property
    def _host(self) -> str | None:
        return self.client and self.client[0]

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends."""
        super().connection_lost(exc)
        self._stop_waiting()

    def pause_writing(self) -> None:
        """Waits until the client has taken what it was sent, but not for ever."""
        super().pause_writing()
        self._taking = self.loop.call_later(TAKING_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Goes on once it has."""
        super().resume_writing()
        self._stop_waiting()

    def _stop_waiting(self) -> None:
        if self._taking is not None:
            self._taking.cancel()

    def send_400_response(self, msg: str) -> None:
        """Answers what is no request."""
        self._refuse(400, "the request cannot be read; expected HTTP/1.1")

    def _refuse(self, status: int, message: str) -> None:
        if self.cycle is not None:
            # Whoever was answering need not go on.
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            headers, body = security.refusal(status, message)
            headers.append((b"connection", b"close"))
            reason = http.HTTPStatus(status).phrase.encode()
            for event in (
                h11.Response(status_code=status, headers=headers, reason=reason),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event))
        self.transport.close()

    def _check(self) -> None:
        """Closes the connection if nothing has happened since the last time."""
        if self not in self.connections:
            return
        if self.transport.is_closing():
            if self._seen is None:
                # Its client has had time to take the rest.
                self.transport.abort()
                return
            self._seen = None
        else:
            is_idle = self.cycle is None or self.cycle.response_complete
            if is_idle and self._seen is self.cycle:
                self.transport.close()
            self._seen = self.cycle if is_idle else self
        self.loop.call_later(REQUEST_SECONDS, self._check)


class Server(uvicorn.Server):
    """Ends at once, whoever is still listening.

    Attributes:
      interrupted: whether Ctrl-C ended it.
      when_ready: called once it answers.
    """

    interrupted = False
    when_ready: Any = None

    async def startup(self, sockets: Any = None) -> None:
        """Begins to answer."""
        await super().startup(sockets)
        if self.when_ready is not None:
            self.when_ready()

    async def shutdown(self, sockets: Any = None) -> None:
        """Ends jobs, and what waits for them."""
        # Streams of events end with their jobs.
        lost = self.config.app.state.queue.stop()
        if lost:
            running, waiting = lost[RUNNING], lost[QUEUED]
            with contextlib.suppress(StreamError):
                warn(
                    f"the server ends; jobs that are lost: {running} running, "
                    f"{waiting} waiting",
                    stage="serve",
                    running=running,
                    waiting=waiting,
                )
        # Requests that are cut off are no faults.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Ends the server, and not the program, when it is told to."""
        # The original raises the signal again, which would end the program before it
        # has cleaned up.
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.getsignal(number) for number in numbers}
        for number in numbers:
            signal.signal(number, self.handle_exit)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Remembers which signal it was."""
        self.interrupted = self.interrupted or sig == signal.SIGINT
        super().handle_exit(sig, frame)


def make_server(application: Any) -> Server:
    """Returns a server of an application, as `app.create_app` makes it."""
    return Server(
        uvicorn.Config(
            application,
            http=Protocol,
            ws="none",
            # Requests that cannot be read are no fault of the server's.
            log_level="error",
            # Or else its own handlers, which write text.
            **({"log_config": None} if logs_json() else {}),
            access_log=False,
            # Anybody could write there whom a request comes from.
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=LAST_SECONDS,
        )
    )
