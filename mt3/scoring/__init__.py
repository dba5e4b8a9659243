"""Comparing notes with notes: counts, scores, files of scores. NumPy and mir_eval."""
