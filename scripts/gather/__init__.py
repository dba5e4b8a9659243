"""Where music and soundfonts come from: the parts of `gather_music.py`.

held_out            recognises tunes that must not be trained on
score_sources       music21's corpus through Verovio, songs made with MMA
font_packages       soundfonts and samples in Debian packages
sample_sets         Gravis patches and Hydrogen drum kits -> presets
soundfont_writer    presets -> a soundfont file
"""
