"""Transcriptions as sheet music: MusicXML, and pages drawn from it.

* `instruments`: clefs, transpositions, strings, drums on a staff;
* `notation`: notes in seconds to parts, bars, voices and note values;
* `musicxml`: those to MusicXML, plain and compressed;
* `engraving`: MusicXML to SVG pages and PDF.
"""
