"""From a stem's metadata to its class: the 34 pitched classes of the MT3 paper, drums.

The classes are Slakh's own. It was rendered with a table of them (`classes_strict.json`
of github.com/ethman/slakh-generation) that gives each class its General MIDI programs
and its plugins; a stem's plugin was drawn from those of its program's class. So the
program tells the class. The joins are not always what one would guess: a harpsichord
is an Acoustic Piano, an electric grand an Electric Piano.

Differences from that table, numbered:

1. It leaves out synth basses (38, 39) and synth brass (62, 63). Should such a stem have
   been rendered, it is an Electric Bass or of the Brass Section.
2. Without a program, the name of the General MIDI family, `inst_class`, decides (with
   the family's first class).

Sound effects, ethnic and percussive programs, 96 to 127, have no class: Slakh has no
plugins for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

DRUMS = "Drums"
# The program that Slakh writes for drums.
DRUM_PROGRAM = 128
# Class -> its programs. Notes of the class are read as the first one.
CLASS_PROGRAMS: Mapping[str, tuple[int, ...]] = {
    "Acoustic Piano": (0, 1, 3, 6),
    "Electric Piano": (4, 2, 5, 7),
    "Chromatic Percussion": tuple(range(8, 16)),
    "Organ": tuple(range(16, 24)),
    "Acoustic Guitar": (24, 25),
    "Clean Electric Guitar": (26, 27, 28, 31),
    "Distorted Electric Guitar": (29, 30),
    "Acoustic Bass": (32,),
    "Electric Bass": tuple(range(33, 40)),
    "Violin": (40,),
    "Viola": (41,),
    "Cello": (42,),
    "Contrabass": (43,),
    "Orchestral Harp": (46,),
    "Timpani": (47,),
    "String Ensemble": (48, 49, 44, 45),
    "Synth Strings": (50, 51),
    "Choir and Voice": (52, 53, 54),
    "Orchestral Hit": (55,),
    "Trumpet": (56, 59),
    "Trombone": (57,),
    "Tuba": (58,),
    "French Horn": (60,),
    "Brass Section": (61, 62, 63),
    "Soprano/Alto Sax": (64, 65),
    "Tenor Sax": (66,),
    "Baritone Sax": (67,),
    "Oboe": (68,),
    "English Horn": (69,),
    "Bassoon": (70,),
    "Clarinet": (71,),
    "Pipe": (73, 72, 74, 75, 76, 77, 78, 79),
    "Synth Lead": tuple(range(80, 88)),
    "Synth Pad": tuple(range(88, 96)),
}
CLASSES = (*CLASS_PROGRAMS, DRUMS)

_BY_PROGRAM = {
    program: name for name, programs in CLASS_PROGRAMS.items() for program in programs
}
_BY_FAMILY = {
    "piano": "Acoustic Piano",
    "chromatic percussion": "Chromatic Percussion",
    "organ": "Organ",
    "guitar": "Acoustic Guitar",
    "bass": "Electric Bass",
    "strings": "String Ensemble",
    "strings (continued)": "String Ensemble",
    "ensemble": "String Ensemble",
    "brass": "Brass Section",
    "reed": "Soprano/Alto Sax",
    "pipe": "Pipe",
    "synth lead": "Synth Lead",
    "synth pad": "Synth Pad",
    "drums": DRUMS,
}
# Slakh's own groups, as its mixing uses them and Cerberus4 with it.
QUARTET = {
    "bass": range(32, 40),
    "drums": None,
    "guitar": range(24, 32),
    "piano": range(0, 8),
}


def class_of(stem: Mapping[str, Any]) -> str | None:
    """Returns the class of a stem's metadata, None if it has none."""
    if stem.get("is_drum"):
        return DRUMS
    program = stem.get("program_num")
    if isinstance(program, int) and 0 <= program < 128:
        return _BY_PROGRAM.get(program)
    if program == DRUM_PROGRAM:
        return DRUMS
    family = str(stem.get("inst_class", "")).strip().lower()
    return _BY_FAMILY.get(family)


def quartet_part(stem: Mapping[str, Any]) -> str | None:
    """Returns which part of a quartet a stem can play: a key of `QUARTET`, or None.

    A program decides where there is one, else the family's name.
    """
    name = class_of(stem)
    if name == DRUMS:
        return "drums"
    program = stem.get("program_num")
    if not isinstance(program, int):
        family = str(stem.get("inst_class", "")).strip().lower()
        return family if family in QUARTET else None
    return next((part for part, r in QUARTET.items() if r and program in r), None)
