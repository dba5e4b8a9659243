"""What `mt3 serve` does: binds a port, loads the model, answers until it is ended."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

from mt3.errors import ConfigError
from mt3.terminal import INTERRUPTED, logs_json, print_result, say, warn

# Seconds in which a request must have come on a connection, and its responses be taken
# at the end.
_REQUEST_SECONDS = 10.0
_LAST_SECONDS = 3
_PACKAGES = ("fastapi", "python_multipart", "uvicorn")
_SERVE_EXTRA = "mt3-transcription[serve]"


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code.

    Raises:
      MT3Error: packages are missing, the port cannot be had, the model not be loaded.
    """
    check_installed()
    with _bound(options.host, options.port) as listener:
        return _serve(options, listener)


def check_installed() -> None:
    """Raises ConfigError unless the packages are installed that serving needs."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        names = ", ".join(name.replace("_", "-") for name in missing)
        raise ConfigError(
            f"mt3 serve: it needs {names}, not installed; pip install '{_SERVE_EXTRA}'"
        )


def _bound(host: str, port: int) -> socket.socket:
    """Returns a socket that is bound; before the model is loaded, which takes long."""
    if not 0 <= port < 1 << 16:
        raise ConfigError(f"--port is {port}; expected 0 to {(1 << 16) - 1}")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror or error}") from error
    try:
        # The port of a server that has just ended may be had at once.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"--host {host} --port {port}: {error.strerror or error}; expected an "
            "address of this machine and a free port (0 for any)"
        ) from error
    return listener


def _serve(options: argparse.Namespace, listener: socket.socket) -> int:
    from mt3 import decoding, inference
    from mt3.serve import app, security
    from mt3.serve.limits import Limits

    if options.device is not None:
        decoding.choose_device(options.device)
    host, port = listener.getsockname()[:2]
    shown = socket.gethostname() if host in ("0.0.0.0", "::") else host
    shown = f"[{shown}]" if ":" in shown else shown
    if not security.is_loopback(host):
        warn(
            f"--host {options.host}: everybody who reaches this machine "
            "over the network can have recordings transcribed here. There is no "
            "password, and no encryption: others on the way can listen. Use it in a "
            "network that you trust, or behind a server that has both."
        )
    logging.getLogger("python_multipart").setLevel(logging.ERROR)
    model = inference.InferenceModel(options.model, num_heads=options.num_heads)
    limits = Limits(
        upload_bytes=options.max_megabytes << 20,
        held_bytes=max(Limits.held_bytes, 2 * options.max_megabytes << 20),
        recording_seconds=options.max_minutes * 60.0,
    )
    names = (options.host, *options.names)
    application = app.create_app(model, limits=limits, host=host, names=names)
    server = make_server(application)
    server.when_ready = lambda: _announce(f"http://{shown}:{port}/", model.name)
    server.run(sockets=[listener])
    code = INTERRUPTED if server.interrupted else 0
    if not application.state.ended:
        # A segment of a large model takes long, and can't be interrupted: a program
        # that ended in the usual way would wait for it, or crash in it.
        sys.stderr.flush()
        os._exit(code)
    return code


def _announce(address: str, model: str) -> None:
    print_result(address)
    say(
        f"mt3: the model {model} is ready at that address; Ctrl-C ends it",
        stage="serve",
        address=address,
        model=model,
    )


def make_server(application: Any) -> Any:
    """Returns a server that tells jobs and streams of its end.

    Args:
      application: as `app.create_app` makes it.
    """
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        """Closes a connection on which no request comes."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._seen: Any = self
            self._check()

        def _check(self) -> None:
            if self.transport.is_closing():
                return
            is_idle = self.cycle is None or self.cycle.response_complete
            if is_idle and self._seen is self.cycle:
                self.transport.close()
                return
            self._seen = self.cycle if is_idle else self
            self.loop.call_later(_REQUEST_SECONDS, self._check)

    class Server(uvicorn.Server):
        """Ends at once, whoever is still listening."""

        interrupted = False
        when_ready: Any = None

        async def startup(self, sockets: Any = None) -> None:
            await super().startup(sockets)
            if self.when_ready is not None:
                self.when_ready()

        async def shutdown(self, sockets: Any = None) -> None:
            # Streams of events end with their jobs.
            application.state.queue.stop()
            # Requests that are cut off are no faults.
            logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
            await super().shutdown(sockets)

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            # The original raises the signal again, which would end the program before
            # it has cleaned up.
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
            self.interrupted = self.interrupted or sig == signal.SIGINT
            super().handle_exit(sig, frame)

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
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
    )
