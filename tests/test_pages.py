"""Commands on the pages: which there are, the quick ones, and how they are found."""

from __future__ import annotations

import os
import subprocess

import pytest

from mt3 import cli
from mt3.prepare import command as prepare
from tests.support import page_commands

BLOCKS = [
    block for page in page_commands.pages() for block in page_commands.blocks(page)
]
QUICK = [block for block in BLOCKS if block.quick]
OTHER_LANGUAGES = {"bibtex", "json", "layers", "not used", "text"}


def where(block):
    return f"{block.page}:{block.line}"


def test_every_block_says_what_it_is():
    assert len(BLOCKS) > 50
    for block in BLOCKS:
        known = {*page_commands.RUN, *OTHER_LANGUAGES}
        assert block.language in known, where(block)
    # What is not run is the exception.
    ran = [b for b in BLOCKS if b.language in page_commands.RUN and not b.needs]
    assert len(ran) > 20


def test_options_on_pages_are_those_of_the_commands():
    parsers = {**cli._parsers()[1], "prepare": prepare._parser()}
    checked = []
    for block in BLOCKS:
        if block.language != "sh":
            continue
        for words in page_commands.commands(block):
            # Where the output goes isn't an option.
            end = next((i for i, w in enumerate(words) if w in ("|", ">", "2>")), None)
            words = words[:end]
            if words[0] == "mt3" and words[1] not in cli._GIN_COMMANDS:
                parsers[words[1]].parse_args(words[2:])
                checked.append(words[1])
    assert {"transcribe", "score", "synthesize", "prepare"} <= set(checked)


@pytest.mark.parametrize("block", QUICK, ids=where)
def test_quick_commands(block, repository, tmp_path, monkeypatch, capsys):
    """As written, in a folder with the examples."""
    (tmp_path / "examples").symlink_to(repository / "examples")
    monkeypatch.chdir(tmp_path)
    for program, *arguments in page_commands.commands(block):
        assert program == "mt3"
        assert cli.main(arguments) == 0, capsys.readouterr().err
    assert {path.suffix for path in (tmp_path / "out").iterdir()} >= {".mid"}


PAGE = """
A page.

```sh
echo one > made
```

<!-- check: first
echo two > ready
-->
<!-- check: quick -->
```sh
test -f made  # By the block before.
grep two \\
  ready
```

<!-- check: needs the moon -->
```sh
exit 1
```

```python
assert open("made").read() == "one\\n"
raise SystemExit("broken")
```

```text
exit 1
```
"""


PROGRAM = r'''r"""A program.

    python x.py A \
      --b

Text.

    A = 1
"""

# check: first
# touch A

A = 1
'''


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "page.md").write_text(PAGE)
    return tmp_path


def test_marks_belong_to_the_block_after_them(folder):
    one, two, three, four, five = page_commands.blocks("docs/page.md", folder)
    assert (one.line, one.quick, one.needs, one.first) == (4, False, "", "")
    assert (two.quick, two.first) == (True, "echo two > ready")
    assert (three.needs, three.quick) == ("the moon", False)
    assert (four.language, five.language) == ("python", "text")
    words = [["test", "-f", "made"], ["grep", "two", "ready"]]
    assert list(page_commands.commands(two)) == words


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<!-- check: quick -->\n\ntext\n\n```sh\ntrue\n```\n", "not directly before"),
        ("<!-- check: quikc -->\n```sh\ntrue\n```\n", "quikc is unknown"),
        ("```sh\ntrue\n", "not closed"),
    ],
)
def test_marks_that_cannot_be_used(tmp_path, text, message):
    (tmp_path / "page.md").write_text(text)
    with pytest.raises(ValueError, match=message):
        page_commands.blocks("page.md", tmp_path)


def test_commands_of_docstrings(tmp_path):
    (tmp_path / "x.py").write_text(PROGRAM)
    (block,) = page_commands.blocks("x.py", tmp_path)
    assert list(page_commands.commands(block)) == [["python", "x.py", "A", "--b"]]
    assert block.first == "touch A"


def test_pages_are_run_and_failures_shown(folder, capsys):
    subprocess.run(["git", "init", "--quiet", folder], check=True)
    assert page_commands.main([], folder, lambda *_: dict(os.environ)) == 1
    out = capsys.readouterr().out
    assert "docs/page.md:4: ran" in out
    assert "docs/page.md:19: not run, needs the moon" in out
    assert "docs/page.md:23: broken\nexit code 1" in out
    assert out.endswith("2 ran, 1 failed, 1 not run\n")
    assert not (folder / "made").exists()
