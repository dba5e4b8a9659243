"""Runs every command where there is no network, and says which wanted one.

    python -m tests.support.offline_commands

On Linux it runs in a network namespace that has nothing but loopback. Two things watch:
the kernel, which counts packets without a route and questions to name servers, from
whatever language; and `tests.support.offline` in each Python process, which names the
caller. Elsewhere only the second does. `mt3 serve` is asked over loopback.

The exit code is 1 if a command wanted a network or failed.
"""

# check: needs ten minutes of processor time

from __future__ import annotations

import os
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from tests.support import offline

ROOT = Path(__file__).resolve().parents[2]
_TASK = "--gin.TASK_PREFIX=\"'synthetic_notes_ties'\" --gin.DATA_DIR=\"'data'\""
_TINY = "--gin_file=mt3.gin --gin_file=model.gin"
_PREPARE = (
    "import sys; from pathlib import Path; "
    "from tests.support import lookalike_archives as a, tiny_datasets as t; "
    "a.maestro(Path()); a.guitarset(Path()); a.urmp(Path('URMP')); "
    "a.musicnet(Path(), em=['2118', '2303']); a.slakh(Path()); "
    "a.songs(Path(), [f'take{n}.wav' for n in range(12)]); "
    "t.write_all(Path('published'), data_sets=['guitarset'])"
)
COMMANDS = (
    "mt3 --version",
    "mt3 doctor",
    "mt3 models",
    "mt3 models --convert default weights.safetensors",
    "mt3 transcribe example.flac --end 8 -o out "
    "--format mid,json,jsonl,csv,png,html,wav,musicxml,mxl,pdf",
    "mt3 transcribe example.flac --end 4 --decode beam1 --model weights.safetensors "
    "-o tokens",
    "mt3 score example.mid out/example.mid --main",
    "mt3 serve",
    "mt3 synthesize example.mid -o audio",
    "mt3 synthesize example.mid --hours 0.002 -o corpus",
    f"python -c {shlex.quote(_PREPARE)}",
    "mt3 prepare maestro maestro-v3.0.0 -o data",
    "mt3 prepare guitarset GuitarSet -o data",
    "mt3 prepare urmp URMP/Dataset -o data",
    "mt3 prepare musicnet musicnet -o data",
    "mt3 prepare musicnet_em musicnet -o data",
    "mt3 prepare slakh slakh2100_flac_redux -o data",
    "mt3 prepare cerberus4 slakh2100_flac_redux -o data",
    "mt3 prepare folder songs -o data --name takes",
    "mt3 prepare synthetic -o data --songs 10 --seconds 4",
    "python ROOT/scripts/dump_task.py --data_root=data "
    "--task=synthetic_notes_ties_vb1_train --max_examples=1",
    "mt3 train --gin_file=synthetic_tiny.gin --gin.TRAIN_STEPS=2 "
    "--gin.MODEL_DIR=\"'runs/rendered'\"",
    f"mt3 train {_TINY} --gin_file=train.gin --gin_file=local_tiny.gin {_TASK} "
    "--gin.MODEL_DIR=\"'runs/tiny'\" --gin.TRAIN_STEPS=2",
    f"mt3 eval {_TINY} --gin_file=eval.gin --gin_file=local_tiny.gin {_TASK} "
    "--gin.CHECKPOINT_PATH=\"'runs/tiny'\" --gin.EVAL_OUTPUT_DIR=\"'runs/eval'\"",
    f"mt3 infer {_TINY} --gin_file=infer.gin --gin_file=local_tiny.gin {_TASK} "
    "--gin.CHECKPOINT_PATH=\"'runs/tiny'\" --gin.INFER_OUTPUT_DIR=\"'runs/infer'\"",
    "python -m seqio.scripts.cache_tasks_main --module_import=mt3.registered_tasks "
    "--tasks=guitarset_notes_ties_vb1_train --output_cache_dir=cache "
    "--pipeline_options=--runner=FnApiRunner",
    "python ROOT/scripts/gather_music.py --offline -o gathered --local songs",
    "python -m pytest -q ROOT/tests/test_notebooks.py",
)


def main() -> int:
    """Runs itself in a namespace where there are any; returns the exit code."""
    if "--inside" in sys.argv:
        _set_loopback_up()
        return run(counting=True)
    inside = [shutil.which("unshare") or "", "--map-root-user", "--net", "--"]
    if inside[0] and subprocess.run([*inside, "true"], check=False).returncode == 0:
        command = [*inside, sys.executable, "-m", __spec__.name, "--inside"]
        return subprocess.run(command, check=False).returncode
    print("No network namespaces here: only calls from Python are watched.")
    return run(counting=False)


