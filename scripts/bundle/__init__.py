"""Training in pieces on machines without an installation: see docs/bundle.md.

`piece` runs one piece from an unpacked bundle: `rendering` makes its corpus from
`songs` while `growing` already trains on it, and `state` keeps what the next piece
goes on from in a few small files (`parts`).
"""
