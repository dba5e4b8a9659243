"""Beats of recordings: from seconds to bars.

    beats = track(transcription.notes, transcription.duration)
    beats = Beats.steady(120.0, seconds=30.0)
    beats = read_beats("song.beats")
    beats.to_beats([1.25])     # [2.5]

`Beats` is what the writers of MIDI files and scores read; `librosa` is imported only
where beats are tracked that follow a changing tempo.
"""

from mt3.beats.grid import Beats, TempoChange, TimeSignature, read_beats
from mt3.beats.tracking import track

__all__ = ["Beats", "TempoChange", "TimeSignature", "read_beats", "track"]
