"""Which recordings are to be transcribed, where results go, and what is done already.

1. A file that is named is tried, whatever its ending; `-` is standard input. A folder
   is searched for what ends like audio (`files.search`, `audio.formats`). Sound that
   was made of notes (`.notes.wav`) is a result and no recording.
2. Results go beside the recording or, with a folder for them, into that, in which
   folders keep their structure. Recordings whose names differ in nothing but the
   ending keep it: `song.wav.mid`, `song.mp3.mid`.
3. An output that ends like a result (`song.mid`) is the one file to write.
4. A result that is there is done if we wrote it (`outputs.is_ours`). Any other file in
   its place is an error: it is neither taken for the result nor ever replaced.
5. Standard input is never done already, nor is the one file to write: a result of that
   name may have come from another recording.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from mt3 import files, outputs
from mt3.audio import formats as audio_formats
from mt3.errors import ConfigError, OutputError

STANDARD_INPUT = "-"
_STANDARD_INPUT_NAME = "stdin"
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_SONIFICATION = outputs.FORMATS["wav"][0]


class Job(NamedTuple):
    """One recording and where its results go.

    Attributes:
      source: path of the recording, or `STANDARD_INPUT`.
      stem: path of the results without their endings.
      file: path of the only result; None to add the formats' endings to `stem`.
    """

    source: str
    stem: str
    file: str | None = None

    @property
    def name(self) -> str:
        """What messages call the recording."""
        is_stream = self.source == STANDARD_INPUT
        return _STANDARD_INPUT_NAME if is_stream else self.source

    def missing(
        self, formats: Iterable[str], *, overwrite: bool = False
    ) -> dict[str, str]:
        """Returns the results to write, by format.

        Args:
          formats: the formats asked for.
          overwrite: write those again that are there.

        Raises:
          OutputError: a file that we did not write is in the way, results that may
            come from another recording, or a name that is too long.
        """
        wanted = {}
        for name in formats:
            # Not a Path: making one takes longer than looking.
            path = self.file or self.stem + outputs.FORMATS[name][0]
            is_there = outputs.is_ours(path, name)
            # `exists` raises for a name that is too long for the file system.
            if not is_there and (
                files.exists(path, OutputError) or os.path.islink(path)
            ):
                raise OutputError(
                    f"{path}: found a file that mt3 did not write, and keeps; expected "
                    "none (move it, or name another place with -o)"
                )
            has_own_name = self.file is None and self.source != STANDARD_INPUT
            if is_there and not overwrite and not has_own_name:
                raise OutputError(
                    f"{path}: is there already, maybe of another recording than "
                    f"{self.name}; expected another -o, or --overwrite"
                )
            if overwrite or not is_there:
                wanted[name] = path
        return wanted


def is_file_name(output: str | None) -> bool:
    """Says whether an output is the one file to write, and not a folder."""
    return bool(output and outputs.format_of(output) and not os.path.isdir(output))


def find_jobs(inputs: Sequence[str], output: str | None) -> tuple[list[Job], list[str]]:
    """Lists recordings and gives each a place for its results.

    Args:
      inputs: files, folders, `STANDARD_INPUT`.
      output: folder for the results or the one file to write; None for beside each
        recording.

    Returns:
      Jobs, and messages about recordings and folders that yield none.

    Raises:
      ConfigError: an empty path, one file for several recordings, a file where the
        folder should be, or a name that ends like a file of another format.
    """
    if "" in inputs or output == "":
        raise ConfigError("an input or -o is empty; expected a path")
    addresses = [
        name for name in inputs if _ADDRESS.match(name) and not os.path.lexists(name)
    ]
    problems = [
        f"{name}: an address; mt3 downloads nothing. Download the recording yourself "
        f"(curl -LO {name}) and give the file"
        for name in addresses
    ]
    inputs = [name for name in inputs if name not in addresses]
    if not inputs:
        return [], problems
    if is_file_name(output):
        if len(inputs) > 1 or os.path.isdir(inputs[0]):
            raise ConfigError(
                f"-o {output}: one file for several recordings; expected a folder, or "
                "one recording"
            )
        return [Job(inputs[0], output, output)], problems
    if output and os.path.lexists(output) and not os.path.isdir(output):
        raise ConfigError(f"-o {output}: found a file; expected a folder")
    if output and files.looks_like_file(output):
        endings = ", ".join(ending for ending, _ in outputs.FORMATS.values())
        raise ConfigError(
            f"-o {output}: ends like a file, but is none of {endings}; expected one of "
            f"these, or a folder (of this very name: {output}/)"
        )
    found: dict[tuple[str, str], None] = {}
    for name in inputs:
        found |= dict.fromkeys(_recordings(name, output, problems))
    stems = [os.path.splitext(place)[0] for _, place in found]
    count = Counter(stems)
    jobs: dict[str, Job] = {}
    for (source, place), stem in zip(found, stems, strict=True):
        # song.wav and song.mp3 would overwrite each other: keep the endings there.
        stem = place if count[stem] > 1 else stem
        job = jobs.setdefault(stem, Job(source, stem))
        if job.source != source:
            problems.append(
                f"{source}: its results would overwrite those of {job.source}; "
                "transcribe them into different folders"
            )
    return list(jobs.values()), problems


def _recordings(
    name: str, output: str | None, problems: list[str]
) -> Iterator[tuple[str, str]]:
    """Yields paths of recordings, and of their results before the ending is cut."""
    if name == STANDARD_INPUT:
        yield name, os.path.join(output or "", _STANDARD_INPUT_NAME)
        return
    name = str(Path(name))
    if not os.path.isdir(name):
        yield name, os.path.join(output, os.path.basename(name)) if output else name
        return
    found = files.search(name, audio_formats.SUFFIXES)
    problems += found.problems
    recordings = [path for path in found.files if not path.endswith(_SONIFICATION)]
    if not recordings and not found.problems:
        problems.append(f"{name}: found no audio files in this folder")
    # What follows the folder's own path, which may end with a separator ("/").
    start = len(os.path.join(name, ""))
    for path in recordings:
        yield path, os.path.join(output, path[start:]) if output else path


def unfinished(
    jobs: Iterable[Job], formats: Sequence[str], *, overwrite: bool = False
) -> tuple[list[Job], list[str]]:
    """Returns the jobs that lack results, and messages about those that can't be done.

    Args:
      jobs: the recordings.
      formats: the formats asked for.
      overwrite: make results again that are there.
    """
    waiting, problems = [], []
    for job in jobs:
        try:
            if job.missing(formats, overwrite=overwrite):
                waiting.append(job)
        except OutputError as error:
            problems.append(str(error))
    return waiting, problems


def writable(jobs: Iterable[Job]) -> tuple[list[Job], list[str]]:
    """Returns the jobs whose results can be written, and a message for other folders.

    So nothing is transcribed that could not be kept.
    """
    reasons: dict[str, str | None] = {}
    possible = []
    for job in jobs:
        folder = os.path.dirname(job.file or job.stem)
        if folder not in reasons:
            reasons[folder] = files.why_unwritable(folder)
        if reasons[folder] is None:
            possible.append(job)
    return possible, [
        f"{folder or os.curdir}: results cannot be written here: {reason}"
        for folder, reason in reasons.items()
        if reason is not None
    ]
