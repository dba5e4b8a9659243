"""MIDI files as tests write them: messages as tuples, bytes, small libraries."""

from __future__ import annotations

import mido


def write_midi(path, *tracks, ticks_per_beat=480):
    """Writes tracks of (name, delta ticks, fields) messages."""
    file = mido.MidiFile(ticks_per_beat=ticks_per_beat)
    for messages in tracks:
        track = mido.MidiTrack()
        for kind, time, fields in messages:
            make = mido.MetaMessage if kind == "set_tempo" else mido.Message
            track.append(make(kind, time=time, **fields))
        file.tracks.append(track)
    path.parent.mkdir(parents=True, exist_ok=True)
    file.save(path)
    return path


def on(time, note, velocity=90, channel=0):
    return "note_on", time, {"note": note, "velocity": velocity, "channel": channel}


def off(time, note, channel=0):
    return "note_off", time, {"note": note, "channel": channel}


def pedal(time, value, channel=0):
    return "control_change", time, {"control": 64, "value": value, "channel": channel}


def program(number, channel=0):
    return "program_change", 0, {"program": number, "channel": channel}


def tempo(time, microseconds):
    return "set_tempo", time, {"tempo": microseconds}


def scale(channel, count=12):
    messages = []
    for step in range(count):
        messages += [on(0, 60 + step, channel=channel), off(240, 60 + step, channel)]
    return messages


def make_library(folder):
    write_midi(folder / "band.mid", scale(0), scale(9))
    write_midi(folder / "score.mid", scale(0), [tempo(0, 1_000_000)])
    write_midi(folder / "groove.mid", scale(9))
    write_midi(folder / "tiny.mid", scale(0, count=2))
    (folder / "broken.mid").write_bytes(b"no")


def header(tracks=1, *, midi_type=1, division=480):
    """The 14 bytes at a file's beginning."""
    numbers = (midi_type, tracks, division)
    return b"MThd\0\0\0\6" + b"".join(n.to_bytes(2, "big") for n in numbers)


def track_bytes(data, size=None):
    """A track's chunk; `size` is what it states as its length."""
    size = len(data) if size is None else size
    return b"MTrk" + size.to_bytes(4, "big") + data


def mutated(data, draw):
    """Data with a few bytes changed, taken out, put in or repeated, perhaps cut."""
    data = bytearray(data)
    for _ in range(draw.randint(1, 8)):
        place = draw.randrange(len(data))
        kind = draw.randrange(5)
        if kind == 0:
            data[place] = draw.randrange(256)
        elif kind == 1:
            data[place] = draw.choice((0, 0x7F, 0x80, 0xF0, 0xF7, 0xFF))
        elif kind == 2:
            del data[place : place + draw.randint(1, 4)]
        elif kind == 3:
            data[place:place] = draw.randbytes(draw.randint(1, 4))
        else:
            data[place:place] = data[place : place + draw.randint(1, 40)]
        data = data or bytearray(1)
    return bytes(data[: draw.choice((len(data), draw.randrange(len(data)) + 1))])
