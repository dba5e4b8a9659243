"""Comparing notes with notes: counts, scores, files of scores, systems side by side.

Needs NumPy and mir_eval, and Pillow for pictures.
"""
