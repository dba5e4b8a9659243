"""Notes to standard MIDI files.

What is written (type 1):

* track 0: source name, model name and hash as text, tempos, and, where beats are
  known, time signatures and the key (`key.estimate_key`);
* one named track per General MIDI program, ascending, then "Drums" on channel 10.
  Program and drum flag are all that tells notes apart, so equal ones share a track.

Rules:

1. Ticks are at most 1 ms long (exactly 1 ms at 120 beats a minute), so the model's
   10 ms grid is kept and any time is off by at most half a millisecond. Only where
   a file would have more than `MAX_TICKS` ticks (2.7 hours at 120), more than
   common readers accept, are ticks longer.
2. Every note ends, at least one tick after it starts. A MIDI channel cannot hold
   two sounding notes of one pitch: the earlier one is ended where the later one
   starts; of two that start on one tick the longer one is kept.
3. There are 15 melodic channels. With more programs, the 15 that have most notes
   keep a channel each; every further one shares the channel on which it overlaps
   in time the least, keeps its own track, and sends a program change before its
   notes where another program had the channel. Sequencers that split by track are
   not affected; rule 2 then holds across the sharing programs. Each case is
   reported in the result's warnings.

4. Where `Transcription.beats` are known, every beat lies on a beat of the file and
   every downbeat on a bar line: the tempo changes from beat to beat by as little as
   keeps beats within half a millisecond. Beats before the first downbeat, and silence
   before the first beat (`Beats.from_zero`), are a first bar that may be short. Without
   beats the tempo only sets the grid that a sequencer shows.

Times in seconds stay what they are, to half a tick, with and without beats.
"""

from __future__ import annotations

import bisect
import dataclasses
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

import numpy as np

from mt3.beats import Beats
from mt3.errors import check_number
from mt3.midi import general_midi
from mt3.midi.reader import read_midi
from mt3.note_sequences import Note
from mt3.outputs.key import estimate_key
from mt3.outputs.transcription import Transcription

if TYPE_CHECKING:
    import mido

__all__ = ["Clock", "midi_bytes", "read_midi", "write_midi"]

DEFAULT_TEMPO = 120.0
MELODIC_CHANNELS = tuple(
    channel for channel in range(16) if channel != general_midi.DRUM_CHANNEL
)
MIN_TICKS_PER_BEAT = 480
MAX_TICKS = 9_900_000
# How far a beat may lie from its tick, in seconds, so that a steady tempo is one.
_BEAT_TOLERANCE = 0.0005
# Order of events on one tick.
_OFF, _PROGRAM, _ON = range(3)


@dataclasses.dataclass(frozen=True)
class _TickNote:
    """A note in ticks, with where it is written."""

    start: int
    end: int
    pitch: int
    velocity: int
    program: int


class TempoChange(NamedTuple):
    """From where on a tempo holds.

    Attributes:
      tick: where it begins.
      seconds: when that is.
      tempo: microseconds per quarter note, an integer.
    """

    tick: int
    seconds: float
    tempo: int


@dataclasses.dataclass(frozen=True)
class Clock:
    """The grid of a file.

    Attributes:
      ticks_per_beat: resolution: ticks of a quarter note.
      changes: the tempos in order; the first one begins at tick 0.
    """

    ticks_per_beat: int
    changes: tuple[TempoChange, ...]

    @classmethod
    def choose(cls, beats_per_minute: float, seconds: float) -> Clock:
        """Returns a grid by rule 1 for a file of one tempo and this length.

        Raises:
          ConfigError: a tempo that is no number from 4 to 1000.
        """
        check_number(
            "tempo in beats per minute", beats_per_minute, *general_midi.TEMPO_RANGE
        )
        tempo = round(60e6 / beats_per_minute)
        resolution = _resolution(tempo, seconds * 1e6 / tempo)
        return cls(resolution, (TempoChange(0, 0.0, tempo),))

    @classmethod
    def follow(cls, beats: Beats, seconds: float) -> Clock:
        """Returns a grid by rules 1 and 4 for a file of this length.

        Args:
          beats: beats of which the first lies at 0 seconds.
          seconds: length of the file.
        """
        quarters = beats.quarters_per_beat
        slowest = float(np.diff(beats.times).max()) * 1e6 / quarters
        resolution = _resolution(slowest, float(beats.to_beats(seconds)) * quarters)
        ticks = np.rint(np.arange(len(beats.times)) * quarters * resolution)
        changes: list[TempoChange] = []
        now, tempo = 0.0, 0
        for i, length in enumerate(np.diff(ticks).astype(int).tolist()):
            scale = 1e-6 * length / resolution
            left = float(beats.times[i + 1]) - now
            if abs(left - tempo * scale) > _BEAT_TOLERANCE:
                tempo = min(max(round(left / scale), 1), 0xFFFFFF)
                changes.append(TempoChange(int(ticks[i]), now, tempo))
            now += tempo * scale
        return cls(resolution, tuple(changes))

    def ticks(self, seconds: float) -> int:
        """Returns the tick nearest to a time."""
        at = bisect.bisect_right(self.changes, seconds, key=lambda c: c.seconds) - 1
        change = self.changes[max(at, 0)]
        since = seconds - change.seconds
        return change.tick + round(since * 1e6 / change.tempo * self.ticks_per_beat)


