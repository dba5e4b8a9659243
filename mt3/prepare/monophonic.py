"""Clips of recordings that are judged monophonic, with notes inferred from the pitch.

    archive = Monophonic.open("recordings", settings, tracker="pyin")

For pre-training as in Simon et al., "Scaling Polyphonic Transcription with Mixtures of
Monophonic Transcriptions" (ISMIR 2022): one line of notes is transcribed without a
model, and what a model learns from are mixtures of such clips.

Every recording is cut into clips of 5 s, at 16 kHz. Of each a pitch tracker
(`pitch_trackers`) says the pitch 100 times a second, and how sure it is. A clip is
left out when

* fewer than 20 % of the frames have a confidence of 0.95 or more, or
* its frames' log-likelihood under a model of one line of notes (`pitch_hmm`) is below
  0.3 per frame, or
* that model finds no note in it, or
* it is the end of a recording and shorter.

The notes of the others are the model's most likely ones, with velocity 100. What was
decided on every clip, and the numbers that it was decided by, are among the remarks of
`prepare-report.json`.

A record holds `audio` (float [80000]), `filename` (of the recording, from the folder
on), `offset` (of the clip's first sample, at 16 kHz), `sampling_rate` (16000) and
`sequence` (times from the clip's start). Validation gets a tenth of the recordings,
by the hash of their names, so that clips of one recording stay together; a single
recording is for training.

What plays is not known. The notes have program 0, or the one given, or that of the
folder that a recording lies in: `violin/`, `Flute/`, `40/` are General MIDI's names or
numbers; folders in between, as in `violin/session 2/`, do not matter.
"""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mt3 import files
from mt3.audio import formats, reading
from mt3.errors import (
    ConfigError,
    DataError,
    check_choice,
    check_number,
    near_misses,
)
from mt3.midi import general_midi
from mt3.note_sequences import Note
from mt3.prepare import pitch_trackers, sequences
from mt3.prepare.archives import contents
from mt3.prepare.folder import check_shares, divide
from mt3.prepare.items import Archive, Item, LeftOut, Listing, Problem, Record, Settings
from mt3.prepare.pitch_hmm import PitchHmm
from mt3.prepare.pitch_trackers import SAMPLE_RATE
from mt3.vocabularies import NUM_PROGRAMS

CLIP_SECONDS = 5.0
CLIP_SAMPLES = round(CLIP_SECONDS * SAMPLE_RATE)
BY_FOLDER = "folder"


@dataclasses.dataclass(frozen=True)
class Rules:
    """What makes a clip monophonic.

    Attributes:
      tracker: a name of `pitch_trackers.TRACKERS`.
      confidence: from which on a frame is sure, 0..1.
      sure_frames: the share of frames that have to be, 0..1.
      log_likelihood: the least, per frame.
      hmm: the model of one line of notes.

    Raises:
      ConfigError: an unknown tracker, or a number out of its range.
    """

    tracker: str = "pyin"
    confidence: float = 0.95
    sure_frames: float = 0.2
    log_likelihood: float = 0.3
    hmm: PitchHmm = PitchHmm()

    def __post_init__(self) -> None:
        check_choice("tracker", self.tracker, pitch_trackers.TRACKERS)
        check_number("confidence", self.confidence, 0.0, 1.0)
        check_number("sure_frames", self.sure_frames, 0.0, 1.0)
        check_number("log_likelihood", self.log_likelihood, -1000.0, 1000.0)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """What was decided on a clip.

    Attributes:
      reason: why it is left out; "" for a clip that is kept.
      sure_frames: share of frames with enough confidence.
      log_likelihood: per frame.
      notes: the inferred ones, of a clip that is left out, too.
    """

    reason: str
    sure_frames: float
    log_likelihood: float
    notes: tuple[Note, ...]


def judge(samples: np.ndarray, rules: Rules = Rules(), program: int = 0) -> Judgement:
    """Decides on a clip and infers its notes.

    Args:
      samples: float32 [n], at 16 kHz.
      rules: what makes it monophonic.
      program: of the notes.

    Raises:
      ConfigError: the tracker is not installed.
    """
    pitches, confidences = pitch_trackers.track(samples, rules.tracker)
    sure = float(np.mean(confidences >= rules.confidence))
    emissions = rules.hmm.emissions(pitches, confidences)
    likelihood = rules.hmm.log_likelihood(emissions) / len(emissions)
    notes = rules.hmm.notes(rules.hmm.most_likely_states(emissions), program)
    reason = ""
    if sure < rules.sure_frames:
        reason = "not sure"
    elif likelihood < rules.log_likelihood:
        reason = "not likely"
    elif not notes:
        reason = "no notes"
    return Judgement(reason, sure, likelihood, tuple(notes))


