"""MIDI files as tests write them: messages as tuples, small libraries."""

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
