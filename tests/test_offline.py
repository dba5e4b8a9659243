"""Nothing here leaves the computer: no call, no page, no data set by default."""

from __future__ import annotations

import contextlib
import re
import socket

import pytest

from tests.support import offline

# Documentation addresses: nobody has them (RFC 5737, RFC 3849, RFC 2606).
AWAY = [
    lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
    lambda: socket.create_connection(("example.invalid", 80), timeout=1),
    # Four bytes, like an address.
    lambda: socket.getaddrinfo(b"a.cc", 80),
    lambda: socket.socket(type=socket.SOCK_DGRAM).connect(("192.0.2.1", 53)),
    lambda: socket.gethostbyname("example.invalid"),
    lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"", ("192.0.2.1", 53)),
    lambda: socket.socket(socket.AF_INET6).connect(("2001:db8::1", 80)),
]


@pytest.fixture
def forgiven():
    """What a test tries on purpose."""
    count = len(offline.attempts)
    yield
    del offline.attempts[count:]


@pytest.mark.parametrize("call", AWAY)
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")
@pytest.mark.usefixtures("forgiven")
def test_what_would_leave_the_computer_is_refused_and_kept(call):
    count = len(offline.attempts)
    with pytest.raises(offline.NetworkAccess):
        call()
    # A library that catches everything does not hide it.
    with contextlib.suppress(Exception):
        call()
    assert len(offline.attempts) == count + 2


def test_loopback_is_allowed():
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(("localhost", server.getsockname()[1])),
    ):
        pass


def test_pages_load_nothing_from_other_hosts(repository):
    """The files of the local page and the report name no address but namespaces."""
    folders = ["serve/page", "outputs/report_page", "audio"]
    paths = [p for f in folders for p in (repository / "mt3" / f).glob("*.[hcjs]*")]
    paths = [p for p in paths if p.suffix in (".html", ".css", ".js", ".svg")]
    assert {p.suffix for p in paths} >= {".html", ".css", ".js"}
    for path in paths:
        text = path.read_text(encoding="utf-8")
        found = set(re.findall(r"(?:\w+:)?//[\w.-]+\.\w+[^\s\"'`)]*", text))
        assert found <= {"http://www.w3.org/2000/svg"}, path
