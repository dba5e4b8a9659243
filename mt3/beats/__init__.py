"""Beats of recordings: from seconds to bars.

    beats = tracking.track(transcription.notes, transcription.duration)
    beats = Beats.steady(120.0, seconds=30.0)
    beats = read_beats("song.beats")
    beats.to_beats([1.25])     # [2.5]

`Beats` is what the writers of MIDI files and scores read. What tracks them is imported
where that is done, `librosa` only for beats that follow a changing tempo.
"""

from mt3.beats.grid import Beats, TempoChange, TimeSignature, read_beats

MODES = ("track", "steady", "follow")
"""Ways of tracking: the first decides between the others."""
NO_BEATS = "off"

__all__ = [
    "MODES",
    "NO_BEATS",
    "Beats",
    "TempoChange",
    "TimeSignature",
    "read_beats",
]