@dataclasses.dataclass(frozen=True)
class Monophonic(Archive):
    """See `mt3.prepare.items.Archive`."""

    root: Path
    settings: Settings
    rules: Rules
    program: str
    validation: float = 0.1
    dataset: str = "monophonic"

    @classmethod
    def open(
        cls,
        source: str | os.PathLike[str],
        settings: Settings,
        *,
        tracker: str = Rules.tracker,
        confidence: float = Rules.confidence,
        sure_frames: float = Rules.sure_frames,
        log_likelihood: float = Rules.log_likelihood,
        program: str = "0",
        validation: float = 0.1,
    ) -> Monophonic:
        """Checks the folder and the options.

        Args:
          source: the folder, searched at any depth.
          settings: see `Settings`; the sample rate is 16 kHz.
          tracker: see `Rules`, as the next three.
          confidence: likewise.
          sure_frames: likewise.
          log_likelihood: likewise.
          program: of all notes, a number or a General MIDI name; or "folder" for that
            of the folder that a recording lies in.
          validation: share of the recordings.

        Raises:
          DataError: there is no such folder.
          ConfigError: an option that makes no sense, or a tracker that is not
            installed.
        """
        root = Path(source)
        if not root.is_dir():
            found = "a file" if files.exists(root, DataError) else "nothing there"
            raise DataError(f"{source}: expected a folder of recordings, found {found}")
        if settings.sample_rate != SAMPLE_RATE:
            raise ConfigError(
                f"prepare monophonic: sample rate {settings.sample_rate} Hz; pitch is "
                f"tracked at {SAMPLE_RATE} Hz, and the clips have that rate"
            )
        check_shares(validation, 0.0)
        rules = Rules(tracker, confidence, sure_frames, log_likelihood)
        pitch_trackers.check_installed(tracker)
        if program != BY_FOLDER and program_of(program) is None:
            raise ConfigError(
                f"prepare monophonic: program {program!r}; expected 0 to "
                f"{NUM_PROGRAMS - 1}, a General MIDI name, or {BY_FOLDER!r}."
                f"{near_misses(program, general_midi.PROGRAMS)}"
            )
        return cls(root, settings, rules, program, validation)

    def options(self) -> dict[str, Any]:
        """See `Archive`."""
        rules = dataclasses.asdict(self.rules)
        return {**rules, "program": self.program, "validation": self.validation}

    def listing(self) -> Listing:
        """See `Archive`."""
        found = files.search(self.root, formats.SUFFIXES)
        problems = [Problem(str(self.root), reason) for reason in found.problems]
        items = []
        for path in map(Path, found.files):
            name = path.relative_to(self.root)
            program = self._program(name)
            if program is None:
                reason = f"{path}: no folder above it is named as a program"
                problems.append(Problem(name.as_posix(), reason))
            else:
                items.append(Item(name.as_posix(), (path,), {"program": program}))
        if not items and not problems:
            raise DataError(
                f"{self.root}: looked for recordings (.wav, .flac, .mp3, .ogg ...); "
                f"found {contents(self.root)}"
            )
        splits = divide(items, self.validation, 0.0)
        del splits["test"]
        if not self.validation:
            del splits["validation"]
        return Listing(splits, tuple(problems))

    def records(self, item: Item) -> Iterator[Record]:
        """See `Archive`. The last record has the remarks on all clips."""
        judged: list[Mapping[str, Any]] = []
        kept: Record | None = None
        pieces = reading.segments(item.files[0], segment_samples=CLIP_SAMPLES)
        for offset, samples in pieces:
            record, row = self._clip(item, offset, samples)
            judged.append(row)
            if record is not None:
                if kept is not None:
                    yield kept
                kept = record
        if kept is None:
            reasons = Counter(row["decision"] for row in judged)
            listed = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common())
            raise LeftOut(f"{item.files[0]}: none of its clips: {listed}", judged)
        yield dataclasses.replace(kept, remarks=tuple(judged))

    def _clip(
        self, item: Item, offset: int, samples: np.ndarray
    ) -> tuple[Record | None, Mapping[str, Any]]:
        """Returns the record of a clip, None if it is left out, and the remark."""
        row: dict[str, Any] = {"seconds": offset / SAMPLE_RATE}
        if len(samples) < CLIP_SAMPLES:
            return None, {**row, "decision": f"shorter than {CLIP_SECONDS:g} s"}
        found = judge(samples, self.rules, item.data["program"])
        row |= {
            "decision": found.reason or "kept",
            "sure_frames": round(found.sure_frames, 4),
            "log_likelihood": round(found.log_likelihood, 4),
            "notes": len(found.notes),
        }
        if found.reason:
            return None, row
        sequence = sequences.from_notes(found.notes, name=f"{item.id} {offset}")
        features = {
            "audio": samples,
            "filename": item.id,
            "offset": offset,
            "sampling_rate": float(SAMPLE_RATE),
            "sequence": sequence.SerializeToString(),
        }
        return Record(item.id, features, CLIP_SECONDS, len(found.notes)), row

    def _program(self, name: Path) -> int | None:
        """Returns the program of a recording, whose name counts from the root."""
        if self.program != BY_FOLDER:
            return program_of(self.program)
        found = (program_of(folder.name) for folder in name.parents)
        return next((program for program in found if program is not None), None)


def program_of(name: str) -> int | None:
    """Returns the program of a number or a General MIDI name, in any case; else None.

    "_" and "-" stand for spaces.
    """
    known = [_plain(program) for program in general_midi.PROGRAMS]
    known += map(str, range(NUM_PROGRAMS))
    name = _plain(name)
    return known.index(name) % NUM_PROGRAMS if name in known else None


def _plain(name: str) -> str:
    return name.replace("_", " ").replace("-", " ").casefold()
