"""Commands and programs on the pages and in docstrings, run as they are written.

    python -m tests.support.page_commands [PAGE...]

runs them in the order of each page, in a copy of the checkout that is otherwise as it
was cloned, with this package installed from that copy. Every fenced block names its
language; those of `sh` and `python` run. HTML comments before a block say more:

    <!-- check: quick -->         its commands are run by `make test`, too
    <!-- check: needs a pod -->   it is not run, for this reason
    <!-- check: first             what a reader has at hand is made before it
    COMMANDS
    -->

In a program's docstring, commands are indented by four spaces and begin with `mt3`,
`python` or a path to it. The same marks are comments after the docstring, and are
about all of its commands.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("*.md", "docs/*.md", "examples/*.md", "benchmarks/*.md", "mt3/**/*.md")
PROGRAMS = ("scripts/*.py", "benchmarks/*.py", "examples/*.py", "docs/*.py")
RUN = ("sh", "python")
# A block that takes longer hangs.
_MOST_SECONDS = 3600
_FENCE = re.compile(r"(?P<indent> *)```(?P<language>.*)\n(?P<text>[^`]*)^ *```$", re.M)
_MARK = re.compile(r"<!-- check: (?P<word>\w+)(?P<rest>(?:(?!-->).)*)-->\s*\Z", re.S)
_COMMAND = re.compile(r"    (?=mt3 |python |\S+/python )(?:.*\\\n)*.*")


@dataclasses.dataclass(frozen=True)
class Block:
    """Commands or a program, as a page shows them.

    Attributes:
      page: path of the page, from the checkout's root.
      line: where the block begins.
      language: the fence's.
      text: what is between the fences.
      quick: whether `make test` runs it.
      needs: what it needs that is not there, or "".
      first: commands that make what a reader has.
    """

    page: str
    line: int
    language: str
    text: str
    quick: bool = False
    needs: str = ""
    first: str = ""


def pages(root: Path = ROOT) -> list[str]:
    """Returns the pages and programs, from the root."""
    found = [path for glob in (*PAGES, *PROGRAMS) for path in root.glob(glob)]
    return sorted(str(path.relative_to(root)) for path in found)


def blocks(page: str, root: Path = ROOT) -> list[Block]:
    """Returns the blocks of a page, or those of a program's docstring.

    Raises:
      ValueError: for a mark that is unknown or before no block, or an open fence.
    """
    text = (root / page).read_text(encoding="utf-8")
    found = list(_in_docstring(page, text) if page.endswith(".py") else _on(page, text))
    if page.endswith(".md"):
        used = sum(bool(b.quick) + bool(b.needs) + bool(b.first) for b in found)
        if used != text.count("<!-- check:"):
            raise ValueError(f"{page}: a mark is not directly before a block.")
        if 2 * len(found) != len(re.findall("^ *```", text, re.M)):
            raise ValueError(f"{page}: a fence is not closed, or has backticks inside.")
    return found


def _on(page: str, text: str) -> Iterator[Block]:
    for fence in _FENCE.finditer(text):
        before, marks = text[: fence.start()], {}
        while mark := _MARK.search(before):
            before = before[: mark.start()]
            marks |= _marks(mark["word"], mark["rest"].strip(), page)
        line = text.count("\n", 0, fence.start()) + 1
        indent = re.compile(f"^{fence['indent']}", re.M)
        content = indent.sub("", fence["text"])
        yield Block(page, line, fence["language"], content, **marks)


def _in_docstring(page: str, text: str) -> Iterator[Block]:
    docstring = ast.get_docstring(ast.parse(text)) or ""
    after = re.search(r'"""\n\n?(?P<comment>(?:#.*\n)+)', text)
    comment = re.sub("^# ?", "", after["comment"], flags=re.M) if after else ""
    mark = re.fullmatch(r"check: (?P<word>\w+)(?P<rest>.*)", comment, re.S)
    marks = _marks(mark["word"], mark["rest"].strip(), page) if mark else {}
    commands = [re.sub("^    ", "", c, flags=re.M) for c in _COMMAND.findall(docstring)]
    if commands:
        yield Block(page, 1, "sh", "\n".join(commands) + "\n", **marks)


def _marks(word: str, rest: str, page: str) -> dict[str, object]:
    if word not in ("quick", "needs", "first"):
        raise ValueError(f"{page}: check: {word} is unknown.")
    return {word: rest if word != "quick" else True}


def commands(block: Block) -> Iterator[list[str]]:
    """Yields the words of each command of a block of `sh`, joined across lines."""
    pending = ""
    for line in block.text.replace("\\\n", " ").splitlines(keepends=True):
        pending += line
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # A quotation that goes on.
            continue
        pending = ""
        if words:
            yield words


def copy(target: Path, root: Path = ROOT) -> Path:
    """Copies the checkout, without what git ignores."""
    names = subprocess.run(
        ["git", "ls-files", "-coz", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")
    for name in filter(None, names):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, target / name)
    return target


def run(block: Block, folder: Path, environment: dict[str, str]) -> str:
    """Runs a block; returns "" or the end of what was printed where it failed."""
    first = f"set -eu -o pipefail\n{block.first}\n"
    steps = [["bash", "-c", first + (block.text if block.language == "sh" else "")]]
    if block.language == "python":
        steps.append(["python", "-c", block.text])
    for step in steps:
        done = subprocess.run(
            step,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_MOST_SECONDS,
            check=False,
        )
        if done.returncode:
            said = done.stdout.decode(errors="replace").splitlines()[-30:]
            return "\n".join([*said, f"exit code {done.returncode}"])
    return ""


def environment_in(folder: Path, checkout: Path) -> dict[str, str]:
    """Makes an environment with the packages of this one; returns the variables."""
    venv.create(folder, with_pip=True)
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    (site,) = folder.rglob("site-packages")
    ours = [path for path in sys.path if path.endswith("site-packages")]
    lines = [f"import site; site.addsitedir({path!r})\n" for path in ours]
    (site / "packages.pth").write_text("".join(lines))
    here = Path(sys.executable).parent
    path = os.pathsep.join(map(str, (programs, here, os.environ["PATH"])))
    # All packages are there: what pip is asked for, it finds, or fails.
    pip = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    variables = {**os.environ, **pip, "PATH": path, "VIRTUAL_ENV": str(folder)}
    variables.pop("PYTHONPATH", None)
    subprocess.run(
        [programs / "python", "-m", "pip", "install", "--quiet", "--no-deps", "."],
        cwd=checkout,
        env=variables,
        check=True,
    )
    return variables


def main(names: Sequence[str], root: Path = ROOT, environment=environment_in) -> int:
    """Runs the pages with these names, or all; returns the exit code."""
    counts = {"ran": 0, "failed": 0, "not run": 0}
    with tempfile.TemporaryDirectory() as temporary:
        top = Path(temporary)
        variables = environment(top / "venv", copy(top / "installed", root))
        for number, page in enumerate(names or pages(root)):
            found = [block for block in blocks(page, root) if block.language in RUN]
            if any(not block.needs for block in found):
                folder = copy(top / str(number) / "mt3", root)
            for block in found:
                where = f"{page}:{block.line}"
                if block.needs:
                    counts["not run"] += 1
                    print(f"{where}: not run, needs {block.needs}", flush=True)
                    continue
                begin = time.monotonic()
                failure = run(block, folder, variables)
                counts["failed" if failure else "ran"] += 1
                seconds = time.monotonic() - begin
                print(f"{where}: {failure or 'ran'}, {seconds:.0f} s", flush=True)
            shutil.rmtree(top / str(number), ignore_errors=True)
    print(", ".join(f"{count} {what}" for what, count in counts.items()))
    return 1 if counts["failed"] else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
