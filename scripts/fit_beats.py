"""Fits the weights by which beats and bars are chosen (`mt3.beats.levels`, `bars`).

    python scripts/fit_beats.py --midi MIDI --weight nott=0.4 --weight mma=0.5

The beats of the MIDI files are what their tempos and time signatures say; files whose
notes lie on another grid are left out. Their notes are made as uncertain as
transcribed ones: some are missing, none is quite in time. `--transcribed FOLDER` adds
transcriptions (MIDI files of the same names), each of which counts twice.

A choice is likely by the exponential of its score, a weighted sum of its features; the
weights are those under which the right choices are likeliest, with a small penalty on
their squares. They are printed as the two modules have them.
"""

# check: needs music
from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.optimize

# Run as a file, its neighbours are found from the root of the source tree.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.beats import LEAST_ON_GRID, felt, midi_beats, on_grid
from mt3.beats import Beats, bars, levels, pulse
from mt3.beats.onsets import Onsets
from mt3.errors import MT3Error
from mt3.midi import note_arrays, reader

SECONDS = 60.0
MISSING, DEVIATION_SECONDS = 0.15, 0.008
PENALTY = 0.5
_FEWEST_NOTES, _FEWEST_BEATS = 20, 8
_SAME_TEMPO, _SAME_PHASE = 0.02, 0.12


class Choice(NamedTuple):
    """The features of all candidates, [candidates, features], and the right one."""

    features: np.ndarray
    right: int
    weight: float


def choose_level(onsets: Onsets, true: np.ndarray, weight: float) -> Choice | None:
    """Returns the choice of a beat; None where no candidate is right."""
    grid = pulse.find(onsets)
    points = (onsets.time - grid.start) / grid.period
    candidates = levels.candidates(grid.period)
    expected = np.median(np.diff(true))
    errors = []
    for first, multiple in candidates:
        period = multiple * grid.period
        off = (true - grid.start - first * grid.period) / period
        off = float(np.median(np.abs(off - np.round(off))))
        same = abs(period / expected - 1.0) < _SAME_TEMPO and off < _SAME_PHASE
        errors.append(off if same else np.inf)
    right = int(np.argmin(errors))
    if not np.isfinite(errors[right]):
        return None
    features = [
        levels.describe(onsets, c.positions(points), c.multiple * grid.period)
        for c in candidates
    ]
    return Choice(np.array(features), right, weight)


def choose_bar(onsets: Onsets, beats: Beats, weight: float) -> Choice | None:
    """Returns the choice of a bar; None where bars change or have other lengths."""
    true = felt(beats)
    length = round(beats.beats_per_bar * len(true) / len(beats.times))
    if len(beats.time_signatures()) > 1 or length not in bars.LENGTHS:
        return None
    first = int(np.abs(true - beats.downbeats[0]).argmin()) % length
    position = Beats(true).to_beats(onsets.time)
    features = bars.describe(onsets, position, len(true))
    return Choice(features, bars.candidates().index((length, first)), weight)


def fit(choices: Sequence[Choice]) -> np.ndarray:
    """Returns weights, [features]."""
    scale = np.concatenate([c.features for c in choices]).std(axis=0) + 1e-6

    def loss(weights):
        total, slope = PENALTY * weights @ weights, 2.0 * PENALTY * weights
        for features, right, weight in choices:
            scaled = features / scale
            scores = scaled @ weights
            odds = np.exp(scores - scores.max())
            odds /= odds.sum()
            total -= weight * np.log(odds[right] + 1e-30)
            slope = slope + weight * (odds @ scaled - scaled[right])
        return total, slope

    start = np.zeros(len(scale))
    found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B")
    return found.x / scale


def gather(
    folder: str, weights: dict[str, float], transcribed: Path | None
) -> Iterator[tuple[Onsets, Beats, float]]:
    """Yields onsets, true beats and weight of each version of each tune."""
    rng = np.random.default_rng(0)
    for path in reader.find_midi([folder]):
        try:
            notes = reader.read_song(path).notes
            notes = notes[notes["start_time"] < SECONDS]
            end = min(SECONDS, float(notes["end_time"].max(initial=1.0)))
            beats = midi_beats(path, end)
        except (MT3Error, ValueError, OSError) as error:
            print(f"{path}: left out: {error}", file=sys.stderr)
            continue
        if len(notes) < _FEWEST_NOTES or len(beats.times) < _FEWEST_BEATS:
            continue
        if on_grid(notes, beats) < LEAST_ON_GRID:
            continue
        weight = weights.get(path.parent.name, 1.0)
        heard = notes[rng.random(len(notes)) > MISSING].copy()
        late = rng.normal(0.0, DEVIATION_SECONDS, len(heard))
        heard["start_time"] = np.maximum(0.0, heard["start_time"] + late)
        yield Onsets.of(heard), beats, weight
        other = transcribed and transcribed / f"{path.stem}.mid"
        if other and other.is_file():
            read = note_arrays.to_array(reader.read_midi(other))
            yield Onsets.of(read), beats, 2.0 * weight


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--midi", required=True, metavar="DIR", help="MIDI files")
    parser.add_argument("--transcribed", type=Path, metavar="DIR")
    parser.add_argument(
        "--weight",
        action="append",
        default=[],
        metavar="FOLDER=W",
        help="how much each tune of a folder counts (default: 1)",
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints both tables of weights."""
    options = parse_arguments(arguments)
    weights = {name: float(w) for name, w in (x.split("=") for x in options.weight)}
    found: dict[str, list[Choice]] = {"levels": [], "bars": []}
    for onsets, beats, weight in gather(options.midi, weights, options.transcribed):
        level = choose_level(onsets, felt(beats), weight)
        if level is None:
            continue
        found["levels"].append(level)
        bar = choose_bar(onsets, beats, weight)
        if bar is not None:
            found["bars"].append(bar)
    for name, features in (("levels", levels.FEATURES), ("bars", bars.FEATURES)):
        choices = found[name]
        fitted = fit(choices)
        right = [int(np.argmax(c.features @ fitted)) == c.right for c in choices]
        print(f"# {name}: {sum(right)} of {len(right)} right")
        for feature, value in zip(features, fitted, strict=True):
            print(f'    "{feature}": {value:.2f},')


if __name__ == "__main__":
    main()
