"""Code and pages use none of the phrases that CONTRIBUTING.md rules out."""

from __future__ import annotations

import re

import pytest

FOLDERS = ("mt3", "gin", "scripts", "benchmarks", "docs", "examples", "tests", "colab")
ENDINGS = {".py", ".md", ".gin", ".html", ".js", ".ipynb"}
TOP_FILES = ("README.md", "Makefile", "pytest.ini", "pyproject.toml", "setup.py")


@pytest.fixture(scope="module")
def phrases(repository) -> list[str]:
    """The phrases, from the first column of the list."""
    text = (repository / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = re.search(r"```not used\n(.*?)```", text, re.DOTALL)[1]
    lines = [re.split(r"\s{2,}", line) for line in block.strip().splitlines()]
    assert all(len(line) == 2 for line in lines)
    return [phrase for left, _ in lines for phrase in left.split(", ")]


def find(text: str, phrases: list[str]) -> list[str]:
    """Returns the phrases in a text with what is around them, across lines."""
    text = re.sub(r"[\s#>*]+", " ", text)
    pattern = rf"\b(?:{'|'.join(map(re.escape, phrases))})\b"
    found = re.finditer(pattern, text, re.IGNORECASE)
    return [text[max(0, m.start() - 30) : m.end() + 30] for m in found]


def test_the_search_sees_what_it_should(phrases):
    assert len(phrases) > 10
    assert find("# The figure is\n    # of no use.", phrases) == [
        " The figure is of no use."
    ]
    assert find("Mended.", phrases)
    assert not find("This often amends the issue of them.", phrases)


def test_no_phrase_of_the_list_is_used(repository, phrases):
    paths = [repository / name for name in TOP_FILES]
    for folder in FOLDERS:
        paths += (
            path
            for path in (repository / folder).rglob("*")
            if path.suffix in ENDINGS and path.name != "test_prose.py"
        )
    assert len(paths) > 200
    found = {
        str(path.relative_to(repository)): hits
        for path in paths
        if path.is_file() and (hits := find(path.read_text(encoding="utf-8"), phrases))
    }
    assert not found
