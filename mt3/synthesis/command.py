"""What `mt3 synthesize` does: audio with its notes, or a training corpus."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from mt3 import files
from mt3.errors import (
    ConfigError,
    DataError,
    DiskFullError,
    MT3Error,
    OutputError,
    check_number,
)
from mt3.midi import note_arrays, reader
from mt3.note_sequences import Note
from mt3.synthesis import corpus, orchestration, random_notes, recipes, soundfont
from mt3.synthesis.soundfont import SoundFont, open_soundfont


@dataclasses.dataclass(frozen=True)
class Synthesized:
    """What was written.

    Attributes:
      written: WAV files, each with a MIDI file of the same name, or the corpus folder.
      skipped: outputs that existed already.
      failures: one message for each input that could not be read or rendered.
    """

    written: tuple[Path, ...]
    skipped: tuple[Path, ...] = ()
    failures: tuple[str, ...] = ()


def synthesize(
    inputs: Sequence[str | os.PathLike] = (),
    *,
    output: str | os.PathLike,
    random: int = 0,
    seconds: float = 30.0,
    hours: float | None = None,
    soundfonts: Iterable[str | os.PathLike] = (),
    exact_soundfonts: Iterable[str | os.PathLike] = (),
    seed: int = 0,
    reorchestrate: bool = False,
    sample_rate: int = 16000,
    overwrite: bool = False,
    clips_per_shard: int = 128,
    workers: int = 1,
    log: Callable[[str], None] | None = None,
) -> Synthesized:
    """Renders MIDI files and random pieces, or a training corpus.

    With `hours`, the MIDI files become a corpus folder (`corpus.build_corpus`).
    Otherwise each input becomes a WAV file and a MIDI file of the notes that sound in
    it.

    Args:
      inputs: MIDI files and folders.
      output: folder to write to.
      random: number of pieces of random notes to add.
      seconds: length of each random piece.
      hours: make a corpus of this many hours instead of single files.
      soundfonts: .sf2 or .sf3 files, used in turn; without any, the default one.
      exact_soundfonts: of a corpus, see `corpus.CorpusConfig`.
      seed: of all random draws.
      reorchestrate: redraw instruments, key, tempo and velocities of the songs.
      sample_rate: in Hz.
      overwrite: replace files that exist, instead of skipping them.
      clips_per_shard: see `corpus.CorpusConfig`.
      workers: number of processes that render a corpus.
      log: called with a line about progress or a failure.

    Returns:
      What was written. Files that fail are listed and do not stop the others.

    Raises:
      ConfigError: a setting out of range, nothing to render, exact soundfonts without
        `hours`, or random pieces with `hours`.
      DataError: if soundfonts, or inputs of a corpus, are missing, or no synthesizer
        is installed.
      OutputError: if the folder cannot be written to, or the disk is full.
    """
    check_number("random", random, 0, 1_000_000, whole=True)
    check_number("sample rate", sample_rate, 8000, 192_000, whole=True)
    check_number("seconds", seconds, 0.1, soundfont.MOST_SAMPLES / sample_rate)
    check_number("seed", seed, 0, whole=True)
    check_number("workers", workers, 1, 1024, whole=True)
    reason = files.why_unwritable(os.fspath(output))
    if reason:
        raise OutputError(f"{output}: results cannot be written here: {reason}")
    say = log or (lambda line: None)
    failures: list[str] = []

    def failed(line: str) -> None:
        failures.append(line)
        say(f"mt3: error: {line}")

    if hours is not None:
        check_number("hours", hours, 1e-6)
        if random:
            raise ConfigError(
                "Random pieces with hours: a corpus without MIDI files has random "
                "notes anyway; expected one of the two."
            )
        folder = corpus.build_corpus(
            output,
            hours=hours,
            midi_folders=inputs,
            soundfonts=soundfonts,
            exact_soundfonts=exact_soundfonts,
            seed=seed,
            clips_per_shard=clips_per_shard,
            sample_rate=sample_rate,
            workers=workers,
            progress=lambda done, total: say(f"{done} of {total} shards"),
            log=failed,
        )
        return Synthesized((folder,), failures=tuple(failures))
    if not inputs and random < 1:
        raise ConfigError(
            "Nothing to render: name MIDI files or folders, or a number of random "
            "pieces, or hours of a corpus."
        )
    if list(exact_soundfonts):
        raise ConfigError("Exact soundfonts are for a corpus: say how many hours.")
    output = Path(output)
    fonts = [open_soundfont(path, sample_rate) for path in list(soundfonts) or [None]]
    songs = _find(inputs, failed)
    targets = _output_paths(songs, inputs, output)
    jobs: list[tuple[Path, Path | None]] = list(zip(targets, songs, strict=True))
    jobs += [(output / f"random_{n:05d}.wav", None) for n in range(random)]
    written, skipped = [], []
    for place, (target, path) in enumerate(jobs):
        if os.path.exists(target) and not overwrite:
            skipped.append(target)
            continue
        rng = np.random.default_rng([seed, place])
        font = fonts[place % len(fonts)]
        try:
            _render_file(rng, path, target, font, seconds, reorchestrate, say)
        except DiskFullError:
            raise  # The others would find no room either.
        except MT3Error as error:
            failed(str(error))
            continue
        except (MemoryError, RecursionError) as error:
            failed(f"{path or target}: cannot be rendered: {type(error).__name__}")
            continue
        written.append(target)
        say(f"{target}")
    return Synthesized(tuple(written), tuple(skipped), tuple(failures))


def _find(
    inputs: Sequence[str | os.PathLike[str]], failed: Callable[[str], None]
) -> list[Path]:
    """Returns the MIDI files; an input that is not there costs only itself."""
    found: set[Path] = set()
    for path in inputs:
        try:
            found.update(reader.find_midi([path], log=failed))
        except DataError as error:
            failed(str(error))
    return sorted(found)


def _output_paths(
    files: Sequence[Path], inputs: Sequence[str | os.PathLike], output: Path
) -> list[Path]:
    """Returns a WAV path for each file, relative to the folder it was found in."""
    folders = [Path(path) for path in inputs if os.path.isdir(path)]
    targets = []
    for path in files:
        above = next((f for f in folders if path.is_relative_to(f)), path.parent)
        targets.append(output / path.relative_to(above).with_suffix(".wav"))
    for target, path in zip(targets, files, strict=True):
        notes = target.with_suffix(".mid")
        if os.path.realpath(notes) == os.path.realpath(path):
            raise ConfigError(
                f"{path}: would be overwritten with the notes of {target.name}. Name "
                "another output folder."
            )
    repeated = [t for t, count in Counter(targets).items() if count > 1]
    if repeated:
        raise ConfigError(
            f"Several inputs would be written to {min(repeated)}: render their folders "
            "one by one."
        )
    return targets


def _render_file(
    rng: np.random.Generator,
    path: Path | None,
    target: Path,
    font: SoundFont,
    seconds: float,
    reorchestrate: bool,
    log: Callable[[str], None],
) -> None:
    if path is None:
        notes = random_notes.random_notes(rng, seconds=seconds)
    else:
        notes = reader.read_song(path, log=log).notes
    sounds = {}
    if reorchestrate and path is not None:
        notes = orchestration.change_tempo(notes, float(rng.uniform(0.8, 1.25)))
        notes = orchestration.transpose(notes, int(rng.integers(-5, 6)))
        notes = orchestration.redraw_programs(rng, notes, anywhere=0.3)
        notes = orchestration.vary_velocities(rng, notes)
        notes = orchestration.let_ring_out(notes)
    if reorchestrate or path is None:
        sounds = recipes.draw_sounds(rng, notes, font)
    notes, samples = font.render_song(notes, sounds, name=str(path or target))
    write_pair(target, samples, note_arrays.to_notes(notes), font.sample_rate)


def write_pair(
    path: Path, samples: np.ndarray, notes: list[Note], sample_rate: int
) -> None:
    """Writes a 16-bit WAV file, and the notes as a MIDI file next to it.

    The WAV file is written last: if it exists, both are complete.

    Raises:
      OutputError: if they cannot be written.
    """
    from mt3.audio import sndfile
    from mt3.outputs import midi
    from mt3.outputs.transcription import Transcription

    result = Transcription(notes, duration=len(samples) / sample_rate, source=path.stem)
    with files.atomic_file(path.with_suffix(".mid")) as stream:
        midi.write_midi(result, stream)
    with files.atomic_file(path) as stream:
        sndfile.write_wav(stream, [samples], sample_rate)
