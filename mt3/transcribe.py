"""What `mt3 transcribe` does: which files, where to, what is there already.

Every recording becomes a job with the paths of its results. Jobs whose results all
exist are skipped, so an interrupted run goes on where it stopped; results appear
whole or not at all (`outputs.atomic_file`). A job that fails is named with its
reason and the others go on.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mt3.errors import ConfigError, MT3Error, OutputError, near_misses
from mt3.midi import general_midi
from mt3.terminal import Progress, say

if TYPE_CHECKING:
    from mt3.beyond.cleanup import CleanupOptions

# What a folder is searched for; a file that is named is tried whatever its ending.
AUDIO_SUFFIXES = frozenset(
    f".{name}"
    for names in ("wav flac mp3 ogg oga opus aif aiff au", "m4a aac wma mp4 webm")
    for name in names.split()
)
STANDARD_OUTPUT = "-"
_STREAMABLE = ("jsonl",)
_NOT_ON_STANDARD_OUTPUT = ("wav", "png")
# Fields of `TranscribeOptions`, as the command line names them.
_DECODING = ("decode", "grammar", "sensitivity")
_DECODING += ("unclosed_ties", "num_slots", "dtype", "allow_truncated")
# The fields of `CleanupOptions`, as the command line names them.
_CLEANUP = ("min_duration", "short_notes", "merge_gap", "instrument_flicker")


@dataclasses.dataclass(frozen=True)
class Job:
    """One recording and where its results go.

    Attributes:
      source: the recording.
      stem: path of the results without their endings.
    """

    source: Path
    stem: Path


def parse_instruments(text: str) -> tuple[tuple[int, ...] | None, bool]:
    """Reads a list of instruments.

    Args:
      text: comma-separated General MIDI families ("piano", "synth lead") or
        instruments ("violin"), program numbers 0..127, or "drums".

    Returns:
      Programs (None when all are allowed), and whether drums are.

    Raises:
      ConfigError: a name that General MIDI does not have, or none at all.
    """
    families = {name.lower(): index for index, name in enumerate(general_midi.FAMILIES)}
    programs_by_name = {
        name.lower(): index for index, name in enumerate(general_midi.PROGRAMS)
    }
    programs: set[int] = set()
    drums = False
    names = [name.strip().lower().replace("_", " ") for name in text.split(",")]
    for name in filter(None, names):
        if name == "drums":
            drums = True
        elif name.isdigit() and int(name) < len(general_midi.PROGRAMS):
            programs.add(int(name))
        elif name in families:
            first = families[name] * general_midi.FAMILY_SIZE
            programs.update(range(first, first + general_midi.FAMILY_SIZE))
        elif name in programs_by_name:
            programs.add(programs_by_name[name])
        else:
            known = [*families, *programs_by_name, "drums"]
            hint = near_misses(name, known)
            if hint.startswith(" Known"):
                hint = (
                    f" Families: {', '.join(families)}; or a program 0-127, or drums."
                )
            raise ConfigError(f"--instruments: unknown instrument {name!r}.{hint}")
    if not programs and not drums:
        raise ConfigError("--instruments: the list is empty")
    return tuple(sorted(programs)), drums


def find_jobs(
    inputs: Sequence[str], output: str | None
) -> tuple[list[Job], dict[str, str]]:
    """Lists recordings and gives each a place for its results.

    Args:
      inputs: files and folders; folders are searched with all below them.
      output: folder for the results, in which folders keep their structure; None
        for beside each recording.

    Returns:
      Jobs, and messages by input for those that yield none.
    """
    found: list[tuple[Path, Path]] = []
    problems: dict[str, str] = {}
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            files = [
                file
                for file in sorted(path.rglob("*"))
                if file.suffix.lower() in AUDIO_SUFFIXES
                and file.is_file()
                # A sonification of ours is a result, not a recording.
                and not file.name.endswith(".notes.wav")
            ]
            if not files:
                problems[name] = f"{name}: found no audio files in this folder"
            found += [(file, file.relative_to(path)) for file in files]
        else:
            found.append((path, Path(path.name)))
    found = list(dict.fromkeys(found))
    places = [
        (Path(output) / relative if output else source) for source, relative in found
    ]
    stems = [place.with_suffix("") for place in places]
    repeated = {stem for stem in stems if stems.count(stem) > 1}
    jobs = []
    for (source, _), place, stem in zip(found, places, stems, strict=True):
        # song.wav and song.mp3 would overwrite each other: keep the endings there.
        jobs.append(Job(source, place if stem in repeated else stem))
    taken: dict[Path, Path] = {}
    for job in list(jobs):
        if job.stem in taken:
            problems[str(job.source)] = (
                f"{job.source}: its results would overwrite those of "
                f"{taken[job.stem]}; transcribe them into different folders"
            )
            jobs.remove(job)
        taken.setdefault(job.stem, job.source)
    return jobs, problems


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code.

    Raises:
      MT3Error: nothing can be transcribed (the model, an option).
    """
    # Cheap checks first: a wrong option must not wait for the model.
    from mt3 import outputs

    formats = outputs.check_formats(
        name.strip() for name in options.format.split(",") if name.strip()
    )
    if not formats:
        raise ConfigError("--format: the list is empty")
    if options.tempo <= 0:
        raise ConfigError(f"--tempo: {options.tempo}; expected beats per minute > 0")
    programs, drums = None, True
    if options.instruments is not None:
        programs, drums = parse_instruments(options.instruments)
    cleanup = _cleanup_options(options)
    to_standard_output = options.output == STANDARD_OUTPUT
    if to_standard_output:
        _check_standard_output(formats)
        if cleanup and formats[0] in _STREAMABLE:
            raise ConfigError(
                f"-o - --format {formats[0]}: notes are streamed as they are found, "
                "but a clean-up needs all of them; expected another format or a folder"
            )
    jobs, problems = find_jobs(
        options.inputs, None if to_standard_output else options.output
    )
    waiting = jobs
    if not options.overwrite and not to_standard_output:
        waiting = [job for job in jobs if not _is_done(job, formats)]
    skipped = len(jobs) - len(waiting)
    if skipped and not options.quiet:
        say(
            f"mt3: {skipped} of {len(jobs)} done already (--overwrite makes them "
            "again, e.g. with other settings)"
        )
    if to_standard_output and formats[0] not in _STREAMABLE and len(waiting) > 1:
        raise ConfigError(
            f"-o -: {len(waiting)} recordings as {formats[0]} on standard output; "
            "expected one recording, or jsonl"
        )
    for problem in problems.values():
        say(f"mt3: error: {problem}")
    failures = len(problems)
    if waiting:
        decoding = {name: getattr(options, name) for name in _DECODING}
        decoding |= {"programs": programs, "drums": drums, "cleanup": cleanup}
        failures += _Run(options, formats, decoding, waiting).run()
    return 1 if failures else 0


