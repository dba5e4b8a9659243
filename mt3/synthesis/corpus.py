"""Makes a corpus of rendered clips on disk.

Rendering takes longer than a training step, so clips are rendered in advance;
`mt3.synthesis.sampler` cuts and augments segments from them. Layout:

    corpus.json              what the corpus was made from
    library.npz              the MIDI files' notes (a cache)
    shard_00000/audio.npy    int16 [clips, samples], to be memory-mapped
               /notes.npy    NOTE_DTYPE [notes]; times relative to the clip; notes that
                             sound at its start have a negative start time
               /offsets.npy  int64 [clips + 1]: where each clip's notes begin and end
               /clips.npy    CLIP_DTYPE [clips]

A shard is written completely or not at all, and is a function of (seed, shard) and the
inputs. A build that was stopped therefore continues where it was, and training can
begin on the first shards while the others are rendered.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mt3 import files, terminal
from mt3.errors import ConfigError, DataError, near_misses
from mt3.midi import note_arrays
from mt3.synthesis import effects, orchestration, recipes
from mt3.synthesis.song_library import Library, load_library
from mt3.synthesis.soundfont import SoundFont, default_soundfont, open_soundfont

FORMAT = 1
CLIP_DTYPE = np.dtype(
    [
        ("kind", "u1"),  # index into the sorted names of the mixture
        # The one that plays most notes: index in corpus.json, exact ones last.
        ("soundfont", "u1"),
        ("parts", "u1"),  # number of programs that play; drums count as one
        ("notes_per_second", "<f4"),
    ]
)
# Shares of `recipes.KINDS`.
DEFAULT_MIXTURE = {
    "solo_piano": 0.18,
    "solo": 0.20,
    "random": 0.17,
    "drums": 0.12,
    "band": 0.18,
    "score": 0.15,
}
# Clips are stored at this peak; the sampler sets the level.
_PEAK = 0.9
# The share of clips whose speed, and with it pitch, is slightly off; and by how much.
_DETUNED = 0.25
_DETUNED_CENTS = 30.0


@dataclasses.dataclass(frozen=True)
class CorpusConfig:
    """What a corpus is made from.

    Attributes:
      midi_folders: MIDI folders and files; without any, clips are random notes.
      soundfonts: .sf2 or .sf3 files, of which each part of a clip is played by one;
        without any, the one that `pretty_midi` contains.
      exact_soundfonts: further ones, of real samples, that only play programs they
        have; preferred for these (`recipes.draw_clip`).
      mixture: relative shares of the kinds of clips (`recipes.KINDS`).
      seed: a shard is a function of it, of the shard's number and of the inputs.
      clip_seconds: length of a clip.
      clips_per_shard: clips that are written together.
      sample_rate: in Hz.

    Raises:
      ConfigError: for settings that cannot work.
      DataError: if no soundfont is given or found.
    """

    midi_folders: tuple[str, ...] = ()
    soundfonts: tuple[str, ...] = ()
    exact_soundfonts: tuple[str, ...] = ()
    mixture: Mapping[str, float] = dataclasses.field(
        default_factory=lambda: dict(DEFAULT_MIXTURE)
    )
    seed: int = 0
    clip_seconds: float = 8.0
    clips_per_shard: int = 128
    sample_rate: int = 16000

    def __post_init__(self):
        fonts = tuple(map(str, self.soundfonts)) or (str(default_soundfont()),)
        exact = tuple(map(str, self.exact_soundfonts))
        object.__setattr__(self, "soundfonts", fonts)
        object.__setattr__(self, "exact_soundfonts", exact)
        object.__setattr__(self, "midi_folders", tuple(map(str, self.midi_folders)))
        object.__setattr__(self, "mixture", dict(sorted(self.mixture.items())))
        for kind, share in self.mixture.items():
            if kind not in recipes.KINDS:
                raise ConfigError(
                    f"Unknown kind of clip {kind!r}.{near_misses(kind, recipes.KINDS)}"
                )
            if not share >= 0:
                raise ConfigError(
                    f"The share of {kind!r} is {share}; expected 0 or more."
                )
        if not sum(self.mixture.values()) > 0:
            raise ConfigError("The mixture is empty: no kind has a share above 0.")
        if self.clip_seconds <= 0 or self.clips_per_shard < 1:
            raise ConfigError(
                "A corpus needs clips longer than 0 s and at least 1 clip per shard; "
                f"found {self.clip_seconds} s and {self.clips_per_shard}."
            )


def build_corpus(
    folder: str | os.PathLike,
    *,
    hours: float,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
    log: Callable[[str], None] | None = None,
    **settings: Any,
) -> Path:
    """Renders a corpus, or the shards that are missing from it.

    Args:
      folder: where to write; made if it does not exist.
      hours: audio in total, rounded up to whole shards. A later call may ask for more.
      workers: number of processes that render.
      progress: called with (shards done, shards in total) after each shard.
      log: called with one line for each MIDI file that was left out.
      **settings: fields of `CorpusConfig`.

    Returns:
      The folder.

    Raises:
      ConfigError: for settings that cannot work.
      DataError: if inputs are missing, or the folder contains another corpus.
      OutputError: if the folder cannot be written to, or another run is writing there.
    """
    config = CorpusConfig(**settings)
    folder = Path(folder)
    with files.sole_writer(folder, "synthesize"):
        # Left by a run that was killed.
        for partial in folder.glob("shard_*.partial"):
            shutil.rmtree(partial, ignore_errors=True)
        _build(folder, config, hours, workers, progress, log)
    return folder


def _build(
    folder: Path,
    config: CorpusConfig,
    hours: float,
    workers: int,
    progress: Callable[[int, int], None] | None,
    log: Callable[[str], None] | None,
) -> None:
    is_new = not files.exists(folder / "corpus.json", DataError)
    if not is_new:
        _compare(folder, config)
    problems = _open_library(str(folder), config.midi_folders)[1]
    if is_new:
        _write_config(folder, config)
    for problem in problems if log is not None else ():
        log(f"left out: {problem}")
    shard_seconds = config.clips_per_shard * config.clip_seconds
    shards = max(1, int(np.ceil(hours * 3600 / shard_seconds - 1e-9)))
    missing = [s for s in range(shards) if not _shard_path(folder, s).is_dir()]
    done = shards - len(missing)
    for _ in _build_all(folder, config, missing, workers):
        done += 1
        if progress is not None:
            progress(done, shards)


def read_config(folder: str | os.PathLike) -> CorpusConfig:
    """Reads what a corpus was made from.

    Raises:
      DataError: if the folder contains no corpus of this format.
    """
    path = Path(folder) / "corpus.json"
    try:
        stored = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}: is not a corpus folder: {path.name} cannot be read ({error}). "
            "`mt3 synthesize` makes one."
        ) from error
    if stored.pop("format", None) != FORMAT:
        raise DataError(f"{path}: expected a corpus of format {FORMAT}.")
    return CorpusConfig(**stored)


def shard_folders(folder: str | os.PathLike) -> list[Path]:
    """Returns the finished shards of a corpus, up to the first one that is missing.

    While several processes render, later shards may be finished first. They wait, so
    that the n-th clip stays the same.
    """
    found = []
    while _shard_path(Path(folder), len(found)).is_dir():
        found.append(_shard_path(Path(folder), len(found)))
    return found


def render_shard(
    folder: Path, config: CorpusConfig, shard: int, library: Library | None
) -> Path:
    """Renders and writes one shard; see the module docstring."""
    kinds = sorted(config.mixture)
    shares = np.array([config.mixture[kind] for kind in kinds])
    count = config.clips_per_shard
    num_samples = int(round(config.clip_seconds * config.sample_rate))
    audio = np.zeros((count, num_samples), np.int16)
    clips = np.zeros(count, CLIP_DTYPE)
    notes = []
    soundfonts = [
        open_soundfont(path, config.sample_rate, exact=exact)
        for exact, paths in (
            (False, config.soundfonts),
            (True, config.exact_soundfonts),
        )
        for path in paths
    ]
    for place in range(count):
        rng = np.random.default_rng([config.seed, shard, place])
        kind = int(rng.choice(len(kinds), p=shares / shares.sum()))
        samples, clip_notes, font = _render_clip(
            rng, kinds[kind], library, soundfonts, config.clip_seconds
        )
        audio[place] = samples
        notes.append(clip_notes)
        clips[place] = (
            kind,
            font,
            len(note_arrays.parts(clip_notes)),
            len(clip_notes) / config.clip_seconds,
        )
    return _write_shard(folder, shard, audio, notes, clips)


def _render_clip(
    rng: np.random.Generator,
    kind: str,
    library: Library | None,
    soundfonts: Sequence[SoundFont],
    seconds: float,
) -> tuple[np.ndarray, np.ndarray, int]:
    """Returns a clip's int16 samples, its notes, and the place of its soundfont."""
    # Some clips are played slightly too fast or too slow, including the drums.
    detuned = rng.random() < _DETUNED
    cents = float(rng.uniform(-_DETUNED_CENTS, _DETUNED_CENTS)) if detuned else 0.0
    num_samples = int(round(seconds * soundfonts[0].sample_rate))
    played = int(round(num_samples * 2 ** (cents / 1200)))
    factor = played / num_samples
    for _ in range(5):
        clip = recipes.draw_clip(rng, kind, library, soundfonts, seconds * factor)
        notes = note_arrays.window(clip.notes, 0.0, seconds * factor)
        if len(notes) >= 2:
            break
    samples = effects.change_speed(clip.render(seconds * factor), num_samples)
    notes = note_arrays.without_tracks(orchestration.change_tempo(notes, factor))
    peak = float(np.abs(samples).max(initial=0.0))
    scale = _PEAK * 32767 / peak if peak > 0 else 0.0
    counts = dict.fromkeys(range(len(soundfonts)), 0)
    keys, sizes = np.unique(note_arrays.part_keys(notes), return_counts=True)
    for key, size in zip(keys.tolist(), sizes.tolist(), strict=True):
        font = clip.fonts[(0, True) if key == 128 else (key, False)]
        counts[soundfonts.index(font)] += size
    most = max(counts, key=counts.__getitem__)
    return np.round(samples * scale).astype(np.int16), notes, most


