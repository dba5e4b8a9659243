"""Accuracy on held-out music: what the model card's tables come from.

Renders MIDI files through soundfonts, transcribes the audio and scores the result
against the notes. Two versions of every piece: as it is (several instruments and
drums), and all pitched parts on a piano; with `--solos` also solos of each group of
instruments, and sums of two or three of them with drums (`held_out.py`). Each
soundfont has tables of its own:

    python benchmarks/accuracy.py --midi MIDI --soundfont A320U.sf2 --soundfont SF2

Recordings, each beside a MIDI file of its notes, have their own tables too, one set
for each folder in the folder:

    python benchmarks/accuracy.py --recordings DIR --seconds whole

Several models, and transcriptions that other programs made of the same audio
(`run_peers.py`), are put beside one another:

    python benchmarks/accuracy.py --midi MIDI --soundfont SF2 --write-audio AUDIO
    python benchmarks/accuracy.py --midi MIDI --soundfont SF2 --seconds 30 --solos \
        --model default --model new=new.safetensors --estimates basic_pitch=FOLDER

and ways of decoding and mending (`--option decode=greedy` for all models, `--compare`
for one row for each; without a list, for all of `CHOICES`):

    python benchmarks/accuracy.py --midi MIDI --soundfont SF2 --seconds 30 --compare

Rendering needs a synthesizer (`pip install --no-deps tinysoundfont`). The same files,
soundfont and model give the same tables to the digit; speeds are told on standard
error.
"""

# check: needs music, soundfonts and an hour

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

# Run as a file, its neighbours are found from the root of the source tree.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import (
    accuracy_tables,
    estimates,
    group_scores,
    held_out,
    note_errors,
)
from mt3.errors import ConfigError, MT3Error
from mt3.midi import reader
from mt3.note_sequences import Note
from mt3.scoring import counts as metrics
from mt3.scoring import instruments as instrument_metrics
from mt3.synthesis import soundfont

# What `--compare` tries: the balance of missed and extra notes, the token decoder, and
# the clean-up.
CHOICES = (
    *(f"sensitivity={value}" for value in (0.3, 0.4, 0.6, 0.7)),
    "decode=beam1",
    "decode=greedy",
    "min_duration=0.05",
    "instrument_flicker=0.05",
)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    add = parser.add_argument
    add("--midi", metavar="DIR", help="MIDI files, to be rendered")
    add(
        "--soundfont",
        action="append",
        default=[],
        metavar="SF2",
        help=".sf2 or .sf3 file; repeat for several, each with tables of its own",
    )
    add(
        "--recordings",
        metavar="DIR",
        help="recordings beside MIDI files of their notes",
    )
    add(
        "--seconds",
        type=_seconds,
        default=60.0,
        metavar="S|whole",
        help="of each piece, from its beginning; or whole pieces (default: 60)",
    )
    add("--files", type=int, metavar="N", help="only the first N")
    add("--solos", action="store_true", help="also solos, and sums of them")
    add(
        "--model",
        action="append",
        default=[],
        metavar="[LABEL=]NAME|PATH",
        help="a model; repeat for several (default: default)",
    )
    add(
        "--estimates",
        action="append",
        default=[],
        metavar="[LABEL=]DIR",
        help="MIDI files of another program, named as the files of --write-audio; "
        "repeat for several",
    )
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of all models, e.g. decode=greedy, grammar=false, min_duration=0.05",
    )
    add(
        "--compare",
        nargs="*",
        metavar="NAME=VALUE[,...]",
        help="a row for each of these changes of options (default: all choices)",
    )
    add(
        "--write-audio",
        metavar="DIR",
        help="write the pieces as WAV and MIDI; without --model and --estimates, "
        "nothing else is done",
    )
    add("--json", help="also write all scores, of every piece too, to this file")
    return parser.parse_args(arguments)


def _seconds(text: str) -> float | None:
    """Reads a length; None for whole pieces."""
    if text == "whole":
        return None
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise ValueError
    return seconds


