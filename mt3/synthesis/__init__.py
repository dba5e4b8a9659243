"""Synthesis: notes -> audio, and training material from MIDI and random notes.

    instruments     ranges, voices and ring times of the General MIDI instruments
    song_library    many songs in memory, drawn by kind
    random_notes    notes that cannot be predicted from other notes
    orchestration   variations of songs: instruments, pitch, tempo, loudness
    expression      expressive playing: pedal, rubato, spread chords, dynamics
    synthesizers    tinysoundfont or FluidSynth behind one interface
    soundfont       notes -> audio whose attacks are on time
    recipes         notes, instruments and sounds of a training clip of each kind
    corpus          clips rendered in advance, on disk
    effects         the effects of recording, as functions of audio
    augmentation    those effects, a room, noise and level, drawn for each segment
    sampler         training segments from a corpus
    command         `mt3 synthesize`

Notes are structured arrays (`mt3.midi.note_arrays`), and songs come from MIDI files
(`mt3.midi.reader`). `scripts/gather_music.py` gathers music and soundfonts. No module
needs TensorFlow, and only `soundfont` and the modules that render need a synthesizer.
"""