def _cleanup_options(options: argparse.Namespace) -> CleanupOptions | None:
    """Returns what to correct; None leaves it to the model."""
    from mt3.beyond.cleanup import CleanupOptions

    given = {
        name: value
        for name in _CLEANUP
        if (value := getattr(options, name)) is not None
    }
    if "short_notes" in given and "min_duration" not in given:
        raise ConfigError("--short-notes: expected --min-duration beside it")
    cleanup = CleanupOptions.from_dict(given) if given else None
    if options.faithful:
        asked = {
            "--decode": options.decode not in (None, "beam1"),
            "--grammar": bool(options.grammar),
            "--sensitivity": options.sensitivity != 0.5,
            "--unclosed-ties": options.unclosed_ties != "keep",
            "a clean-up": bool(cleanup),
            "--instruments": options.instruments is not None,
        }
        names = [name for name, differs in asked.items() if differs]
        if names:
            raise ConfigError(
                f"--faithful can't be combined with {', '.join(names)}, which the "
                "original doesn't have"
            )
    return cleanup


def _check_standard_output(formats: Sequence[str]) -> None:
    if len(formats) != 1 or formats[0] in _NOT_ON_STANDARD_OUTPUT:
        raise ConfigError(
            f"-o -: formats {', '.join(formats)} on standard output; expected one of "
            "mid, json, jsonl, csv, html"
        )


