"""Finding out what a file is, and who decodes it."""

from __future__ import annotations

import pathlib
import shutil

from mt3.audio import formats, headers
from mt3.audio.decoders import Decoder
from mt3.audio.ffmpeg import FfmpegDecoder
from mt3.audio.headers import audio_error as _error
from mt3.audio.sndfile import SoundFileDecoder


def open_decoder(
    path: pathlib.Path, name: str, *, allow_truncated: bool = False
) -> Decoder:
    """Finds out what a file is and returns the decoder for it.

    Args:
      path: an audio file that can be rewound.
      name: what messages call it.
      allow_truncated: reads what is there of a file that was cut or is damaged,
        instead of raising.

    Returns:
      A decoder whose `info` is filled in; no samples have been read.

    Raises:
      AudioError: missing, not a file, empty, cut, no audio, or an unknown format.
    """
    head = headers.read_head(path, name)
    if head[:2] == b"\xf0\x7e":
        # libsndfile reads some, and prints of their damage among a program's results.
        raise _error(
            name, "found a MIDI sample dump (SDS)", f"expected {formats.SUPPORTED}"
        )
    if head[:4] == b"caff" and headers.has_damaged_packet_table(path):
        raise _error(name, "found a damaged packet table", "expected a whole CAF file")
    chunk = headers.find_sound_chunk(path)
    import soundfile

    try:
        return SoundFileDecoder(path, name, chunk, allow_truncated)
    except (soundfile.LibsndfileError, TypeError) as error:
        # TypeError: soundfile wants a sample rate for *.raw.
        reason = getattr(error, "error_string", str(error)).rstrip(".")
        if "regular file" in reason:
            # Its words for a file named *.mp3 in which it finds no MP3 frame.
            reason = "no MP3 frame was found"
    kind = headers.what_it_is(path, head)
    if kind:
        raise _error(name, f"found {kind}", f"expected {formats.SUPPORTED}")
    program = shutil.which("ffmpeg")
    if program is None:
        raise _error(
            name,
            f"libsndfile cannot read it ({reason})",
            f"expected {formats.SUPPORTED}. {formats.FFMPEG_HELP}",
        )
    return FfmpegDecoder(path, name, program, allow_truncated)
