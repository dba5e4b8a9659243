"""Many clients of `mt3 serve`: throughput, waiting, refusals and memory.

Starts a server, has many clients send it short recordings, each client from an address
of its own (on Linux all of 127.0.0.0/8 is this machine), and checks that each gets the
notes of its own recording:

    python benchmarks/serve.py --clients 50 --files 200
    python benchmarks/serve.py --clients 50 --files 3000 --seconds 5

A client that is refused waits as long as the server says. `--greedy N` has one more
client send N recordings at once at the beginning; the others should not notice.
"""

# check: needs many minutes of processor time
from __future__ import annotations

import argparse
import collections
import itertools
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import httpx

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "example.flac"
# Different parts of the example, so that a result of another one is noticed.
_PARTS = 8


class Load:
    """Clients that send recordings until all are done.

    Attributes:
      seconds: how long each request took, by client.
      counts: of what came of the requests.
    """

    def __init__(self, address: str, part_seconds: float, files: int):
        self._address = address
        self._recording = EXAMPLE.read_bytes()
        self._part_seconds = part_seconds
        self._numbers = iter(range(files))
        self._lock = threading.Lock()
        self.seconds: dict[int, list[float]] = collections.defaultdict(list)
        self.counts: collections.Counter[str] = collections.Counter()
        with self._client(1) as client:
            self._expected = [self._send(client, part).text for part in range(_PARTS)]

    def _client(self, number: int) -> httpx.Client:
        address = f"127.0.{number // 250}.{number % 250 + 1}"
        transport = httpx.HTTPTransport(local_address=address)
        return httpx.Client(
            base_url=self._address, transport=transport, timeout=None, trust_env=False
        )

    def _send(self, client: httpx.Client, part: int) -> httpx.Response:
        start = part * (25.0 - self._part_seconds) / _PARTS
        query = {"format": "csv", "start": start, "end": start + self._part_seconds}
        files = {"file": ("example.flac", self._recording)}
        return client.post("/transcribe", params=query, files=files)

    def run(self, number: int) -> None:
        """Sends one recording after the other, as one client."""
        with self._client(number) as client:
            while True:
                with self._lock:
                    file = next(self._numbers, None)
                if file is None:
                    return
                self._one(client, number, file % _PARTS)

    def burst(self, number: int, files: int) -> list[threading.Thread]:
        """Sends many at once, as one client; returns the threads."""

        def one(part: int) -> None:
            with self._client(number) as client:
                self._one(client, number, part)

        return [
            threading.Thread(target=one, args=(file % _PARTS,)) for file in range(files)
        ]

    def _one(self, client: httpx.Client, number: int, part: int) -> None:
        begin = time.monotonic()
        while True:
            response = self._send(client, part)
            if response.status_code not in (429, 503):
                break
            with self._lock:
                self.counts[f"refused ({response.status_code})"] += 1
            time.sleep(int(response.headers["retry-after"]))
        right = response.is_success and response.text == self._expected[part]
        with self._lock:
            self.counts["right" if right else f"wrong ({response.status_code})"] += 1
            self.seconds[number].append(time.monotonic() - begin)


def memory(process: int) -> float:
    """Returns the megabytes that a process has in memory."""
    status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    return int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024


def processor_seconds(process: int) -> float:
    """Returns how long a process has computed."""
    fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").split(") ")[1]
    user, system = fields.split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main(argv: Sequence[str] | None = None) -> None:
    """Runs the clients and prints a line now and then, and a summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--files", type=int, default=200, help="of all clients")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each recording")
    parser.add_argument("--greedy", type=int, default=0, metavar="N")
    parser.add_argument("--model", default="default")
    options = parser.parse_args(argv)
    command = [sys.executable, "-m", "mt3", "serve", "--port", "0"]
    command += ["--model", options.model]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            _measure(server, options)
        finally:
            server.terminate()


def _measure(server: subprocess.Popen, options: argparse.Namespace) -> None:
    load = Load(server.stdout.readline().strip(), options.seconds, options.files)
    print(f"memory before: {memory(server.pid):.0f} MB", flush=True)
    greedy = load.burst(options.clients, options.greedy)
    others = [
        threading.Thread(target=load.run, args=(number,))
        for number in range(options.clients)
    ]
    begin, computed = time.monotonic(), processor_seconds(server.pid)
    for thread in itertools.chain(greedy, others):
        thread.start()
    while any(thread.is_alive() for thread in itertools.chain(greedy, others)):
        time.sleep(20)
        passed = time.monotonic() - begin
        counts = ", ".join(f"{count} {name}" for name, count in load.counts.items())
        print(f"{passed:.0f} s: {counts}; {memory(server.pid):.0f} MB", flush=True)
    passed = time.monotonic() - begin
    computed = processor_seconds(server.pid) - computed
    done = load.counts["right"]
    print(f"{computed / done:.2f} processor seconds per recording")
    print(
        f"{done / passed:.2f} recordings per second, "
        f"{done * options.seconds / passed:.1f} x real time"
    )
    medians = {
        number: statistics.median(seconds) for number, seconds in load.seconds.items()
    }
    if options.greedy:
        print(f"greedy client: median {medians.pop(options.clients):.1f} s")
    print(
        f"medians of the clients: {min(medians.values()):.1f} to "
        f"{max(medians.values()):.1f} s"
    )


if __name__ == "__main__":
    main()
