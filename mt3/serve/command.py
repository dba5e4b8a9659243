"""What `mt3 serve` does: binds a port, loads the model, answers until it is ended."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import socket
import sys

from mt3.errors import ConfigError
from mt3.terminal import INTERRUPTED, print_result, say, warn

# Files that may be open beside connections: of recordings and results.
_OTHER_FILES = 1000
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
    from mt3.serve import server as serving
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
    _allow_files(limits.connections + _OTHER_FILES)
    names = (options.host, *options.names)
    application = app.create_app(model, limits=limits, host=host, names=names)
    server = serving.make_server(application)
    server.when_ready = lambda: _announce(f"http://{shown}:{port}/", model.name)
    server.run(sockets=[listener])
    code = INTERRUPTED if server.interrupted else 0
    if not application.state.ended:
        # A segment of a large model takes long, and can't be interrupted: a program
        # that ended in the usual way would wait for it, or crash in it.
        sys.stderr.flush()
        os._exit(code)
    return code


def _allow_files(count: int) -> None:
    """Lets this process have that many files and connections open, if it may."""
    try:
        import resource
    except ImportError:  # Windows, which has no such limit.
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < count:
        most = count if hard == resource.RLIM_INFINITY else min(count, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _announce(address: str, model: str) -> None:
    print_result(address)
    say(
        f"mt3: the model {model} is ready at that address; Ctrl-C ends it",
        stage="serve",
        address=address,
        model=model,
    )
