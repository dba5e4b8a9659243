"""The formats of recordings: the one table that search, messages and pages use.

A file that is named is tried whatever its name ends in; the endings say what a folder
is searched for.
"""

from __future__ import annotations

import dataclasses
import shutil


@dataclasses.dataclass(frozen=True)
class Format:
    """A format of recordings.

    Attributes:
      name: as messages and pages name it.
      suffixes: endings of file names, lower case, with their dot.
      needs_ffmpeg: libsndfile does not read it; the ffmpeg program does.
    """

    name: str
    suffixes: tuple[str, ...]
    needs_ffmpeg: bool = False


FORMATS = (
    Format("WAV", (".wav", ".wave", ".bwf", ".rf64")),
    Format("FLAC", (".flac",)),
    Format("MP3", (".mp3", ".mp2", ".mpga")),
    Format("OGG (Vorbis, Opus)", (".ogg", ".oga", ".opus")),
    Format("AIFF", (".aif", ".aiff", ".aifc")),
    Format("AU", (".au", ".snd")),
    Format("CAF", (".caf",)),
    Format("W64", (".w64",)),
    Format("AAC, ALAC (MPEG-4)", (".m4a", ".m4b", ".aac"), needs_ffmpeg=True),
    Format("WMA", (".wma",), needs_ffmpeg=True),
    Format("AC-3", (".ac3",), needs_ffmpeg=True),
    Format("AMR", (".amr",), needs_ffmpeg=True),
    Format("WavPack", (".wv",), needs_ffmpeg=True),
    Format("Monkey's Audio", (".ape",), needs_ffmpeg=True),
    Format("Matroska, WebM (sound)", (".mka", ".weba"), needs_ffmpeg=True),
    Format(
        "the sound of videos",
        (
            *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".wmv"),
            *(".3gp", ".flv", ".mpg", ".mpeg", ".ogv"),
        ),
        needs_ffmpeg=True,
    ),
)

# Endings of recordings, lower case, with their dot.
SUFFIXES = frozenset(suffix for each in FORMATS for suffix in each.suffixes)
# What is read without the ffmpeg program, for messages.
SUPPORTED = ", ".join(each.name for each in FORMATS if not each.needs_ffmpeg)
FFMPEG_HELP = (
    "Others, such as M4A, AAC, WMA and videos, need the ffmpeg program on the PATH "
    "(Debian and Ubuntu: apt install ffmpeg; macOS: brew install ffmpeg; Windows: "
    "winget install ffmpeg)"
)


def readable_suffixes() -> set[str]:
    """Returns the endings of what can be read here, where ffmpeg may be missing."""
    has_ffmpeg = shutil.which("ffmpeg") is not None
    return {
        suffix
        for each in FORMATS
        if has_ffmpeg or not each.needs_ffmpeg
        for suffix in each.suffixes
    }