def score_pieces(
    pieces: Sequence[held_out.Piece], songs: Sequence[Sequence[Note]]
) -> list[dict[str, Any]]:
    """Scores the transcriptions of pieces.

    Returns:
      Of each piece its name, its group, "scores" by name, "groups" and "polyphony".
    """
    records = []
    for piece, notes in zip(pieces, songs, strict=True):
        reference = piece.notes
        counts = metrics.song_counts(reference, notes)
        instruments = instrument_metrics.count_instruments(reference, notes)
        scores = metrics.scores_of_counts(counts) | instruments.scores()
        scores |= note_errors.note_errors(reference, notes)
        if piece.group:
            scores |= group_scores.solo_scores(instruments.classes)
        records.append(
            {
                "piece": piece.name,
                "group": piece.group,
                "reference_notes": len(reference),
                "estimated_notes": len(notes),
                "scores": scores,
                "groups": group_scores.count_groups(reference, notes),
                "polyphony": group_scores.count_polyphony(reference, notes),
            }
        )
    return records


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Averages scores over pieces; adds counts by group and polyphony up."""
    by_group: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        if record["group"]:
            by_group.setdefault(record["group"], []).append(record)
    return {
        "pieces": len(records),
        "scores": metrics.mean_metrics([record["scores"] for record in records]),
        "groups": group_scores.add_up(record["groups"] for record in records),
        "polyphony": group_scores.add_up(record["polyphony"] for record in records),
        "solos": {group: summarise_solos(solos) for group, solos in by_group.items()},
    }


def summarise_solos(records: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Averages the scores of one group's solos.

    Returns:
      Mean scores by name; "Group F1" is that of the notes given to the group's own
      instruments, all solos together.
    """
    group = records[0]["group"]
    counts = group_scores.add_up(record["groups"] for record in records)[group]
    return {
        **metrics.mean_metrics([record["scores"] for record in records]),
        "Group F1": counts.scores()["F1"],
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the tables; returns the exit code."""
    options = parse_arguments(arguments)
    try:
        return _run(options)
    except MT3Error as error:
        print(f"accuracy: error: {error}", file=sys.stderr)
        return 1


def _run(options: argparse.Namespace) -> int:
    models, folders = options.model, options.estimates
    choices = options.compare
    if choices is not None and not choices:
        choices = CHOICES
    if not models and (not folders or choices):
        models = ["default"]
    # A wrong option must not wait for the rendering.
    columns = estimates.make_columns(
        models, folders, estimates.parse_options(options.option), choices or ()
    )
    sets = gather_pieces(options)
    if options.write_audio:
        for pieces in sets.values():
            held_out.write_pieces(pieces, Path(options.write_audio))
        if not options.model and not folders:
            return 0
    # By soundfont (or "recordings"), column and set.
    records: dict[str, dict[str, dict[str, Any]]] = {}
    summaries: dict[str, dict[str, dict[str, Any]]] = {}
    for column, (source, kind), songs in estimates.transcribe(columns, sets):
        scored = score_pieces(sets[source, kind], songs)
        for everything, item in ((records, scored), (summaries, summarise(scored))):
            everything.setdefault(source, {}).setdefault(column.label, {})[kind] = item
    length = "whole" if options.seconds is None else f"first {options.seconds:g} s"
    table = accuracy_tables.comparison if choices else accuracy_tables.all_tables
    for source, summary in summaries.items():
        print(f"{source}, {length}\n\n{table(summary)}\n")
    if options.json:
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        record = accuracy_tables.to_json(settings, summaries, records)
        Path(options.json).write_text(record)
    return 0


def gather_pieces(
    options: argparse.Namespace,
) -> dict[estimates.SetKey, list[held_out.Piece]]:
    """Makes what the options ask for: rendered tunes, and recordings apart from them.

    Raises:
      MT3Error: nothing is asked for, or it cannot be read or rendered.
    """
    if bool(options.midi) != bool(options.soundfont):
        raise ConfigError("accuracy: --midi and --soundfont need one another")
    if not (options.midi or options.recordings):
        raise ConfigError("accuracy: expected --midi and --soundfont, or --recordings")
    if options.files is not None and options.files < 1:
        raise ConfigError(f"--files: {options.files}; expected at least 1")
    sources = {}
    for path in options.soundfont:
        files = reader.find_midi([options.midi])[: options.files]
        font = soundfont.open_soundfont(path, held_out.SAMPLE_RATE)
        if font.path.stem in sources:
            raise ConfigError(f"accuracy: two soundfonts are called {font.path.stem}")
        sources[font.path.stem] = held_out.make_pieces(
            files, font, options.seconds, solos=options.solos
        )
    if options.recordings:
        sources[held_out.RECORDINGS] = held_out.find_recordings(
            Path(options.recordings), options.seconds
        )
    return {
        (source, kind): pieces
        for source, sets in sources.items()
        for kind, pieces in sets.items()
    }


if __name__ == "__main__":
    sys.exit(main())
