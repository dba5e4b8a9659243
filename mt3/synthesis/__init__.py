"""Synthesis: notes -> audio, and training material from MIDI and random notes.

    note_arrays     notes as structured arrays: windows, overlaps
    instruments     ranges, voices and ring times of the General MIDI instruments
    song_library    many songs in memory, drawn by kind
    random_notes    music without the habits of music
    orchestration   songs -> other songs
    expression      how players play: pedal, rubato, spread chords, dynamics
    synthesizers    tinysoundfont or FluidSynth behind one interface
    soundfont       notes -> audio whose attacks are on time
    recipes         what a training clip of each kind is made of
    corpus          clips rendered ahead of time, on disk
    effects         what happens to music on its way into a file
    augmentation    those effects, a room, noise and level, drawn for each segment
    sampler         training segments from a corpus
    command         `mt3 synthesize`

It needs neither TensorFlow nor, apart from `soundfont` and what renders through it,
a synthesizer.
"""