def _is_done(job: Job, formats: Sequence[str]) -> bool:
    from mt3 import outputs

    return all(outputs.output_path(job.stem, name).exists() for name in formats)


@dataclasses.dataclass
class _Run:
    """One run over some jobs.

    Attributes:
      options: of the command line.
      formats: of the results.
      decoding: fields of `TranscribeOptions`.
      jobs: the recordings.
    """

    options: argparse.Namespace
    formats: Sequence[str]
    decoding: dict[str, Any]
    jobs: Sequence[Job]
    failures: int = 0
    progress: Progress = dataclasses.field(
        default_factory=lambda: Progress([], quiet=True)
    )

    def run(self) -> int:
        """Transcribes all jobs; returns how many failed."""
        from mt3 import inference
        from mt3.audio import reading

        readable = list(self._readable(reading))
        if not readable:
            return self.failures
        decoding = inference.TranscribeOptions(**self.decoding)
        if self.options.faithful:
            decoding = decoding.faithful()
        model = inference.InferenceModel(
            self.options.model, decoding, num_heads=self.options.num_heads
        )
        durations = [duration for _, duration in readable]
        self.progress = Progress(durations, self.options.quiet)
        with self.progress as progress:
            recordings = (job.source for job, _ in readable)
            for item in model.run(recordings):
                job, _ = readable[item.file]
                if isinstance(item, inference.SegmentNotes):
                    progress.advance(item.file, item.end_time)
                    self._stream(item, job)
                    continue
                progress.finish(item.file)
                self._settle(item, job)
        return self.failures

    def _readable(self, reading: Any) -> Iterator[tuple[Job, float | None]]:
        """Yields jobs whose headers can be read, with durations; names the others."""
        for job in self.jobs:
            try:
                source = reading.open_audio(
                    job.source, allow_truncated=self.options.allow_truncated
                )
                yield job, source.duration
            except MT3Error as error:
                self._fail(str(error))

    def _stream(self, item: Any, job: Job) -> None:
        if self.options.output != STANDARD_OUTPUT or "jsonl" not in self.formats:
            return
        from mt3.outputs import tables

        lines = []
        for note in item.notes:
            line = tables.note_line(note)
            if len(self.jobs) > 1:
                line = _with_source(line, job)
            lines.append(line)
        sys.stdout.buffer.write(b"".join(lines))
        sys.stdout.buffer.flush()

    def _settle(self, result: Any, job: Job) -> None:
        """Writes a recording's results, or says why there are none."""
        if result.error is not None:
            self._fail(str(result.error))
            return
        from mt3 import outputs

        options = self.options
        output_options = outputs.OutputOptions(
            tempo=options.tempo, original_audio=os.fspath(job.source)
        )
        try:
            if options.output == STANDARD_OUTPUT:
                self._to_standard_output(result.transcription, output_options)
                return
            job.stem.parent.mkdir(parents=True, exist_ok=True)
            written = outputs.write(
                result.transcription, job.stem, self.formats, output_options
            )
        except (MT3Error, OSError) as error:
            if not isinstance(error, MT3Error):
                error = OutputError(f"{job.stem}: writing results: {error}")
            self._fail(str(error))
            return
        for file in written:
            for warning in file.warnings:
                self.progress.say(f"mt3: warning: {file.path}: {warning}", always=True)
        count = len(result.transcription.notes)
        names = ", ".join(str(file.path) for file in written)
        self.progress.say(f"{job.source}: {count} notes -> {names}")

    def _to_standard_output(self, transcription: Any, output_options: Any) -> None:
        from mt3 import outputs

        if self.formats[0] in _STREAMABLE:
            return  # Written as it came.
        outputs.write_stream(
            transcription, sys.stdout.buffer, self.formats[0], output_options
        )
        sys.stdout.buffer.flush()

    def _fail(self, message: str) -> None:
        self.failures += 1
        self.progress.say(f"mt3: error: {message}", always=True)


def _with_source(line: bytes, job: Job) -> bytes:
    """Adds the recording to a note's line, where lines of several are mixed."""
    import json

    return json.dumps({"source": str(job.source), **json.loads(line)}).encode() + b"\n"
