"""Many clients of `mt3 serve`: throughput, waiting, refusals and memory.

Starts a server, has many clients send it short recordings, each client from an address
of its own (on Linux all of 127.0.0.0/8 is this machine), and checks that each gets the
notes of its own recording:

    python benchmarks/serve.py --clients 50 --files 200
    python benchmarks/serve.py --clients 50 --files 3000 --seconds 5
    python benchmarks/serve.py --clients 50 --files 3000 --minutes 60

Every second recording is sent as a job, which is watched until it ends; its result is
fetched and not deleted, so that the server has to forget it. A client that is refused
waits as long as the server says. `--minutes M` spreads the recordings over that time;
without it each client sends the next one as soon as it has the last. `--greedy N` has
one more client send N recordings at once at the beginning; the others should not
notice.
"""

# check: needs many minutes of processor time
from __future__ import annotations

import argparse
import collections
import io
import itertools
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import soundfile

EXAMPLE = Path(__file__).resolve().parent.parent / "examples" / "example.flac"
# Different parts of the example, so that a result of another one is noticed.
_PARTS = 8


class Load:
    """Clients that send recordings until all are done.

    Attributes:
      seconds: how long each request took, by client.
      counts: of what came of the requests.
    """

    def __init__(self, address: str, part_seconds: float, files: int, minutes: float):
        self._address = address
        self._recordings = list(parts(part_seconds))
        self._numbers = iter(range(files))
        self._gap = 60.0 * minutes / files
        self._lock = threading.Lock()
        self.seconds: dict[int, list[float]] = collections.defaultdict(list)
        self.counts: collections.Counter[str] = collections.Counter()
        with self._client(1) as client:
            self._expected = [
                self._send(client, 2 * part).text for part in range(_PARTS)
            ]
        self._begin = time.monotonic()

    def _client(self, number: int) -> httpx.Client:
        address = f"127.0.{number // 250}.{number % 250 + 1}"
        transport = httpx.HTTPTransport(local_address=address)
        return httpx.Client(
            base_url=self._address, transport=transport, timeout=None, trust_env=False
        )

    def _send(self, client: httpx.Client, file: int) -> httpx.Response:
        """Sends a recording in one of two ways; returns the result, or a refusal."""
        query = {"format": "csv"}
        files = {"file": ("example.wav", self._recordings[_part(file)])}
        if file % 2 == 0:
            return client.post("/transcribe", params=query, files=files)
        job = client.post("/jobs", files=files)
        if job.is_error:
            return job
        with client.stream("GET", f"{job.headers['location']}/events") as events:
            for _ in events.iter_lines():
                pass
        return client.get(f"{job.headers['location']}/result", params=query)

    def run(self, number: int) -> None:
        """Sends one recording after the other, as one client."""
        with self._client(number) as client:
            while True:
                with self._lock:
                    file = next(self._numbers, None)
                if file is None:
                    return
                wait = self._begin + file * self._gap - time.monotonic()
                time.sleep(max(0.0, wait))
                self._one(client, number, file)

    def burst(self, number: int, files: int) -> list[threading.Thread]:
        """Sends many at once, as one client; returns the threads."""

        def one(file: int) -> None:
            with self._client(number) as client:
                self._one(client, number, file)

        return [threading.Thread(target=one, args=(file,)) for file in range(files)]

    def _one(self, client: httpx.Client, number: int, file: int) -> None:
        begin = time.monotonic()
        while True:
            response = self._send(client, file)
            if response.status_code not in (429, 503):
                break
            with self._lock:
                self.counts[f"refused ({response.status_code})"] += 1
            time.sleep(int(response.headers["retry-after"]))
        right = response.is_success and response.text == self._expected[_part(file)]
        with self._lock:
            self.counts["right" if right else f"wrong ({response.status_code})"] += 1
            self.seconds[number].append(time.monotonic() - begin)


def _part(file: int) -> int:
    """Returns which part of the example a recording is; each is sent in both ways."""
    return file // 2 % _PARTS


def parts(seconds: float) -> Iterator[bytes]:
    """Yields files of parts of the example, each as long as given."""
    samples, rate = soundfile.read(EXAMPLE, dtype="int16")
    length = round(seconds * rate)
    for part in range(_PARTS):
        start = part * (len(samples) - length) // _PARTS
        stream = io.BytesIO()
        soundfile.write(stream, samples[start : start + length], rate, format="WAV")
        yield stream.getvalue()


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
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="to spread them over"
    )
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
    address = server.stdout.readline().strip()
    load = Load(address, options.seconds, options.files, options.minutes)
    print(f"memory before: {memory(server.pid):.0f} MB", flush=True)
    greedy = load.burst(options.clients, options.greedy)
    others = [
        threading.Thread(target=load.run, args=(number,))
        for number in range(options.clients)
    ]
    begin, computed = time.monotonic(), processor_seconds(server.pid)
    for thread in itertools.chain(greedy, others):
        thread.start()
    for minute in itertools.count(1):
        for thread in itertools.chain(greedy, others):
            thread.join(max(0.0, begin + 60.0 * minute - time.monotonic()))
        counts = ", ".join(f"{count} {name}" for name, count in load.counts.items())
        passed = time.monotonic() - begin
        print(f"{passed:.0f} s: {counts}; {memory(server.pid):.0f} MB", flush=True)
        if not any(thread.is_alive() for thread in itertools.chain(greedy, others)):
            break
    computed = processor_seconds(server.pid) - computed
    done = load.counts["right"]
    print(f"{computed / done:.3f} processor seconds per recording")
    print(
        f"{done / passed:.2f} recordings per second, "
        f"{done * options.seconds / passed:.1f} x real time"
    )
    many = load.seconds.pop(options.clients, [])
    if many:
        print(f"waits of the greedy client: {_waits(many)}")
    print(
        f"waits of the others: {_waits(list(itertools.chain(*load.seconds.values())))}"
    )
    medians = [statistics.median(seconds) for seconds in load.seconds.values()]
    print(f"medians of the others: {min(medians):.2f} to {max(medians):.2f} s")


def _waits(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    late = ordered[len(ordered) * 95 // 100]
    return (
        f"median {statistics.median(ordered):.2f} s, 95 % within {late:.2f} s, "
        f"longest {ordered[-1]:.2f} s"
    )


if __name__ == "__main__":
    main()
