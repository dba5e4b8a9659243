"""MT3: music transcription, recorded audio in, multi-instrument MIDI out."""

__version__ = "0.4.0"
