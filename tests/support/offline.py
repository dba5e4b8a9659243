"""Forbids network access: a hook into Python's own calls, for a whole process.

    from tests.support import offline

    offline.forbid()

From then on whatever would leave this computer raises `NetworkAccess`, and is kept in
`attempts` for the case that a library catches it. Loopback and sockets between
processes stay allowed: servers under test, workers. Code in C or C++ that opens
sockets by itself isn't seen; `tests/support/offline_commands.py` finds that as well.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
import traceback
from typing import Any

# What was tried: the event and the address.
attempts: list[str] = []
# Names a file to which attempts are written, with who made them.
LOG_VARIABLE = "MT3_TESTS_OFFLINE_LOG"

# To bind is to wait for others, which `mt3 serve --host` does on request.
_WITH_ADDRESS = {"socket.connect", "socket.sendto", "socket.sendmsg"}
_INTERNET = {socket.AF_INET, socket.AF_INET6}
_LOOK_UPS = {"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"}


class NetworkAccess(RuntimeError):
    """Something wanted to leave this computer."""


def forbid() -> None:
    """Installs the hook; there is no way to remove one."""
    sys.addaudithook(_hook)


def is_local(host: Any) -> bool:
    """Says whether a host's name or address is this computer's loopback."""
    if host in (None, "localhost"):
        return True
    return _is_number(host) and ipaddress.ip_address(host).is_loopback


def _is_number(host: Any) -> bool:
    """Says whether a host is an address, so that nobody is asked for it."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _hook(event: str, arguments: tuple) -> None:
    # Called for every file that is opened, too: first what costs nearly nothing.
    if not event.startswith("socket."):
        return
    if event in _WITH_ADDRESS:
        its, address = arguments
        if its.family not in _INTERNET or address is None or is_local(address[0]):
            return
    elif event in _LOOK_UPS:
        address = arguments[0]
        if isinstance(address, bytes):
            address = address.decode("latin-1")
        if is_local(address) or _is_number(address):
            return
    else:
        return
    attempts.append(f"{event} {address!r}")
    if log := os.environ.get(LOG_VARIABLE):
        callers = [f"{f.filename}:{f.lineno}" for f in traceback.extract_stack()[-6:-1]]
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{attempts[-1]} from {' < '.join(reversed(callers))}\n")
    raise NetworkAccess(f"{attempts[-1]}: no command and no test needs a network")
