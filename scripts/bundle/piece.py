"""One piece of training: some minutes on a machine without an installation.

Three processes: the renderer makes this piece's corpus on all cores, training begins
on its first shards, and this one watches both. It keeps each new checkpoint in the
output folder as soon as it is there, so that little is lost if the machine goes away,
and ends the others in time for the last one to be kept too.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mt3 import terminal
from mt3.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    MT3Error,
    TrainingError,
)

from . import contents as bundle_contents
from . import processes, state, summary
from .parts import PART_BYTES

LOG_FILE = "log.txt"
COMPILED_FILE = "compiled.tar"
_JAX_CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
# The most that a machine may return in all: the state, then compiled programs.
MOST_STATE_BYTES = 60_000_000
MOST_BYTES = 64_000_000
_SECONDS_BETWEEN_SAVES = 60.0
# For the step in progress, a checkpoint, and the ends of worker processes.
_SECONDS_TO_STOP = 20.0
_LEAST_SECONDS_TO_KEEP = 8.0
_CLIP_SECONDS = 8.0
# Marks a folder that a piece made, and so may empty.
_MARK = ".mt3_piece"


@dataclasses.dataclass(frozen=True)
class PieceOptions:
    """What to do in a piece.

    Attributes:
      bundle: the unpacked bundle.
      out: folder for all that is to be kept.
      minutes: from the program's start to its end.
      resume: a folder with the state to go on from; None to begin.
      work: folder for everything else; emptied at the start.
      seed: of the corpus; None for the step that the piece begins at.
      hours: audio to render at most.
      first_hours: audio to have before training begins.
      clips_per_shard: clips of 8 s that are rendered at a time.
      render_workers: processes that render; None for one a core.
      data_workers: processes that draw batches; None for a third of the cores, or
        none on a machine with fewer than four.
      moments: as in `state.pack`, or 'auto' for the best that fits.
      peak_tflops: of one device; None for what is known of it, or else measured.
      gin_files: after the bundle's own.
      bindings: NAME=VALUE, after the bundle's own.
    """

    bundle: Path
    out: Path
    minutes: float
    resume: Path | None = None
    work: Path = Path("piece")
    seed: int | None = None
    hours: float = 40.0
    first_hours: float = 0.2
    clips_per_shard: int = 64
    render_workers: int | None = None
    data_workers: int | None = None
    moments: str = "auto"
    peak_tflops: float | None = None
    gin_files: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()

    def check(self) -> None:
        """Raises ConfigError for settings that cannot work."""
        for name in ("minutes", "hours", "first_hours", "clips_per_shard"):
            if not getattr(self, name) > 0:
                raise ConfigError(
                    f"--{name} is {getattr(self, name)}; expected more than 0"
                )
        if self.first_hours > self.hours:
            raise ConfigError(
                f"--first_hours is {self.first_hours}; expected --hours, "
                f"{self.hours}, at most"
            )
        if self.moments not in ("auto", *state.MOMENTS):
            raise ConfigError(
                f"--moments is {self.moments!r}; expected auto, float32 or bfloat16"
            )


class Piece:
    """A piece in progress."""

    def __init__(self, options: PieceOptions, started: float):
        """Reads the bundle.

        Args:
          options: what to do.
          started: when the program began, on `time.monotonic`'s clock.

        Raises:
          ConfigError: settings that cannot work.
          DataError: the bundle is not whole.
        """
        options.check()
        self._options = options
        self._started = started
        self._began = time.time()
        self._contents = bundle_contents.Contents.read(options.bundle)
        bundle_contents.check_python(self._contents.python)
        options.out.mkdir(parents=True, exist_ok=True)
        _empty(options.work, keep=(options.bundle, options.out, options.resume))
        self._model_dir = options.work / "model"
        self._corpus = options.work / "corpus"
        self._environment = self._make_environment()
        self._log = processes.Log(options.out / LOG_FILE)
        self._stopping = False
        self._first_step = 0
        self._pieces: list[dict[str, Any]] = []
        self._moments = options.moments
        self._kept_step: int | None = None
        self._kept_seconds = _LEAST_SECONDS_TO_KEEP
        self._failure: Exception | None = None

    def run(self) -> int:
        """Trains until the minutes are over or the last step is reached.

        Returns:
          Exit code: 0; 1 where training failed. What can be kept is kept even then.

        Raises:
          MT3Error: nothing was trained, or nothing could be kept.
        """
        try:
            return self._run()
        except MT3Error as error:
            # The log may be all that comes back.
            self._say(f"error: {error}")
            raise
        finally:
            self._log.close()

    def _run(self) -> int:
        previous = {
            number: signal.signal(number, self._request_stop)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        renderer = training = None
        code, training_began, training_ended = 1, None, None
        try:
            bundle_contents.install_wheels(
                self._options.bundle, self._contents.wheels, self._site
            )
            sys.path.insert(0, str(self._site))
            # The device is for the training; this process only reads checkpoints.
            os.environ["JAX_PLATFORMS"] = "cpu"
            logging.getLogger("mt3").setLevel(logging.WARNING)
            if self._options.resume is not None:
                # Before anything is started: a damaged state costs no time.
                manifest = state.check(self._options.resume)
                self._first_step = int(manifest["step"])
                self._pieces = list(manifest.get("pieces", []))
            if self._renders():
                renderer = self._start_renderer()
            if self._options.resume is not None:
                self._take_up(self._options.resume)
            self._wait_for_shards(renderer)
            if not self._stopping:
                training_began = time.monotonic()
                training = self._start_training()
                code = self._watch(training, renderer)
                training_ended = time.monotonic()
        finally:
            for process in (training, renderer):
                processes.end(process)
            for number, handler in previous.items():
                signal.signal(number, handler)
        if training_began is None:
            raise TrainingError(
                f"piece: the time was over before training began; expected more than "
                f"{self._options.minutes:g} minutes"
            )
        self._keep_last(training_began, training_ended)
        return code

    @property
    def _site(self) -> Path:
        return self._options.work / "site"

    def _make_environment(self) -> dict[str, str]:
        path = [str(self._site.absolute()), str(self._options.bundle.absolute())]
        path += filter(None, [os.environ.get("PYTHONPATH")])
        # A folder that JAX itself was told to use would not be kept with the state.
        outside = {k: v for k, v in os.environ.items() if k != _JAX_CACHE_VARIABLE}
        return {
            **outside,
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONUNBUFFERED": "1",
            "MT3_CACHE_DIR": str(self._options.work.absolute() / "compiled"),
        }

    def _say(self, text: str) -> None:
        seconds = time.monotonic() - self._started
        self._log.write(f"[{seconds:6.1f} s] {text}\n")

    def _request_stop(self, number: int, frame: Any) -> None:
        del frame
        if not self._stopping:
            self._say(f"received {signal.Signals(number).name}: stopping")
        self._stopping = True

    def _late(self) -> bool:
        """Tells whether training has to end for its state to be kept in time."""
        if not self._stopping:
            left = 60 * self._options.minutes - (time.monotonic() - self._started)
            if left < _SECONDS_TO_STOP + 2.0 * self._kept_seconds:
                self._say("the time is nearly over: stopping")
                self._stopping = True
        return self._stopping

    # Rendering

    def _renders(self) -> bool:
        return "CORPUS" in self._macros()

    def _macros(self) -> set[str]:
        return bundle_contents.used_macros(
            self._contents.gin_file, self._options.bundle
        )

    def _start_renderer(self) -> subprocess.Popen:
        options = self._options
        if not self._contents.soundfonts:
            raise DataError(
                f"{options.bundle}: {self._contents.gin_file} needs a corpus, but the "
                "bundle has no soundfont to render it; make it with --soundfont"
            )
        seed = options.seed if options.seed is not None else self._first_step
        command = [sys.executable, "-m", "bundle.rendering"]
        command += [str(self._corpus.absolute()), f"--seed={seed}"]
        command += [f"--hours={options.hours}"]
        command += [f"--clips_per_shard={options.clips_per_shard}"]
        command += [f"--workers={options.render_workers or os.cpu_count() or 1}"]
        for name in self._contents.soundfonts:
            command.append(f"--soundfont={options.bundle.absolute() / name}")
        for name in self._contents.exact_soundfonts:
            command.append(f"--exact={options.bundle.absolute() / name}")
        if self._contents.songs:
            command.append(
                f"--songs={options.bundle.absolute() / self._contents.songs}"
            )
        self._say(f"rendering a corpus with seed {seed}")
        return self._start(command)

    def _wait_for_shards(self, renderer: subprocess.Popen | None) -> None:
        if renderer is None:
            return
        from mt3.synthesis import corpus

        seconds = self._options.clips_per_shard * _CLIP_SECONDS
        wanted = math.ceil(self._options.first_hours * 3600 / seconds)
        while len(corpus.shard_folders(self._corpus)) < wanted and not self._late():
            if renderer.poll() is not None and not (
                len(corpus.shard_folders(self._corpus)) >= wanted
            ):
                raise DataError(
                    f"{self._corpus}: rendering ended with exit code "
                    f"{renderer.returncode} before {wanted} shards were there; see "
                    f"{self._options.out / LOG_FILE}"
                )
            time.sleep(0.2)

    # Training

    def _take_up(self, folder: Path) -> None:
        step = state.unpack(folder, self._model_dir)
        self._kept_step = step
        compiled = folder / COMPILED_FILE
        if compiled.is_file():
            state.unpack_folder(compiled, Path(self._environment["MT3_CACHE_DIR"]))
        self._say(f"going on from step {step} of {folder}")

    def _start_training(self) -> subprocess.Popen:
        command = [sys.executable, "-m", "mt3.cli", "train"]
        command.append(f"--gin_file={self._write_gin()}")
        command += [f"--gin_file={name}" for name in self._options.gin_files]
        bindings = [*self._own_bindings(), *self._contents.bindings]
        bindings += self._options.bindings
        command += [f"--gin_bindings={binding}" for binding in bindings]
        self._say("training")
        return self._start(command)

    def _write_gin(self) -> Path:
        """Writes the gin file of this piece around the bundle's."""
        lines = [
            "from __gin__ import dynamic_registration",
            "",
            "import __main__ as train_script",
            "from bundle import growing",
            "from mt3.engine import synthetic_data",
            "from t5x import trainer",
            "",
            f"include {str(self._options.bundle / self._contents.gin_file)!r}",
            "",
            f"trainer.Trainer.peak_flops = {self._peak()!r}",
        ]
        if self._renders():
            lines += [
                "train_script.train.get_dataset_fn = @growing.GrowingCorpus()",
                "growing.GrowingCorpus.dataset = @synthetic_data.Corpus()",
                "growing.GrowingCorpus.folder = %CORPUS",
            ]
        path = self._options.work / "piece.gin"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path.absolute()

    def _peak(self) -> float | str:
        peak = self._options.peak_tflops
        return "auto" if peak is None else 1e12 * peak

    def _own_bindings(self) -> list[str]:
        """Returns the bindings of macros that the gin file has."""
        options = self._options
        cores = os.cpu_count() or 1
        workers = options.data_workers
        if workers is None:
            workers = cores // 3 if cores >= 4 else 0
        values: dict[str, Any] = {
            "MODEL_DIR": str(self._model_dir.absolute()),
            "CORPUS": str(self._corpus.absolute()),
            "NUM_WORKERS": workers,
        }
        weights = self._contents.initial_weights
        if weights and options.resume is None:
            values["INITIAL_WEIGHTS"] = str(options.bundle.absolute() / weights)
        known = self._macros()
        return [
            f"{name} = {value!r}" for name, value in values.items() if name in known
        ]

    def _watch(
        self, training: subprocess.Popen, renderer: subprocess.Popen | None
    ) -> int:
        """Waits for the training to end or the time to be over; keeps checkpoints."""
        keeping: threading.Thread | None = None
        next_save = 0.0
        while training.poll() is None and not self._late():
            if self._failure is not None:
                break
            idle = keeping is None or not keeping.is_alive()
            if idle and time.monotonic() >= next_save and self._has_news():
                next_save = time.monotonic() + _SECONDS_BETWEEN_SAVES
                keeping = threading.Thread(target=self._keep_quietly, daemon=True)
                keeping.start()
            if renderer is not None and renderer.poll() not in (None, 0):
                self._say(f"rendering failed with exit code {renderer.returncode}")
                renderer = None
            time.sleep(0.2)
        asked = training.poll() is None
        if asked:
            # Only the training process gets the signal; it ends its workers.
            training.send_signal(signal.SIGTERM)
        if renderer is not None:
            processes.end(renderer)
        if keeping is not None:
            keeping.join()
        end = self._started + 60 * self._options.minutes - self._kept_seconds - 2.0
        try:
            code = training.wait(max(end - time.monotonic(), 5.0))
        except subprocess.TimeoutExpired:
            self._say(
                "training did not end in time: killed; its last checkpoint counts"
            )
            return 1
        if code not in (0, -signal.SIGTERM, terminal.TERMINATED):
            self._say(f"training failed with exit code {code}")
        return int(code != 0)

    def _start(self, command: Sequence[str]) -> subprocess.Popen:
        return processes.start(
            command,
            folder=self._options.bundle,
            environment=self._environment,
            log=self._log,
        )

    # Keeping

    def _has_news(self) -> bool:
        from mt3.engine import checkpoints

        steps = checkpoints.checkpoint_steps(self._model_dir)
        return bool(steps) and steps[-1] != self._kept_step

    def _keep_quietly(self) -> None:
        try:
            self._keep({"pieces": self._pieces})
        except state.TooLargeError as error:
            # Nothing that is trained from here on could be kept either.
            self._failure = error
        except (CheckpointError, OSError) as error:
            # The training may have removed it meanwhile; the next one is kept.
            self._say(f"could not keep a checkpoint: {error}")

    def _keep(self, about: Mapping[str, Any]) -> dict[str, Any]:
        began = time.monotonic()
        attempts = state.MOMENTS if self._moments == "auto" else (self._moments,)
        for attempt in attempts:
            try:
                manifest = state.pack(
                    self._model_dir,
                    self._options.out,
                    moments=attempt,
                    most_bytes=MOST_STATE_BYTES,
                    about=about,
                )
            except state.TooLargeError:
                if attempt == attempts[-1]:
                    raise
            else:
                self._moments = attempt
                break
        self._kept_step = manifest["step"]
        # The last time may take as long as the longest so far.
        self._kept_seconds = max(self._kept_seconds, time.monotonic() - began)
        size = sum(part["size"] for part in manifest["parts"])
        self._say(
            f"kept step {manifest['step']}: {size / 1e6:.1f} MB in "
            f"{len(manifest['parts'])} files, moments in {self._moments}, "
            f"{time.monotonic() - began:.1f} s"
        )
        return manifest

    def _keep_last(self, training_began: float, training_ended: float) -> None:
        """Keeps the last checkpoint and what it cost, and says so."""
        if self._failure is not None:
            raise self._failure
        if not self._has_checkpoint():
            raise TrainingError(
                f"{self._model_dir}: training left no checkpoint; see "
                f"{self._options.out / LOG_FILE}"
            )
        piece: dict[str, Any] = {
            "first_step": self._first_step,
            **summary.summarize(self._model_dir / "metrics.jsonl", self._began),
            "setup_seconds": training_began - self._started,
        }
        manifest = self._keep({"pieces": self._pieces})
        self._keep_compiled(manifest)
        now = time.monotonic()
        piece |= {
            "last_step": manifest["step"],
            "seconds": now - self._started,
            "saving_seconds": now - training_ended,
        }
        state.amend(self._options.out, {"pieces": [*self._pieces, piece]})
        for line in summary.describe(piece):
            self._say(line)

    def _keep_compiled(self, manifest: Mapping[str, Any]) -> None:
        """Keeps compiled programs in what room there is; they save minutes."""
        used = sum(part["size"] for part in manifest["parts"])
        used += (manifest["weights"] or {"size": 0})["size"]
        room = min(PART_BYTES, MOST_BYTES - used - 2_000_000)
        folder = Path(self._environment["MT3_CACHE_DIR"])
        target = self._options.out / COMPILED_FILE
        try:
            count = state.pack_folder(folder, target, room)
        except OSError as error:
            self._say(f"could not keep compiled programs: {error}")
            return
        if count:
            size = target.stat().st_size / 1e6
            self._say(f"kept {count} compiled programs: {size:.1f} MB")

    def _has_checkpoint(self) -> bool:
        from mt3.engine import checkpoints

        return bool(checkpoints.checkpoint_steps(self._model_dir))


def _empty(folder: Path, keep: Sequence[Path | None]) -> None:
    """Makes an empty folder to work in.

    Raises:
      ConfigError: the folder has what no piece put there, or holds one of `keep`.
    """
    for path in filter(None, keep):
        if path.resolve().is_relative_to(folder.resolve()):
            raise ConfigError(
                f"--work is {folder}, which is emptied; expected a folder that does "
                f"not hold {path}"
            )
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARK).exists():
        raise ConfigError(
            f"--work is {folder}, which has files of something else; expected an empty "
            "folder, or one that a piece worked in"
        )
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _MARK).touch()
