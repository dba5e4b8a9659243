"""Recordings: reading any format in blocks at any rate."""
