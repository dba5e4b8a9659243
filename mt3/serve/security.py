"""Which requests are answered at all.

1. **DNS rebinding.** A page of a stranger can give its own name the address of this
   server, and then counts as the same origin. Its name is in the request's `Host`:
   only names that the server is bound to are answered. A server that is bound to other
   than loopback addresses takes any IP address, since those cannot be rebound.
2. **Requests of other sites.** Browsers say where a request comes from: `Origin` must
   be the server itself, and `Sec-Fetch-Site` must not be another site, except where
   somebody follows a link. Programs send neither.
3. **Too many requests at once**, of all clients or of one.

Responses carry what tells a browser to load nothing from elsewhere, to guess no types,
to be shown in no frame and to keep nothing.
"""

from __future__ import annotations

import collections
import ipaddress
import json
import re
import socket
from collections.abc import Iterable
from typing import Any

from mt3.serve.limits import internal_error

PAGE_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "media-src 'self' blob:",
        "connect-src 'self' blob:",
        "font-src 'self'",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": PAGE_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([\w.-]+))(?::\d{1,5})?", re.ASCII)


class AllowedHosts:
    """The names under which a server answers.

    Args:
      bound: the address that it is bound to.
      names: further names.
    """

    def __init__(self, bound: str, names: Iterable[str] = ()):
        self.is_loopback = is_loopback(bound)
        self._names = {name.lower() for name in (*_LOOPBACK, bound, *names)}
        if not self.is_loopback:
            self._names.add(socket.gethostname().lower())

    def allows(self, header: str) -> bool:
        """Says whether a request with this `Host` is answered."""
        match = _HOST.fullmatch(header)
        if match is None:
            return False
        name = (match[1] or match[2]).lower()
        return name in self._names or (not self.is_loopback and _is_address(name))


def is_loopback(host: str) -> bool:
    """Says whether only this machine reaches a server that is bound to `host`."""
    if host.lower() == "localhost":
        return True
    return _is_address(host) and ipaddress.ip_address(host).is_loopback


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Guard:
    """Answers what may be answered; ASGI middleware.

    Args:
      app: what is guarded.
      hosts: names under which the server answers.
      most: requests that are answered at once.
      most_of_client: likewise, of one client.
    """

    def __init__(
        self, app: Any, *, hosts: AllowedHosts, most: int, most_of_client: int
    ):
        self._app = app
        self._hosts = hosts
        self._most = most
        self._most_of_client = most_of_client
        self._running: collections.Counter[str] = collections.Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answers one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        started = False

        async def send_guarded(message: Any) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.lower().encode(), value.encode())
                        for name, value in HEADERS.items()
                        if name.lower().encode() not in present
                    ),
                ]
                # What is left of a request that was refused is not read.
                if message["status"] >= 400 and scope["method"] == "POST":
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        client = client_of(scope)
        refusal = self._refusal(scope, client)
        if refusal is not None:
            await _refuse(send_guarded, *refusal)
            return
        self._running[client] += 1
        try:
            await self._app(scope, receive, send_guarded)
        except Exception as error:
            if not started:
                await _refuse(send_guarded, 500, internal_error(error))
            raise
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]

    def _refusal(self, scope: Any, client: str) -> tuple[int, str] | None:
        """Returns status and reason if a request is not answered."""
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(
                value.decode("latin-1")
            )
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self._hosts.allows(hosts[0]):
            return 421, (
                f"the request is for the host {', '.join(hosts)!r}, which this server "
                "is not; expected its address (mt3 serve --allow-host adds a name)"
            )
        origins = headers.get("origin", [])
        # A server in front of this one may have added encryption.
        own = {f"{scheme}://{hosts[0]}".lower() for scheme in ("http", "https")}
        if any(origin.lower() not in own for origin in origins):
            return 403, (
                f"the request comes from {origins[0]!r}; expected a request of this "
                "server's own page or of a program"
            )
        site = headers.get("sec-fetch-site", ["none"])[-1]
        follows_link = (
            scope["method"] == "GET"
            and headers.get("sec-fetch-mode", [""])[-1] == "navigate"
            and headers.get("sec-fetch-dest", [""])[-1] == "document"
        )
        if site not in ("same-origin", "none") and not follows_link:
            return 403, (
                "the request comes from another site; expected a request of this "
                "server's own page or of a program"
            )
        if self._running[client] >= self._most_of_client:
            return 429, "too many requests of yours are being answered; try again later"
        if self._running.total() >= self._most:
            return 503, "too many requests are being answered; try again later"
        return None


def client_of(scope: Any) -> str:
    """Returns the address that a request comes from."""
    client = scope.get("client")
    return client[0] if client else ""


def refusal(status: int, message: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Returns headers and body of a refusal."""
    body = json.dumps({"error": message}).encode()
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **HEADERS,
    }
    if status in (429, 503):
        headers["Retry-After"] = "5"
    return [
        (name.lower().encode(), value.encode()) for name, value in headers.items()
    ], body


async def _refuse(send: Any, status: int, message: str) -> None:
    headers, body = refusal(status, message)
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