def _write_shard(
    folder: Path,
    shard: int,
    audio: np.ndarray,
    notes: list[np.ndarray],
    clips: np.ndarray,
) -> Path:
    final = _shard_path(folder, shard)
    partial = final.with_name(f"{final.name}.{os.getpid()}.partial")
    try:
        partial.mkdir()
        np.save(partial / "audio.npy", audio)
        np.save(partial / "notes.npy", np.concatenate(notes))
        ends = np.cumsum([0, *map(len, notes)], dtype=np.int64)
        np.save(partial / "offsets.npy", ends)
        np.save(partial / "clips.npy", clips)
        os.replace(partial, final)
    except OSError as error:
        raise files.cannot_write(final, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return final


def _build_all(
    folder: Path, config: CorpusConfig, missing: list[int], workers: int
) -> Iterable[int]:
    """Renders the missing shards; yields the number of each when it is finished."""
    if workers <= 1 or len(missing) <= 1:
        for shard in missing:
            yield _build_one(str(folder), config, shard)
        return
    with terminal.worker_processes(workers) as pool:
        jobs = [pool.submit(_build_one, str(folder), config, s) for s in missing]
        for job in concurrent.futures.as_completed(jobs):
            yield job.result()


def _build_one(folder: str, config: CorpusConfig, shard: int) -> int:
    library, _ = _open_library(folder, config.midi_folders)
    render_shard(Path(folder), config, shard, library)
    return shard


@functools.lru_cache(maxsize=2)
def _open_library(
    folder: str, midi_folders: tuple[str, ...]
) -> tuple[Library | None, list[str]]:
    if not midi_folders:
        return None, []
    return load_library(midi_folders, Path(folder) / "library.npz")


def _compare(folder: Path, config: CorpusConfig) -> None:
    """Checks that a corpus that is there has the same description."""
    stored = read_config(folder)
    for field in dataclasses.fields(CorpusConfig):
        was, now = getattr(stored, field.name), getattr(config, field.name)
        if was != now:
            raise DataError(
                f"{folder}: contains a corpus made with {field.name} {was}, "
                f"now asked for with {now}. Name another folder."
            )


def _write_config(folder: Path, config: CorpusConfig) -> None:
    text = json.dumps({"format": FORMAT, **dataclasses.asdict(config)}, indent=2)
    files.write_text(folder / "corpus.json", f"{text}\n")


def _shard_path(folder: Path, shard: int) -> Path:
    return folder / f"shard_{shard:05d}"
