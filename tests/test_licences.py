"""docs/licences.md lists every package that setup.py names, and all training data."""

from __future__ import annotations

import re

import licences


def rows(text: str) -> list[list[str]]:
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line.startswith("| ")
    ]


def test_every_requirement_is_listed_with_its_extras(repository, capsys):
    page = (repository / "docs" / "licences.md").read_text(encoding="utf-8")
    listed = {row[0]: row[2] for row in rows(page) if len(row) == 3}
    wanted = licences.requirements()
    assert len(wanted) > 40
    for name, extras in wanted.items():
        if name == "t5x":
            assert "T5X (Apache-2.0" in page
            continue
        shown = ", ".join(f"`[{extra}]`" if extra else "always" for extra in extras)
        assert listed[name] == shown, name


def test_the_page_says_what_the_installed_packages_say(repository):
    """Of those that transcribing needs; licences rarely change."""
    page = (repository / "docs" / "licences.md").read_text(encoding="utf-8")
    listed = {row[0]: row[1] for row in rows(page) if len(row) == 3}
    for name, extras in licences.requirements().items():
        if "" in extras:
            assert licences.licence(name) == listed[name]
            assert listed[name] != "not stated"


def test_what_these_require_is_listed(repository):
    page = (repository / "docs" / "licences.md").read_text(encoding="utf-8")
    listed = {
        name for row in rows(page) if len(row) == 2 for name in row[1].split(", ")
    }
    base = [name for name, extras in licences.requirements().items() if "" in extras]
    needed = set(licences.required_by(base))
    assert len(needed) > 20
    direct = {name.lower() for name in licences.requirements()}
    assert needed - direct <= listed


def test_every_source_of_training_music_and_sounds_has_a_licence(repository):
    card = (repository / "mt3/pretrained/rendered-medium.md").read_text("utf-8")
    corpus = (repository / "docs" / "corpus.md").read_text(encoding="utf-8")
    music = card[card.index("| music (train only) |") :].split("\n\n")[0]
    parts = re.split(r"(?=^\| soundfont \| )", corpus, flags=re.M)[1:]
    sounds = "".join(part.split("\n\n")[0] for part in parts)
    assert len(parts) == 2
    found = rows(music) + rows(sounds)
    assert len(found) > 25
    for row in found:
        assert len(row[-1]) > 2, row
        assert not re.search(r"\bNC\b|non-?commercial|unknown|\?", row[-1]), row
