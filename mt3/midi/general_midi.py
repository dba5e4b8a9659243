"""Names of General MIDI programs, families and drums, as the standard lists them."""

from __future__ import annotations

from mt3.vocabularies import MIDI_CLASS_SIZE, midi_class

DRUM_CHANNEL = 9
DRUMS = "Drums"
# Sane tempos, in beats per minute, that a MIDI file's 24-bit microseconds can hold.
TEMPO_RANGE = (4.0, 1000.0)
FAMILY_SIZE = MIDI_CLASS_SIZE

FAMILIES = (
    "Piano",
    "Chromatic Percussion",
    "Organ",
    "Guitar",
    "Bass",
    "Strings",
    "Ensemble",
    "Brass",
    "Reed",
    "Pipe",
    "Synth Lead",
    "Synth Pad",
    "Synth Effects",
    "Ethnic",
    "Percussive",
    "Sound Effects",
)

PROGRAMS = tuple(
    """Acoustic Grand Piano|Bright Acoustic Piano|Electric Grand Piano|Honky-tonk Piano
Electric Piano 1|Electric Piano 2|Harpsichord|Clavinet
Celesta|Glockenspiel|Music Box|Vibraphone|Marimba|Xylophone|Tubular Bells|Dulcimer
Drawbar Organ|Percussive Organ|Rock Organ|Church Organ
Reed Organ|Accordion|Harmonica|Tango Accordion
Acoustic Guitar (nylon)|Acoustic Guitar (steel)|Electric Guitar (jazz)
Electric Guitar (clean)|Electric Guitar (muted)|Overdriven Guitar|Distortion Guitar
Guitar Harmonics
Acoustic Bass|Electric Bass (finger)|Electric Bass (pick)|Fretless Bass
Slap Bass 1|Slap Bass 2|Synth Bass 1|Synth Bass 2
Violin|Viola|Cello|Contrabass
Tremolo Strings|Pizzicato Strings|Orchestral Harp|Timpani
String Ensemble 1|String Ensemble 2|Synth Strings 1|Synth Strings 2
Choir Aahs|Voice Oohs|Synth Choir|Orchestra Hit
Trumpet|Trombone|Tuba|Muted Trumpet|French Horn|Brass Section
Synth Brass 1|Synth Brass 2
Soprano Sax|Alto Sax|Tenor Sax|Baritone Sax|Oboe|English Horn|Bassoon|Clarinet
Piccolo|Flute|Recorder|Pan Flute|Blown Bottle|Shakuhachi|Whistle|Ocarina
Lead 1 (square)|Lead 2 (sawtooth)|Lead 3 (calliope)|Lead 4 (chiff)
Lead 5 (charang)|Lead 6 (voice)|Lead 7 (fifths)|Lead 8 (bass + lead)
Pad 1 (new age)|Pad 2 (warm)|Pad 3 (polysynth)|Pad 4 (choir)
Pad 5 (bowed)|Pad 6 (metallic)|Pad 7 (halo)|Pad 8 (sweep)
FX 1 (rain)|FX 2 (soundtrack)|FX 3 (crystal)|FX 4 (atmosphere)
FX 5 (brightness)|FX 6 (goblins)|FX 7 (echoes)|FX 8 (sci-fi)
Sitar|Banjo|Shamisen|Koto|Kalimba|Bagpipe|Fiddle|Shanai
Tinkle Bell|Agogo|Steel Drums|Woodblock
Taiko Drum|Melodic Tom|Synth Drum|Reverse Cymbal
Guitar Fret Noise|Breath Noise|Seashore|Bird Tweet
Telephone Ring|Helicopter|Applause|Gunshot""".replace("\n", "|").split("|")
)

# The drum lanes of pictures, by pitch of the General MIDI percussion map.
DRUM_LANES = ("Kick", "Snare", "Toms", "Hi-hat", "Cymbals", "Other")
_LANE_OF_DRUM = {
    **dict.fromkeys((35, 36), 0),
    **dict.fromkeys((37, 38, 39, 40), 1),
    **dict.fromkeys((41, 43, 45, 47, 48, 50), 2),
    **dict.fromkeys((42, 44, 46), 3),
    **dict.fromkeys((49, 51, 52, 53, 55, 57, 59), 4),
}
_PITCH_CLASSES = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")


def instrument_name(program: int, is_drum: bool = False) -> str:
    """Returns the General MIDI name of a program (0..127), or "Drums"."""
    return DRUMS if is_drum else PROGRAMS[program]


def family_name(program: int) -> str:
    """Returns the name of the family of eight programs that a program belongs to."""
    return FAMILIES[midi_class(program)]


def family_programs(program: int) -> range:
    """Returns the eight programs of a program's family."""
    first = FAMILY_SIZE * midi_class(program)
    return range(first, first + FAMILY_SIZE)


def drum_lane(pitch: int) -> int:
    """Returns the index into `DRUM_LANES` of a percussion pitch."""
    return _LANE_OF_DRUM.get(pitch, len(DRUM_LANES) - 1)


def pitch_name(pitch: int) -> str:
    """Returns the name of a MIDI pitch with its octave; 60 is C4."""
    return f"{_PITCH_CLASSES[pitch % 12]}{pitch // 12 - 1}"
