"""MT3: music transcription, recorded audio in, multi-instrument MIDI out."""

from mt3.version import __version__ as __version__
