"""GuitarSet: 360 excerpts of solo guitar, about half a minute each.

    annotation/00_BN1-129-Eb_comp.jams
    audio_mono-mic/00_BN1-129-Eb_comp_mic.wav
    audio_mono-pickup_mix/00_BN1-129-Eb_comp_mix.wav

Names say player, style and chord progression, tempo, key, and whether the player
accompanies or plays solo. Progressions 1 and 2 of each style are for training, 3 for
validation, as published. The published counts (478 and 238) show that both recordings
of each excerpt were used; so they are here, each with a record of its own, unless
only one of the audio folders is there or `recordings` names one.

JAMS files are JSON; notes are those of the six `note_midi` annotations, one for each
string, their fractional pitches rounded. There are no velocities. mirdata would read
the same lists, but imports for seconds and needs an index from the network.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from note_seq.protobuf import music_pb2

from mt3.data.adapters import GUITARSET_PROGRAM
from mt3.errors import ConfigError, DataError
from mt3.note_sequences import DEFAULT_VELOCITY, Note, validate_notes
from mt3.prepare import recordings, sequences
from mt3.prepare.archives import contents, find_root
from mt3.prepare.items import Archive, Item, Listing, Problem, Record, Settings

RECORDINGS = {"mic": "audio_mono-mic", "mix": "audio_mono-pickup_mix"}
VALIDATION_PROGRESSION = "3"
_NAME = re.compile(r"\d\d_[A-Za-z]+(?P<progression>\d)-\d+-[^_]+_(comp|solo)$")


@dataclasses.dataclass(frozen=True)
class GuitarSet(Archive):
    """See `mt3.prepare.items.Archive`."""

    root: Path
    settings: Settings
    recordings: tuple[str, ...]
    dataset: str = "guitarset"

    @classmethod
    def open(
        cls, source: str, settings: Settings, *, recordings: Sequence[str] = ()
    ) -> GuitarSet:
        """Finds the annotations and the audio.

        Args:
          source: the archive's folder.
          settings: see `Settings`.
          recordings: "mic", "mix" or both; by default those whose folder is there.

        Raises:
          DataError: the annotations or the audio are missing.
          ConfigError: another recording.
        """
        root = find_root(source, ["annotation/*.jams"], "GuitarSet")
        unknown = set(recordings) - set(RECORDINGS)
        if unknown:
            raise ConfigError(
                f"GuitarSet: no recording {', '.join(sorted(unknown))}; there are "
                f"{', '.join(RECORDINGS)}"
            )
        there = [kind for kind in RECORDINGS if (root / RECORDINGS[kind]).is_dir()]
        missing = [kind for kind in recordings if kind not in there]
        if missing or not there:
            looked_for = [RECORDINGS[kind] for kind in missing or RECORDINGS]
            raise DataError(
                f"{root}: GuitarSet's audio: looked for {' or '.join(looked_for)}; "
                f"found {contents(root)}"
            )
        return cls(
            root, settings, tuple(k for k in there if not recordings or k in recordings)
        )

    def options(self) -> dict[str, Any]:
        """See `Archive`."""
        return {"recordings": list(self.recordings)}

    def listing(self) -> Listing:
        """See `Archive`."""
        splits: dict[str, list[Item]] = {"train": [], "validation": []}
        problems = []
        for jams in sorted((self.root / "annotation").glob("*.jams")):
            name = _NAME.match(jams.stem)
            if not name:
                reason = f"{jams}: expected a name such as 00_BN1-129-Eb_comp.jams"
                problems.append(Problem(jams.stem, reason))
                continue
            last = name["progression"] == VALIDATION_PROGRESSION
            split = "validation" if last else "train"
            for kind in self.recordings:
                path = self.root / RECORDINGS[kind] / f"{jams.stem}_{kind}.wav"
                song = f"{jams.stem}_{kind}"
                if path.is_file():
                    splits[split].append(Item(song, (path, jams)))
                else:
                    problems.append(Problem(song, f"no such file: {path}", split=split))
        return Listing(splits, tuple(problems))

    def records(self, item: Item) -> Iterator[Record]:
        """See `Archive`."""
        notes, strings = read_jams(item.files[1])
        sequence = sequences.from_notes(notes, instruments=strings)
        velocities = music_pb2.VelocityRange(min=DEFAULT_VELOCITY, max=DEFAULT_VELOCITY)
        yield recordings.make_record(
            item,
            sequence,
            self.settings,
            velocity_range=velocities.SerializeToString(),
        )


def read_jams(path: Path) -> tuple[list[Note], list[int]]:
    """Reads the notes of a JAMS file.

    Returns:
      The notes and, for each, the number of its string from 0.

    Raises:
      DataError: not JSON, or without notes as GuitarSet has them.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        annotations = [
            a for a in content["annotations"] if a["namespace"] == "note_midi"
        ]
        notes, strings = [], []
        for place, annotation in enumerate(annotations):
            for row in annotation["data"]:
                start = float(row["time"])
                end = start + float(row["duration"])
                notes.append(
                    Note(start, end, round(row["value"]), program=GUITARSET_PROGRAM)
                )
                strings.append(place)
        validate_notes(notes, str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: not a readable JAMS file: {error!r}") from error
    if not notes:
        raise DataError(f"{path}: holds no notes (annotations named note_midi)")
    return notes, strings
