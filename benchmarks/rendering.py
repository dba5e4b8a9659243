"""How fast a training corpus is rendered.

    python benchmarks/rendering.py --midi MIDI --soundfont A.sf2 --soundfont B.sf2

Prints seconds of audio for each second of processor time on one core, by kind of clip
(`recipes.KINDS`) and soundfont, drawing the notes included; the last column is for
clips whose parts are played by all of the soundfonts. Then it builds the same small
corpus with one process and with several, and prints seconds of audio for each second
that passed, and for each second of processor time, which other work on the machine
does not lower; both with the start of the processes.

Needs a synthesizer (`pip install --no-deps tinysoundfont`).
"""

# check: needs music and soundfonts

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mt3.synthesis import corpus, recipes, song_library, soundfont

SECONDS = 8.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--midi", action="append", default=[], help="MIDI folder; repeat")
    add("--soundfont", action="append", default=[], help=".sf2 or .sf3; repeat")
    add("--clips", type=int, default=16, help="clips for each figure")
    add("--workers", type=int, default=2, help="processes of the second build")
    add("--hours", type=float, default=0.2, help="of each build; 0: no builds")
    options = parser.parse_args(arguments)
    paths = options.soundfont or [str(soundfont.default_soundfont())]
    library = song_library.load_library(options.midi)[0] if options.midi else None
    by_kind(library, paths, options.clips)
    if options.hours > 0:
        builds(options, paths)


def by_kind(
    library: song_library.Library | None, paths: Sequence[str], clips: int
) -> None:
    """Prints the table of kinds and soundfonts."""
    fonts = [soundfont.open_soundfont(path) for path in paths]
    drawn = {font.path.stem[:14]: [font] for font in fonts if _plays_all(font)}
    if len(fonts) > 1:
        drawn["all of them"] = fonts
    print("seconds of audio per second of one core")
    print(f"{'':12}" + "".join(f"{name:>16}" for name in drawn))
    for kind in recipes.KINDS:
        rates = [_rate(kind, library, chosen, clips) for chosen in drawn.values()]
        print(f"{kind:12}" + "".join(f"{rate:16.0f}" for rate in rates))
        sys.stdout.flush()


def _plays_all(font: soundfont.SoundFont) -> bool:
    classes = all(font.can_play(program, False) for program in range(0, 120, 8))
    return classes and font.can_play(0, True)


def _rate(
    kind: str,
    library: song_library.Library | None,
    fonts: Sequence[soundfont.SoundFont],
    clips: int,
) -> float:
    # Latencies and silent keys are measured when first met: not counted.
    for counted in (False, True):
        start = time.process_time()
        for clip in range(clips):
            rng = np.random.default_rng([7, clip])
            recipes.draw_clip(rng, kind, library, fonts, SECONDS).render(SECONDS)
        if counted:
            return clips * SECONDS / (time.process_time() - start)
    raise AssertionError


def builds(options: argparse.Namespace, paths: Sequence[str]) -> None:
    """Prints the rates of whole builds, by time that passed."""
    print("\nwhole builds, seconds of audio")
    for workers in (1, options.workers):
        with tempfile.TemporaryDirectory() as folder:
            settings = {
                "midi_folders": options.midi,
                "soundfonts": paths,
                "clips_per_shard": 8,
                "workers": workers,
            }
            # One shard beforehand: the songs are read and cached.
            corpus.build_corpus(folder, hours=0.001, **settings)
            start, worked = time.perf_counter(), _processor_seconds()
            corpus.build_corpus(folder, hours=options.hours, **settings)
            passed = time.perf_counter() - start
            worked = _processor_seconds() - worked
            shards = len(corpus.shard_folders(Path(folder))) - 1
        audio = shards * 8 * SECONDS
        print(
            f"{workers} processes: {audio / passed:.0f} per second "
            f"({audio / passed / 2.048:.0f} segments of 2.048 s), "
            f"{audio / worked:.0f} per second of processor time"
        )


def _processor_seconds() -> float:
    """Returns what this process and its finished children have worked."""
    return sum(os.times()[:4])


if __name__ == "__main__":
    main()
