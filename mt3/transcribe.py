"""What `mt3 transcribe` does with its options: recordings in, files of notes out.

`jobs` says which recordings there are and what is done already, so an interrupted run
goes on where it stopped. Recordings are opened one after the other as the model asks
for more; results appear whole or not at all (`outputs.atomic_file`). A recording that
fails is named with its reason and the others go on, unless the disk is full.
"""

from __future__ import annotations

import argparse
import dataclasses
import io
import itertools
import json
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from mt3 import checkpoints, jobs, outputs, terminal
from mt3.audio import reading
from mt3.beats import MODES, NO_BEATS, Beats, read_beats
from mt3.beyond.cleanup import CleanupOptions
from mt3.errors import ConfigError, DiskFullError, MT3Error, StreamError
from mt3.options import TranscribeOptions, parse_instruments
from mt3.terminal import Progress, printable, say, write_result

STANDARD_OUTPUT = "-"
_STREAMABLE = ("jsonl",)
_NOT_ON_STANDARD_OUTPUT = ("wav", "png")
# Formats that are sheet music or hold it.
_SCORES = {"musicxml", "mxl", "pdf", "html"}
_WITH_BEATS = outputs.WITH_BEATS | {"json"}
# Fields of `OutputOptions`, as the command line names them.
_OUTPUT = ("quantize", "swing", "velocities", "tablature")
# Fields of `TranscribeOptions`, as the command line names them.
_DECODING = ("decode", "grammar", "sensitivity")
_DECODING += ("unclosed_ties", "num_slots", "dtype", "allow_truncated", "times")
# The fields of `CleanupOptions`, as the command line names them.
_CLEANUP = ("min_duration", "short_notes", "merge_gap", "instrument_flicker")


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns the exit code.

    Raises:
      MT3Error: nothing can be transcribed (the model, an option).
    """
    if options.quiet:
        terminal.only_warnings()
    # Cheap checks first: a wrong option must not wait for the model.
    formats = _formats(options.format, options.output)
    values = {name: getattr(options, name) for name in _OUTPUT}
    if options.tempo is not None:
        values["tempo"] = options.tempo
    output_options = outputs.OutputOptions(**values)
    if options.tablature and not _SCORES & set(formats):
        raise ConfigError(
            "--tablature: no sheet music is written; expected one of "
            f"{', '.join(sorted(_SCORES))} in --format"
        )
    decoding = decoding_options(options, formats)
    if options.end is not None and options.end <= options.start:
        raise ConfigError(
            f"--end is {options.end:g} s; expected more than --start, {options.start:g}"
        )
    to_standard_output = options.output == STANDARD_OUTPUT
    if to_standard_output:
        _check_standard_output(formats)
        changes = {
            "a clean-up": decoding.cleanup,
            "--quantize": options.quantize,
            "--no-velocity": not options.velocities,
        }
        asked = [name for name, given in changes.items() if given]
        if asked and formats[0] in _STREAMABLE:
            raise ConfigError(
                f"-o - --format {formats[0]}: notes are streamed as they are found, "
                f"but {' and '.join(asked)} needs all of them; expected another format "
                "or a folder"
            )
    # A model that is not there is an error also where nothing is left to do.
    checkpoints.resolve(options.model)
    waiting, problems = jobs.find_jobs(
        options.inputs, None if to_standard_output else options.output
    )
    if not to_standard_output:
        found = len(waiting)
        waiting, in_the_way = jobs.unfinished(
            waiting, formats, overwrite=options.overwrite
        )
        done = found - len(waiting) - len(in_the_way)
        waiting, unwritable = jobs.writable(waiting)
        problems += in_the_way + unwritable
        if done and not options.quiet:
            say(
                f"mt3: {done} of {found} done already (--overwrite makes them again, "
                "e.g. with other settings)",
                done=done,
                files=found,
            )
    elif formats[0] not in _STREAMABLE and len(waiting) > 1:
        raise ConfigError(
            f"-o -: {len(waiting)} recordings as {formats[0]} on standard output; "
            "expected one recording, or jsonl"
        )
    for problem in problems:
        terminal.fail(problem)
    if isinstance(decoding.beats, Beats) and len(waiting) > 1:
        raise ConfigError(
            f"--beats {options.beats}: the beats of one recording, for "
            f"{len(waiting)}; expected one recording"
        )
    failures = len(problems)
    if waiting:
        run = _Run(options, formats, decoding, output_options, waiting)
        run.run()
        failures += run.failures
        if failures and len(waiting) > 1 and not options.quiet:
            transcribed = len(waiting) - run.failures - run.left
            left = f"; {run.left} not done" if run.left else ""
            say(
                f"mt3: {transcribed} transcribed; {failures} errors, which stand "
                f"above{left}",
                transcribed=transcribed,
                errors=failures,
                left=run.left,
            )
    return 1 if failures else 0


def _formats(asked: str | None, output: str | None) -> tuple[str, ...]:
    """Returns the formats that `--format` lists, or that `-o song.json` names."""
    formats = outputs.check_formats(
        name.strip() for name in (asked or "").split(",") if name.strip()
    )
    if jobs.is_file_name(output):
        named = outputs.format_of(output)
        if asked is not None and formats != (named,):
            raise ConfigError(
                f"-o {output}: one file of format {named}, but --format says {asked}; "
                "expected a folder, or no --format"
            )
        return outputs.check_formats([named])
    if asked is not None and not formats:
        raise ConfigError("--format: the list is empty")
    return formats or ("mid",)


def decoding_options(
    options: argparse.Namespace, formats: Sequence[str]
) -> TranscribeOptions:
    """Returns how to transcribe.

    Args:
      options: of the command line, by their names.
      formats: of the results; only for some of them are beats looked for.

    Raises:
      ConfigError: options that cannot work, or not together.
    """
    values = {name: getattr(options, name) for name in _DECODING}
    values["cleanup"] = _cleanup_options(options)
    values["beats"] = _beats(options, formats)
    if values["beats"] != NO_BEATS:
        values["tempo"] = options.tempo
    if options.instruments is not None:
        values["programs"], values["drums"] = parse_instruments(options.instruments)
    decoding = TranscribeOptions(**values)
    return decoding.faithful() if options.faithful else decoding


def _beats(options: argparse.Namespace, formats: Sequence[str]) -> str | Beats:
    """Returns how beats are found, or the beats of the file that `--beats` names."""
    wanted = _WITH_BEATS & set(formats) or options.quantize is not None
    if options.beats is None:
        return MODES[0] if wanted else NO_BEATS
    if not wanted and options.beats != NO_BEATS:
        raise ConfigError(
            f"--beats: none of the formats {', '.join(formats)} has beats; expected "
            f"one of {', '.join(sorted(_WITH_BEATS))} or --quantize"
        )
    if options.beats in (*MODES, NO_BEATS):
        return options.beats
    if not os.path.lexists(options.beats):
        raise ConfigError(
            f"--beats {options.beats}: no such file; expected "
            f"{', '.join((*MODES, NO_BEATS))} or a file of beats"
        )
    return read_beats(options.beats)


def _cleanup_options(options: argparse.Namespace) -> CleanupOptions | None:
    """Returns what to correct; None leaves it to the model."""
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
            "mid, json, jsonl, csv, html, musicxml, mxl, pdf"
        )


@dataclasses.dataclass
class _Run:
    """One run over some jobs.

    Attributes:
      options: of the command line.
      formats: of the results.
      decoding: how to transcribe.
      output_options: settings of the formats.
      jobs: the recordings.
      failures: how many of them have failed.
      left: how many were not done, because the disk is full.
    """

    options: argparse.Namespace
    formats: Sequence[str]
    decoding: TranscribeOptions
    output_options: outputs.OutputOptions
    jobs: Sequence[jobs.Job]
    failures: int = 0
    left: int = 0

    def __post_init__(self) -> None:
        self.progress = Progress(len(self.jobs), self.options.quiet)
        self.waiting = iter(self.jobs)
        # Those on their way through the model, by the order in which they were opened.
        self.open: dict[int, tuple[jobs.Job, reading.AudioSource]] = {}

    def run(self) -> None:
        """Transcribes the jobs, all unless the disk is full."""
        if self.options.device is not None:
            from mt3 import decoding

            decoding.choose_device(self.options.device)
        sources = self._sources()
        # Without a recording that can be read, the model need not be loaded.
        first = next(sources, None)
        if first is None:
            return
        from mt3 import inference

        model = inference.InferenceModel(
            self.options.model, self.decoding, num_heads=self.options.num_heads
        )
        if self.options.model != checkpoints.DEFAULT:
            self.progress.say(f"mt3: model {model.info['source']}:")
            for line in checkpoints.describe_lines(model.info, model.config):
                self.progress.say(f"  {line}")
        with self.progress as progress:
            for item in model.run(itertools.chain([first], sources)):
                if isinstance(item, inference.SegmentNotes):
                    progress.advance(item.file, item.end_time - self._zero)
                    self._stream(item)
                else:
                    progress.finish(item.file)
                    job, source = self.open.pop(item.file)
                    try:
                        self._settle(item, job, source)
                    except DiskFullError as error:
                        self._fail(error, job)
                        self.left = len(self.open) + sum(1 for _ in self.waiting)
                        return

    def _sources(self) -> Iterator[reading.AudioSource]:
        """Opens one recording after the other; names those that can't be opened."""
        options, number = self.options, 0
        for job in self.waiting:
            piped = job.source == jobs.STANDARD_INPUT
            try:
                source = reading.open_audio(
                    sys.stdin.buffer if piped else job.source,
                    allow_truncated=options.allow_truncated,
                    name=job.name,
                )
                part = source
                if options.start or options.end is not None:
                    part = source.part(options.start, options.end)
            except MT3Error as error:
                self._fail(error, job)
                continue
            # What lies beside the notes in audio made of them begins at time 0.
            beside = source.part(0.0, options.end) if self._zero else part
            self.open[number] = job, beside
            self.progress.begin(number, part.duration)
            yield part
            number += 1

    @property
    def _zero(self) -> float:
        """When the part that is transcribed begins, as results count times."""
        return self.options.start if self.options.times == "recording" else 0.0

    def _stream(self, item: Any) -> None:
        if self.options.output != STANDARD_OUTPUT or "jsonl" not in self.formats:
            return
        from mt3.outputs import tables

        job, _ = self.open[item.file]
        lines = []
        for note in item.notes:
            line = tables.note_line(note)
            if len(self.jobs) > 1:
                line = _with_source(line, job)
            lines.append(line)
        write_result(b"".join(lines))

    def _settle(self, result: Any, job: jobs.Job, source: reading.AudioSource) -> None:
        """Writes a recording's results, or says why there are none."""
        if result.error is not None:
            self._fail(result.error, job)
            return
        options = self.options
        for warning in result.transcription.warnings:
            terminal.warn(f"{job.name}: {warning}", file=job.name)
        output_options = dataclasses.replace(self.output_options, original_audio=source)
        written = []
        try:
            if options.output == STANDARD_OUTPUT:
                self._to_standard_output(result.transcription, output_options)
                return
            # Asked again: much may have happened to the folder since the run began.
            missing = job.missing(self.formats, overwrite=options.overwrite)
            for name, path in missing.items():
                written.append(
                    outputs.write_file(result.transcription, path, name, output_options)
                )
        except (StreamError, DiskFullError):
            raise  # The other results would not get through either.
        except MT3Error as error:
            self._fail(error, job)
            return
        for file in written:
            for warning in file.warnings:
                terminal.warn(f"{file.path}: {warning}", file=job.name)
        count = len(result.transcription.notes)
        if count and self.decoding.beats != NO_BEATS and not result.transcription.beats:
            self.progress.say(
                f"{job.name}: no beats found; bars are counted at "
                f"{output_options.tempo:g} beats a minute, and notes keep their times",
                file=job.name,
            )
        names = ", ".join(str(file.path) for file in written)
        kept = ", ".join(name for name in self.formats if name not in missing)
        if kept:
            names = f"{names}; " if names else ""
            names += f"kept: {kept} (--overwrite makes all again)"
        self.progress.say(
            f"{job.name}: {count} {'note' if count == 1 else 'notes'} -> {names}",
            file=job.name,
            stage="write",
            notes=count,
            results=[str(file.path) for file in written],
        )

    def _to_standard_output(self, transcription: Any, output_options: Any) -> None:
        if self.formats[0] in _STREAMABLE:
            return  # Written as it came.
        stream = io.BytesIO()
        outputs.write_stream(transcription, stream, self.formats[0], output_options)
        write_result(stream.getvalue())

    def _fail(self, error: MT3Error, job: jobs.Job) -> None:
        self.failures += 1
        terminal.fail(error, file=job.name)


def _with_source(line: bytes, job: jobs.Job) -> bytes:
    """Adds the recording to a note's line, where lines of several are mixed."""
    return (
        json.dumps({"source": printable(job.name), **json.loads(line)}).encode() + b"\n"
    )
