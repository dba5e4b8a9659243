"""Renders a piece's corpus from a bundle's songs and soundfonts.

As a program, `python -m bundle.rendering`, it runs beside the training and yields
to it; what starts it ends it.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import functools
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from mt3 import terminal
from mt3.errors import ConfigError, MT3Error
from mt3.synthesis import corpus
from mt3.synthesis.song_library import Library

from . import songs

_NICE = 10


def render(
    folder: Path,
    config: corpus.CorpusConfig,
    songs_file: Path | None,
    *,
    hours: float,
    workers: int,
) -> Iterator[int]:
    """Renders a corpus, yielding the number of finished shards after each.

    Args:
      folder: the corpus; made if it does not exist.
      config: what it is made of; `midi_folders` stays empty.
      songs_file: what `songs.write_songs` wrote; None for random notes alone.
      hours: audio in all, rounded up to whole shards.
      workers: processes.

    Raises:
      ConfigError: for settings that cannot work.
      DataError: songs or soundfonts cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"format": corpus.FORMAT, **dataclasses.asdict(config)}, indent=2)
    (folder / "corpus.json").write_text(text + "\n", encoding="utf-8")
    seconds = config.clips_per_shard * config.clip_seconds
    shards = max(1, math.ceil(hours * 3600 / seconds - 1e-9))
    done = 0
    if workers <= 1:
        _start_worker(folder, config, songs_file)
        for shard in range(shards):
            _render_shard(shard)
            done += 1
            yield done
        return
    start = functools.partial(_start_worker, folder, config, songs_file)
    with terminal.worker_processes(workers, start) as pool:
        jobs = [pool.submit(_render_shard, shard) for shard in range(shards)]
        for job in concurrent.futures.as_completed(jobs):
            job.result()
            done += 1
            yield done


_work: tuple[Path, corpus.CorpusConfig, Library | None]


def _start_worker(
    folder: Path, config: corpus.CorpusConfig, songs_file: Path | None
) -> None:
    global _work
    terminal.end_with_parent()
    library = None if songs_file is None else Library(songs.read_songs(songs_file))
    _work = (folder, config, library)


def _render_shard(shard: int) -> None:
    folder, config, library = _work
    corpus.render_shard(folder, config, shard, library)


def main(argv: Sequence[str] | None = None) -> int:
    """Renders as the arguments say; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("folder", type=Path)
    add("--songs", type=Path)
    add("--soundfont", action="append", required=True)
    add("--exact", action="append", default=[])
    add("--seed", type=int, default=0)
    add("--hours", type=float, default=1.0)
    add("--workers", type=int, default=1)
    add("--clips_per_shard", type=int, default=64)
    add("--sample_rate", type=int, default=16000)
    options = parser.parse_args(argv)
    with contextlib.suppress(OSError):
        os.nice(_NICE)
    try:
        if options.workers < 1:
            raise ConfigError(f"--workers is {options.workers}; expected 1 or more")
        config = corpus.CorpusConfig(
            soundfonts=tuple(options.soundfont),
            exact_soundfonts=tuple(options.exact),
            mixture=dict(sorted(corpus.DEFAULT_MIXTURE.items())),
            seed=options.seed,
            clips_per_shard=options.clips_per_shard,
            sample_rate=options.sample_rate,
        )
        hours_per_shard = config.clips_per_shard * config.clip_seconds / 3600
        said = 0
        for done in render(
            options.folder,
            config,
            options.songs,
            hours=options.hours,
            workers=options.workers,
        ):
            # Often at first, while training waits; seldom later.
            if done == 1 or done >= 1.5 * said:
                said = done
                print(f"rendered {done * hours_per_shard:.2f} h", flush=True)
        print(f"rendered all of {options.hours:g} h", flush=True)
    except MT3Error as error:
        print(f"rendering: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