def run(*, counting: bool) -> int:
    """Runs the commands; prints a line for each; returns the exit code."""
    if counting:
        before = packets()
        with socket.socket(type=socket.SOCK_DGRAM) as away:
            assert away.connect_ex(("192.0.2.1", 53)), "there is a network"
        assert packets() == before + 1, "the kernel does not count"
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        log, environment = _environment(Path(folder))
        here = Path(folder, "here")
        shutil.copytree(ROOT / "examples", here)
        for command in COMMANDS:
            before = packets() if counting else 0
            log.write_text("")
            line = shlex.split(command.replace("ROOT", str(ROOT)))
            if line[1] == "serve":
                code = _serve(here, environment)
            else:
                code = _run(line, here, environment)
            tried = log.read_text().splitlines()
            away = packets() - before if counting else len(tried)
            failed += bool(code or away or tried)
            print(f"{away:3d} attempts, exit code {code}: {command}", flush=True)
            print("".join(f"      {line}\n" for line in tried), end="")
    print(f"{len(COMMANDS)} commands, {failed} that failed or wanted a network")
    return bool(failed)


def packets() -> int:
    """Returns how often this namespace wanted to leave, or to ask a name server."""
    values: dict[str, int] = {}
    lines = Path("/proc/net/snmp").read_text().splitlines()
    for names, numbers in zip(lines[::2], lines[1::2], strict=True):
        kind, *names = names.split()
        counts = map(int, numbers.split()[1:])
        values |= {kind + name: n for name, n in zip(names, counts, strict=True)}
    table = Path("/proc/net/snmp6").read_text().splitlines()
    six = dict(line.split() for line in table)
    return (
        values["Ip:OutNoRoutes"]
        + int(six.get("Ip6OutNoRoutes", 0))
        + values["Udp:OutDatagrams"]
        + int(six.get("Udp6OutDatagrams", 0))
    )


def _environment(folder: Path) -> tuple[Path, dict[str, str]]:
    """Returns the log of attempts, and an environment in which Python writes it."""
    log = folder / "attempts"
    (folder / "site").mkdir()
    (folder / "site" / "sitecustomize.py").write_text(
        "from tests.support import offline\noffline.forbid()\n"
    )
    path = os.pathsep.join([str(folder / "site"), str(ROOT)])
    return log, {
        **os.environ,
        "PYTHONPATH": path,
        "HOME": str(folder / "home"),
        "MT3_CACHE_DIR": str(folder / "programs"),
        "JAX_PLATFORMS": "cpu",
        "MT3_DATA_DIR": "published",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        offline.LOG_VARIABLE: str(log),
    }


def _run(line: list[str], here: Path, environment: dict[str, str]) -> int:
    if line[0] == "mt3":
        line[:1] = ["python", "-m", "mt3"]
    done = subprocess.run(
        [sys.executable, *line[1:]],
        cwd=here,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        print(done.stdout)
    return done.returncode


def _serve(here: Path, environment: dict[str, str]) -> int:
    """Starts the local page, gets it and transcribes through it; returns the code."""
    command = [sys.executable, "-m", "mt3", "serve", "--port", "0"]
    with subprocess.Popen(
        command, cwd=here, env=environment, stdout=subprocess.PIPE, text=True
    ) as server:
        address = server.stdout.readline().strip().rstrip("/")
        try:
            with urllib.request.urlopen(f"{address}/") as answer:
                assert b"<html" in answer.read()
            audio = (here / "piano.flac").read_bytes()
            part = b'Content-Disposition: form-data; name="file"; filename="a.flac"'
            request = urllib.request.Request(
                f"{address}/transcribe",
                b"--b\r\n" + part + b"\r\n\r\n" + audio + b"\r\n--b--\r\n",
                {"Content-Type": "multipart/form-data; boundary=b"},
            )
            with urllib.request.urlopen(request) as answer:
                assert answer.read(4) == b"MThd"
        finally:
            server.terminate()
    return server.returncode


def _set_loopback_up() -> None:
    import fcntl

    with socket.socket(type=socket.SOCK_DGRAM) as any_socket:
        up = struct.pack("16sh", b"lo", 0x1 | 0x40)  # IFF_UP | IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, up)  # SIOCSIFFLAGS


if __name__ == "__main__":
    sys.exit(main())
