"""The record of one transcription: what every output format is written from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import mt3
from mt3.beats import Beats
from mt3.midi import general_midi
from mt3.note_sequences import Note, validate_notes
from mt3.terminal import printable

# How a note appears in JSON, JSONL and CSV, in this order.
NOTE_COLUMNS = (
    "start_time",
    "end_time",
    "pitch",
    "velocity",
    "program",
    "instrument",
    "is_drum",
)
FORMAT_NAME = "mt3-transcription"
FORMAT_VERSION = 1
# Times are written in seconds with this many decimals.
TIME_DECIMALS = 6
CONFIDENCE_DECIMALS = 3


@dataclasses.dataclass(frozen=True)
class Transcription:
    """Notes of one recording, with the settings they were made with.

    Attributes:
      notes: the notes; kept sorted by onset, then program, drum flag and pitch.
      duration: seconds from time 0 to the end of what was transcribed, of a whole
        recording its length; at least the end of the last note is assumed where it
        is 0.
      source: name of the recording.
      model: name of the model.
      model_sha256: SHA-256 of the model's weights, hexadecimal, or "".
      settings: what the transcription was made with (JSON values).
      invalid_events: tokens that could not be decoded.
      dropped_events: tokens dropped because they lay past their segment's end.
      start: where in the recording the part that was transcribed begins, seconds; times
        count from the recording's start or from the part's, as `settings` say.
      warnings: what a user should know of the recording, e.g. that it was cut.
      beats: where the beats lie; None where none were found or asked for.
      version: version of this software.

    Raises:
      MidiError: a note that no format can hold (pitch, program, velocity or time
        out of range).
    """

    notes: Sequence[Note]
    duration: float = 0.0
    source: str = ""
    model: str = ""
    model_sha256: str = ""
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    invalid_events: int = 0
    dropped_events: int = 0
    start: float = 0.0
    warnings: Sequence[str] = ()
    beats: Beats | None = None
    version: str = mt3.__version__

    def __post_init__(self) -> None:
        # Names of files may hold bytes that are no text, which no format can hold.
        for name in ("source", "model"):
            object.__setattr__(self, name, printable(getattr(self, name)))
        validate_notes(self.notes, self.source or "transcription")
        in_order = sorted(
            self.notes, key=lambda n: (n.start_time, n.is_drum, n.program, n.pitch)
        )
        object.__setattr__(self, "notes", tuple(in_order))
        object.__setattr__(self, "warnings", tuple(self.warnings))

    @property
    def end_time(self) -> float:
        """Length to show, in seconds: the recording's or the last note's end."""
        return max([self.duration, *(note.end_time for note in self.notes)])

    @property
    def model_line(self) -> str:
        """Model name and the start of its hash, as pictures and MIDI text show it."""
        name = self.model or "unknown model"
        return f"{name} (sha256 {self.model_sha256})" if self.model_sha256 else name

    def by_instrument(self) -> dict[tuple[int, bool], list[Note]]:
        """Returns notes by (program, is_drum): programs ascending, drums last.

        Drums form one group under program 0, whatever program their notes carry.
        """
        groups: dict[tuple[int, bool], list[Note]] = {}
        for note in self.notes:
            key = (0 if note.is_drum else note.program, note.is_drum)
            groups.setdefault(key, []).append(note)
        return dict(sorted(groups.items(), key=lambda item: item[0][::-1]))

    def to_dict(self) -> dict[str, Any]:
        """Returns the record as JSON values."""
        beats = self.beats and self.beats.to_dict()
        if beats:
            beats["times"] = [round(time, TIME_DECIMALS) for time in beats["times"]]
        return {
            "format": FORMAT_NAME,
            "format_version": FORMAT_VERSION,
            "version": self.version,
            "source": self.source,
            "duration": round(self.duration, TIME_DECIMALS),
            "start": round(self.start, TIME_DECIMALS),
            "model": self.model,
            "model_sha256": self.model_sha256,
            "settings": dict(self.settings),
            "invalid_events": self.invalid_events,
            "dropped_events": self.dropped_events,
            "warnings": list(self.warnings),
            "beats": beats,
            "instruments": [
                {
                    "program": program,
                    "instrument": general_midi.instrument_name(program, is_drum),
                    "is_drum": is_drum,
                    "notes": len(notes),
                }
                for (program, is_drum), notes in self.by_instrument().items()
            ],
            "notes": [note_to_dict(note) for note in self.notes],
        }


def note_to_dict(note: Note) -> dict[str, Any]:
    """Returns a note's `NOTE_COLUMNS`, and `confidence` where it is known."""
    columns = {
        "start_time": round(note.start_time, TIME_DECIMALS),
        "end_time": round(note.end_time, TIME_DECIMALS),
        "pitch": note.pitch,
        "velocity": note.velocity,
        "program": note.program,
        "instrument": general_midi.instrument_name(note.program, note.is_drum),
        "is_drum": note.is_drum,
    }
    if note.confidence is not None:
        columns["confidence"] = round(note.confidence, CONFIDENCE_DECIMALS)
    return columns