def _resolution(tempo: float, quarters: float) -> int:
    """Returns the ticks of a quarter by rule 1, for the slowest tempo and a length."""
    # A multiple of 20 at or above one tick per millisecond.
    resolution = max(MIN_TICKS_PER_BEAT, 20 * math.ceil(tempo / 20_000))
    if quarters * resolution > MAX_TICKS:
        resolution = max(1, int(MAX_TICKS / quarters))
    return resolution


def write_midi(
    result: Transcription, stream: BinaryIO, *, tempo: float = DEFAULT_TEMPO
) -> list[str]:
    """Writes a transcription as a MIDI file.

    Args:
      result: what to write.
      stream: binary file to write to.
      tempo: beats per minute of the grid where no beats are known; times in seconds
        do not depend on it.

    Returns:
      Warnings: what could not be written as it was.

    Raises:
      ConfigError: a tempo out of range.
    """
    import mido

    beats = result.beats and result.beats.from_zero()
    if beats:
        clock = Clock.follow(beats, result.end_time)
    else:
        clock = Clock.choose(tempo, result.end_time)
    groups = result.by_instrument()
    channels, warnings = _assign_channels(groups)
    by_channel: dict[int, list[_TickNote]] = defaultdict(list)
    for key, notes in groups.items():
        by_channel[channels[key]] += [_to_ticks(note, key[0], clock) for note in notes]
    lost = trimmed = 0
    for channel, notes in by_channel.items():
        kept, num_trimmed = _separate(notes)
        lost, trimmed = lost + len(notes) - len(kept), trimmed + num_trimmed
        by_channel[channel] = kept
    if trimmed:
        warnings.append(f"{trimmed} notes ended early: their pitch was struck again")
    if lost:
        warnings.append(f"{lost} notes left out: another starts on the same tick")

    file = mido.MidiFile(type=1, ticks_per_beat=clock.ticks_per_beat, charset="utf-8")
    file.tracks.append(_conductor_track(result, clock, beats))
    for key in groups:
        channel = channels[key]
        shared = sum(other == channel for other in channels.values()) > 1
        events = _track_events(by_channel[channel], key[0], shared)
        name = general_midi.instrument_name(*key)
        file.tracks.append(_to_track(name, channel, events))
    file.save(file=stream)
    return warnings


def midi_bytes(result: Transcription, *, tempo: float = DEFAULT_TEMPO) -> bytes:
    """Returns the bytes of `write_midi`."""
    stream = io.BytesIO()
    write_midi(result, stream, tempo=tempo)
    return stream.getvalue()


def _assign_channels(
    groups: dict[tuple[int, bool], list[Note]],
) -> tuple[dict[tuple[int, bool], int], list[str]]:
    """Gives every (program, is_drum) a channel by rule 3; with warnings."""
    channels = {key: general_midi.DRUM_CHANNEL for key in groups if key[1]}
    melodic = [key for key in groups if not key[1]]
    by_size = sorted(melodic, key=lambda key: -len(groups[key]))
    own = set(by_size[: len(MELODIC_CHANNELS)])
    free = iter(MELODIC_CHANNELS)
    channels.update((key, next(free)) for key in melodic if key in own)
    members = {channels[key]: list(groups[key]) for key in own}
    warnings = []
    for key in by_size[len(MELODIC_CHANNELS) :]:
        channel = min(members, key=lambda c: (_overlap(groups[key], members[c]), c))
        host = next(k for k in channels if channels[k] == channel)
        warnings.append(
            f"{general_midi.instrument_name(*key)} shares channel {channel + 1} with "
            f"{general_midi.instrument_name(*host)}: MIDI has 15 melodic channels, "
            f"and there are {len(melodic)} programs"
        )
        channels[key] = channel
        members[channel] += groups[key]
    return channels, warnings


