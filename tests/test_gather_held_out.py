"""Tunes that must not be trained on are recognised."""

from __future__ import annotations

import numpy as np

from gather import held_out
from mt3.midi import reader
from tests.support.songs import tune


def test_other_tunes_are_not_taken_for_held_out_ones():
    def song(seed):
        return reader.Song(f"tune {seed}", tune(seed))

    known = held_out.HeldOut([song(1), song(2)])
    assert len(known) == 2
    assert known.find(song(2)) == "tune 2"
    assert all(known.find(song(seed)) is None for seed in range(3, 20))
    # Scales and tremolos say nothing about a tune; drums alone must be the same.
    scale = tune(5)
    scale["pitch"] = 60 + np.arange(len(scale)) % 12
    assert held_out.HeldOut([reader.Song("s", scale)]).find(song(5)) is None
    drums = tune(1)[tune(1)["is_drum"]]
    assert known.find(reader.Song("d", drums)) is None
    same = held_out.HeldOut([reader.Song("d", drums)])
    assert same.find(reader.Song("e", drums)) == "d"
