"""MIDI: one reader, General MIDI names, notes as arrays."""