def _overlap(notes: Sequence[Note], others: Sequence[Note]) -> float:
    """Returns for how many seconds both groups sound."""
    edges = [(n.start_time, 0, 1) for n in notes] + [(n.end_time, 0, -1) for n in notes]
    edges += [(n.start_time, 1, 1) for n in others]
    edges += [(n.end_time, 1, -1) for n in others]
    sounding, total, last = [0, 0], 0.0, 0.0
    for time, group, step in sorted(edges):
        if all(sounding):
            total += time - last
        sounding[group] += step
        last = time
    return total


def _to_ticks(note: Note, program: int, clock: Clock) -> _TickNote:
    start = clock.ticks(note.start_time)
    end = max(start + 1, clock.ticks(note.end_time))
    return _TickNote(start, end, note.pitch, note.velocity, program)


def _separate(notes: Iterable[_TickNote]) -> tuple[list[_TickNote], int]:
    """Makes notes of equal pitch follow one another (rule 2).

    Returns:
      The notes, and how many of them were shortened.
    """
    by_pitch: dict[int, list[_TickNote]] = defaultdict(list)
    for note in sorted(notes, key=lambda n: (n.start, -n.end)):
        voice = by_pitch[note.pitch]
        if not voice or voice[-1].start < note.start:
            voice.append(note)
    trimmed, result = 0, []
    for voice in by_pitch.values():
        for note, following in zip(voice, [*voice[1:], None], strict=True):
            if following is not None:
                # Another track's note-off may be played after this note-on of the
                # same tick: on shared channels it comes one tick earlier.
                other = note.program != following.program
                end = min(note.end, following.start - other)
                trimmed += note.end > following.start
                note = dataclasses.replace(note, end=end)
            if note.end > note.start:
                result.append(note)
    return result, trimmed


def _track_events(
    notes: Sequence[_TickNote], program: int, shared: bool
) -> list[tuple[int, int, int, int]]:
    """Returns (tick, kind, number, velocity) of one program, sorted."""
    # On a channel of its own the program is set once, at the start. On a shared one
    # it is set wherever another program, or none, had the channel before.
    events = [] if shared else [(0, _PROGRAM, program, 0)]
    previous = None
    for note in sorted(notes, key=lambda n: (n.start, n.program, n.pitch)):
        if note.program == program:
            if shared and previous != program:
                events.append((note.start, _PROGRAM, program, 0))
            events.append((note.start, _ON, note.pitch, note.velocity))
            events.append((note.end, _OFF, note.pitch, 0))
        previous = note.program
    return sorted(events)


def _to_track(
    name: str, channel: int, events: Iterable[tuple[int, int, int, int]]
) -> mido.MidiTrack:
    """Returns a track of delta-timed messages."""
    import mido

    messages = [mido.MetaMessage("track_name", name=name, time=0)]
    now = 0
    for tick, kind, number, velocity in events:
        if kind == _PROGRAM:
            what = {"type": "program_change", "program": number}
        else:
            name_of_kind = "note_on" if kind == _ON else "note_off"
            what = {"type": name_of_kind, "note": number, "velocity": velocity}
        messages.append(mido.Message(channel=channel, time=tick - now, **what))
        now = tick
    messages.append(mido.MetaMessage("end_of_track", time=0))
    return mido.MidiTrack(messages)


def _conductor_track(
    result: Transcription, clock: Clock, beats: Beats | None
) -> mido.MidiTrack:
    """Returns track 0: where the notes come from, tempos, metre and key."""
    import mido

    texts = [f"Transcribed by mt3 {result.version}", f"Model: {result.model_line}"]
    name = _printable(result.source) or "Transcription"
    # (tick, message); the text stands first, where `outputs.is_ours` looks for it.
    timed = [(0, mido.MetaMessage("track_name", name=name))]
    timed += [(0, mido.MetaMessage("text", text=_printable(text))) for text in texts]
    if beats:
        ticks_per_beat = beats.quarters_per_beat * clock.ticks_per_beat
        for beat, length, unit in beats.time_signatures():
            message = mido.MetaMessage(
                "time_signature", numerator=length, denominator=unit
            )
            timed.append((round(beat * ticks_per_beat), message))
        if key := estimate_key(result.notes):
            timed.append((0, mido.MetaMessage("key_signature", key=key.name)))
    timed += [
        (change.tick, mido.MetaMessage("set_tempo", tempo=change.tempo))
        for change in clock.changes
    ]
    track, now = mido.MidiTrack(), 0
    for tick, message in sorted(timed, key=lambda pair: pair[0]):
        track.append(message.copy(time=tick - now))
        now = tick
    track.append(mido.MetaMessage("end_of_track", time=0))
    return track


def _printable(text: str) -> str:
    """Returns text without bytes that are none (in file names) or control codes."""
    text = text.encode("utf-8", errors="replace").decode("utf-8")
    return "".join(c if c.isprintable() else " " for c in text)
