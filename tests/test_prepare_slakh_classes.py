"""Classes of Slakh's stems are those of the paper's table."""

from __future__ import annotations

import pytest

from mt3 import datasets
from mt3.data import adapters
from mt3.prepare import slakh_classes


def test_the_classes_are_those_that_are_read():
    assert list(slakh_classes.CLASS_PROGRAMS) == list(adapters.SLAKH_PROGRAMS)
    assert slakh_classes.DRUMS == adapters.SLAKH_DRUMS
    for name, program in adapters.SLAKH_PROGRAMS.items():
        assert slakh_classes.CLASS_PROGRAMS[name][0] == program


def test_every_pitched_program_up_to_95_has_one_class():
    programs = [p for found in slakh_classes.CLASS_PROGRAMS.values() for p in found]
    assert sorted(programs) == list(range(96))


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ({"program_num": 0, "inst_class": "Piano"}, "Acoustic Piano"),
        ({"program_num": 27, "inst_class": "Guitar"}, "Clean Electric Guitar"),
        ({"program_num": 128}, "Drums"),
        ({"program_num": 6, "plugin_name": "harpsichord.nkm"}, "Acoustic Piano"),
        ({"program_num": 2, "plugin_name": "wurly_ep.nkm"}, "Electric Piano"),
        (
            {"program_num": 31, "plugin_name": "funk_guitar.nkm"},
            "Clean Electric Guitar",
        ),
        ({"program_num": 35, "plugin_name": "pop_bass.nkm"}, "Electric Bass"),
        # The metadata's flag counts more than the program.
        ({"program_num": 0, "is_drum": True}, "Drums"),
        ({"program_num": 105, "inst_class": "Ethnic"}, None),
        # Without a program: the family.
        ({"inst_class": "Bass", "plugin_name": "x"}, "Electric Bass"),
        ({"plugin_name": "clean_strat.nkm"}, None),
        ({"plugin_name": "none.nkm"}, None),
        ({}, None),
    ],
)
def test_class_of(stem, expected):
    assert slakh_classes.class_of(stem) == expected


@pytest.mark.parametrize(
    ("stem", "expected"),
    [
        ({"program_num": 7}, "piano"),
        ({"program_num": 8}, None),
        ({"program_num": 31}, "guitar"),
        ({"program_num": 32}, "bass"),
        ({"program_num": 40}, None),
        ({"program_num": 0, "is_drum": True}, "drums"),
        ({"inst_class": "Guitar"}, "guitar"),
        ({"inst_class": "Organ"}, None),
    ],
)
def test_quartet_part(stem, expected):
    assert slakh_classes.quartet_part(stem) == expected


def test_quartets_have_the_tracks_that_are_scored():
    specs = datasets.CERBERUS4_CONFIG.track_specs
    assert [spec.name for spec in specs] == list(slakh_classes.QUARTET)
