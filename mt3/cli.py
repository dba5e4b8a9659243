"""The command line. Only the standard library is imported before it is needed.

Results go where the options say; progress and messages go to standard error. The
exit code is 0 if everything was done, 1 if something failed (and the rest was done,
unless the disk is full), 2 for a wrong call, 130 after an interruption, 143 after
SIGTERM.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import sys
from collections.abc import Sequence

from mt3 import terminal
from mt3.errors import ConfigError

# Run by the engine's launcher, with gin files.
_GIN_COMMANDS = {
    "train": "train a model as gin files say (--gin_file=... --gin.NAME=value)",
    "eval": "score checkpoints on a data set, as gin files say",
    "infer": "write a checkpoint's notes for a data set, as gin files say",
}
DESCRIPTION = "MT3: music transcription, recorded audio in, multi-instrument MIDI out."


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return terminal.run_program(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    # Before anything can go wrong, be it an argument.
    if "--log-json" in arguments:
        terminal.log_as_json()
    parser, commands = _parsers()
    for before, argument in zip(["mt3", *arguments], arguments, strict=False):
        # From `-o "$FOLDER"` without such a variable, say. It would name the folder
        # that the shell is in.
        if not argument or (argument.startswith("--") and argument.endswith("=")):
            raise ConfigError(f"an empty argument after {argument or before}")
    if arguments and arguments[0] in _GIN_COMMANDS:
        # They take gin's own flags, which argparse does not know.
        return _launch(arguments[0], arguments[1:])
    if arguments and arguments[0] == "prepare":
        # Its options differ from data set to data set.
        return _prepare(arguments[1:])
    command = commands.get(arguments[0]) if arguments else None
    if command is None:
        if arguments and os.path.exists(arguments[0]):
            parser.error(
                f"{arguments[0]!r} is no command; mt3 transcribe {arguments[0]} "
                "transcribes a recording"
            )
        parser.parse_args(arguments)
        parser.print_help()
        return 2
    # Intermixed: `mt3 transcribe a.mp3 -o out b.mp3`, which subparsers don't take.
    options = command.parse_intermixed_args(arguments[1:])
    return options.run(options)


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """Returns the parser of the program and those of its commands by name."""
    parser = terminal.ArgumentParser(
        prog="mt3",
        description=DESCRIPTION,
        epilog="mt3 COMMAND --help tells more about a command.",
    )
    parser.add_argument("--version", action=_Version, help="print the version")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    _add_transcribe(commands)
    _add_score(commands)
    _add_models(commands)
    _add_doctor(commands)
    _add_synthesize(commands)
    _add_serve(commands)
    for command in commands.choices.values():
        command.add_argument("--log-json", action=terminal.LogJson)
    commands.add_parser(
        "prepare",
        add_help=False,
        help="turn public data sets, or one's own, into records to train on",
    )
    for name, text in _GIN_COMMANDS.items():
        commands.add_parser(name, add_help=False, help=text)
    return parser, commands.choices


class _Version(argparse.Action):
    """Prints the version of this software and of what it computes with."""

    def __init__(self, option_strings, dest, **kwargs):
        super().__init__(option_strings, dest, nargs=0, **kwargs)

    def __call__(self, parser, namespace, values, option_string=None):
        from importlib import metadata

        from mt3 import __version__

        versions = [f"mt3 {__version__}", f"python {sys.version.split()[0]}"]
        for package in ("jax", "flax", "numpy"):
            try:
                versions.append(f"{package} {metadata.version(package)}")
            except metadata.PackageNotFoundError:
                versions.append(f"{package} missing")
        terminal.print_result(", ".join(versions))
        parser.exit()


def _add_transcribe(commands) -> None:
    parser = commands.add_parser(
        "transcribe",
        help="turn recordings into MIDI and other formats",
        description="Transcribes recordings. Existing results are kept, so a run "
        "that was interrupted goes on where it stopped.",
    )
    parser.set_defaults(run=_transcribe)
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="FILE|FOLDER",
        help="recordings (WAV, FLAC, MP3, OGG; others with ffmpeg), folders of them, "
        "or - for standard input",
    )
    add = parser.add_argument
    add(
        "-o",
        "--output",
        metavar="DIR|FILE",
        help="folder for the results (default: beside each recording); a name like "
        "song.mid is the one file to write; - writes one format to standard output",
    )
    add(
        "--format",
        metavar="LIST",
        help="comma-separated: mid, json, jsonl, csv, png, html, wav, and sheet music: "
        "musicxml, mxl, pdf (default: mid)",
    )
    add("--model", default="default", help="name (see mt3 models) or checkpoint path")
    add(
        "--instruments",
        metavar="LIST",
        help="all instruments that play: every note gets the name of one of them, and "
        "drums are left out unless listed. General MIDI families or instruments, "
        "program numbers 0-127, drums; e.g. piano,bass,drums",
    )
    add(
        "--decode",
        metavar="HOW",
        help="frames (notes from what the encoder hears in each frame, without the "
        "token decoder; fast), or how tokens are chosen: beam1 (as published), greedy, "
        "beam4, temperature0.8 (default: what was measured to be best for the model)",
    )
    add(
        "--sensitivity",
        type=float,
        default=0.5,
        metavar="0..1",
        help="balance of missed and extra notes: more finds more notes, and more that "
        "are not there (default: 0.5); with --decode frames",
    )
    add(
        "--grammar",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="allow only tokens that mean something where they stand "
        "(default: what was measured to be best for the model)",
    )
    add(
        "--unclosed-ties",
        choices=("keep", "end"),
        default="keep",
        help="notes that a segment forgot to close: keep (as published) or end",
    )
    _add_cleanup(parser)
    _add_part(parser)
    _add_notation(parser)
    add(
        "--slots",
        dest="num_slots",
        type=int,
        metavar="N",
        help="segments decoded at once",
    )
    add("--dtype", choices=("float32", "bfloat16"), help="computation type")
    add(
        "--device",
        choices=("cpu", "gpu"),
        help="what to compute on (default: a GPU if JAX was installed with support for "
        "it, pip install 'jax[cuda13]')",
    )
    _add_num_heads(parser)
    add(
        "--allow-truncated",
        action="store_true",
        help="transcribe what is there of a file that was cut",
    )
    add("--overwrite", action="store_true", help="make results of mt3 again")
    add("-q", "--quiet", action="store_true", help="only warnings and errors")


def _add_num_heads(parser) -> None:
    parser.add_argument(
        "--num-heads",
        type=_at_least_one,
        metavar="N",
        help="attention heads, for checkpoints that do not record them",
    )


def _at_least_one(text: str) -> int:
    """Reads a whole number from 1 on."""
    if not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a whole number from 1 on")
    return int(text)


def _add_part(parser) -> None:
    """Adds which part of recordings is transcribed."""
    group = parser.add_argument_group(
        "part of a recording",
        "Times are seconds, m:ss or h:mm:ss, with decimals: 90, 1:30, 0:01:30.5.",
    )
    group.add_argument(
        "--start",
        type=_time,
        default=0.0,
        metavar="TIME",
        help="begin here, as if the recording did (default: at its start)",
    )
    group.add_argument(
        "--end", type=_time, metavar="TIME", help="stop here (default: at its end)"
    )
    group.add_argument(
        "--times",
        choices=("recording", "part"),
        default="recording",
        help="what times in the results count from, and pictures and audio begin with: "
        "the recording's start (default) or the part's",
    )


def _add_notation(parser) -> None:
    """Adds how notes are written, in every format."""
    group = parser.add_argument_group(
        "notation",
        "Beats that are found make the bars of MIDI files and sheet music. Sheet "
        "music needs pip install 'mt3-transcription[score]'.",
    )
    group.add_argument(
        "--beats",
        metavar="HOW|FILE",
        help="steady (of one tempo), follow (a tempo that changes), track (whichever "
        "fits; default), off, or a text file of the beats: on each line the seconds "
        "and, if known, the number in the bar",
    )
    group.add_argument(
        "--tempo",
        type=float,
        metavar="N",
        help="beats per minute, if known: the beats have exactly this tempo; with "
        "--beats off it is only the grid of MIDI files (default: 120)",
    )
    add = group.add_argument
    add(
        "--quantize",
        metavar="GRID",
        help="move starts and ends of notes to a grid: 1/4, 1/8, 1/16, 1/32, triplets "
        "1/4T, 1/8T, 1/16T, or auto, chosen for each beat (default: sheet music auto, "
        "the others not at all)",
    )
    add(
        "--swing",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="share of a beat that its first half takes on the grid, 0.5 to 0.75; with "
        "--quantize",
    )
    add(
        "--no-velocity",
        dest="velocities",
        action="store_false",
        help="all notes equally loud",
    )
    add(
        "--tablature",
        action="store_true",
        help="sheet music: a second staff for the strings of guitars and basses",
    )


def _time(text: str) -> float:
    """Reads a time, in seconds."""
    is_time = re.fullmatch(r"(\d{1,6}:){0,2}\d{1,9}(\.\d{0,9})?", text, re.ASCII)
    numbers = [float(number) for number in text.split(":")] if is_time else []
    if not numbers or any(number >= 60 for number in numbers[1:]):
        raise argparse.ArgumentTypeError(
            f"{text!r}; expected seconds, m:ss or h:mm:ss, e.g. 90, 1:30, 0:01:30.5"
        )
    return functools.reduce(lambda total, number: 60 * total + number, numbers)


def _add_cleanup(parser) -> None:
    """Adds what can be corrected in the notes of a whole recording."""
    group = parser.add_argument_group(
        "clean-up",
        "What to correct in the notes of a whole recording (default: what was "
        "measured to be best for the model; any of these replaces that). Not for -o - "
        "--format jsonl, which streams.",
    )
    add = group.add_argument
    add(
        "--faithful",
        action="store_true",
        help="nothing that the original does not do: --decode beam1 --no-grammar "
        "--unclosed-ties keep, no clean-up, and notes as the decoder writes them, "
        "without velocity and confidence",
    )
    add(
        "--min-duration",
        type=float,
        metavar="SECONDS",
        help="pitched notes shorter than this are too short",
    )
    add(
        "--short-notes",
        choices=("drop", "lengthen"),
        help="what is done to those: drop (default) or lengthen",
    )
    add(
        "--merge-gap",
        type=float,
        metavar="SECONDS",
        help="join two notes of one pitch and instrument with a shorter gap, where the "
        "second begins at a segment's start; not with frames, which are read across "
        "segments",
    )
    add(
        "--instrument-flicker",
        type=float,
        metavar="SHARE",
        help="an instrument with a smaller share (0 to 1) of the notes, and of their "
        "length, hands them to the one of its or a neighbouring family that plays most "
        "around them",
    )


def _transcribe(options: argparse.Namespace) -> int:
    from mt3 import transcribe

    return transcribe.run(options)


def _add_score(commands) -> None:
    parser = commands.add_parser(
        "score",
        help="compare transcriptions with references",
        description="Scores a pair of files of notes, or two folders matched by name. "
        "MIDI, or JSON, JSON lines and CSV that mt3 transcribe wrote; where a folder "
        "has several of one name, the first of these.",
    )
    parser.set_defaults(run=_score)
    add = parser.add_argument
    add("reference", help="file of notes or folder")
    add("estimate", nargs="?", help="file of notes or folder")
    add(
        "-o",
        "--output",
        metavar="FILE|DIR",
        help="also write scores.csv or scores.json, or draw which notes were matched, "
        "missed and extra (notes.png); a folder gets all of these. The settings are in "
        "JSON, and beside the others",
    )
    add(
        "--compare",
        nargs="+",
        default=[],
        metavar="DIR",
        help="other systems' transcriptions: differences from the first system, with "
        "intervals of a paired bootstrap over songs",
    )
    add("--json", action="store_true", help="print JSON, not a table")
    add("--main", action="store_true", help="only the main metrics")
    add(
        "--metrics",
        default="",
        metavar="LIST",
        help="comma-separated names or patterns, e.g. 'Onset F1,Drum*'",
    )
    add(
        "--convention",
        choices=("default", "mt3", "mr-mt3", "yourmt3"),
        default="default",
        help="count as a paper does (default: as MT3, its faults corrected)",
    )
    add(
        "--start",
        type=_time,
        default=0.0,
        metavar="TIME",
        help="only notes that begin here or later: seconds, m:ss or h:mm:ss",
    )
    add("--end", type=_time, metavar="TIME", help="only notes that begin before this")
    add(
        "--no-sustain",
        dest="apply_sustain",
        action="store_false",
        help="do not lengthen the notes of MIDI files by their sustain pedal",
    )


def _score(options: argparse.Namespace) -> int:
    from mt3.scoring import command

    return command.run(options)


def _add_models(commands) -> None:
    parser = commands.add_parser(
        "models",
        help="list the models in the package, describe or convert a checkpoint",
        description="Lists models with size, licence and hash, or says what a "
        "checkpoint is.",
    )
    parser.set_defaults(run=_models)
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="name or path of one to describe"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, not a table")
    parser.add_argument(
        "--convert",
        nargs=2,
        metavar=("CHECKPOINT", "FILE"),
        help="write a checkpoint as one file, if FILE ends in .safetensors, else "
        "as a T5X folder",
    )
    _add_num_heads(parser)


def _models(options: argparse.Namespace) -> int:
    from mt3.checkpoints import registry

    if options.convert:
        from mt3 import checkpoints

        if options.model is not None:
            raise ConfigError(
                f"models: {options.model} beside --convert; expected one of them"
            )
        source, target = options.convert
        source = checkpoints.resolve(source)
        checkpoints.convert(source, target, num_heads=options.num_heads)
        terminal.print_result(target)
        return 0
    if options.model is not None:
        return _describe_model(options)
    entries = registry.available()
    if options.json:
        import dataclasses

        rows = [
            {**dataclasses.asdict(entry), "path": str(entry.path)} for entry in entries
        ]
        terminal.print_result(terminal.to_json(rows))
        return 0
    lines = []
    for entry in entries:
        mark = " (default)" if entry.is_default else ""
        lines += [
            f"{entry.name}{mark}: {entry.description}",
            f"  {entry.num_parameters / 1e6:.1f} million parameters, "
            f"{entry.size / 1e6:.1f} MB, licence {entry.licence}",
            f"  sha256 {entry.sha256}",
            f"  {entry.path}",
        ]
    if not entries:
        lines = ["no models in the package; use --model with a checkpoint's path"]
    terminal.print_result("\n".join(lines + _released_models()))
    return 0


def _released_models() -> list[str]:
    """Returns lines about the models that are not in the package."""
    from mt3.checkpoints import released

    lines = ["", "Magenta's released checkpoints, which mt3 does not download:"]
    for name, model in released.RELEASED.items():
        lines.append(
            f"  {name}: {model.purpose} ({model.num_parameters / 1e6:.1f} million "
            f"parameters, {model.num_bytes / 1e6:.0f} MB)"
        )
    command = released.copy_command(f"{released.ROOT}/mt3")
    return [
        *lines,
        f"  {command}   copies one; then --model ./mt3",
        f"  More in {released.PAGE}; mt3 models PATH says what a copy holds.",
    ]


def _describe_model(options: argparse.Namespace) -> int:
    from mt3 import checkpoints

    path = checkpoints.resolve(options.model)
    model = checkpoints.load(path, num_heads=options.num_heads)
    found = checkpoints.describe(model.info, model.config)
    if options.json:
        terminal.print_result(terminal.to_json(found))
        return 0
    lines = [found["source"], *checkpoints.describe_lines(model.info, model.config)]
    if found["size"] is not None:
        lines.append(f"{found['size'] / 1e6:.1f} MB on disk")
    if found["sha256"]:
        lines.append(f"file's sha256 {found['sha256']}")
    if found.get("licence"):
        lines.append(f"licence {found['licence']}")
    terminal.print_result("\n  ".join(lines))
    return 0


def _add_doctor(commands) -> None:
    parser = commands.add_parser(
        "doctor",
        help="say what is installed and whether it works",
        description="Prints versions, devices, models and optional parts, and "
        "transcribes one second as a test. The output belongs into bug reports. The "
        "exit code is 1 if something is broken.",
    )
    parser.set_defaults(run=_doctor)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _doctor(options: argparse.Namespace) -> int:
    from mt3 import doctor

    return doctor.run(as_json=options.json)


def _add_synthesize(commands) -> None:
    parser = commands.add_parser(
        "synthesize",
        help="render MIDI files or random notes to audio",
        description="Makes pairs of audio and notes with a soundfont.",
    )
    parser.set_defaults(run=_synthesize)
    add = parser.add_argument
    add("inputs", nargs="*", metavar="MIDI|FOLDER", help="MIDI files or folders")
    add("-o", "--output", required=True, metavar="DIR", help="folder to write to")
    add(
        "--random",
        type=int,
        default=0,
        metavar="N",
        help="add N pieces of random notes",
    )
    add("--seconds", type=float, default=30.0, help="length of each random piece")
    add(
        "--hours",
        type=float,
        help="write a training corpus of this length instead of WAV and MIDI pairs",
    )
    add(
        "--soundfont",
        dest="soundfonts",
        action="append",
        default=[],
        metavar="SF2",
        help="soundfont; repeat for several: files take turns, and parts of a corpus "
        "are played by any of them (default: the one of pretty_midi)",
    )
    add(
        "--exact",
        dest="exact_soundfonts",
        action="append",
        default=[],
        metavar="SF2",
        help="soundfont of real samples that plays parts of a corpus, but only those "
        "programs that it has; repeat for several",
    )
    add("--seed", type=int, default=0, help="of everything that is drawn")
    add(
        "--reorchestrate",
        action="store_true",
        help="redraw instruments, key, tempo and velocities",
    )
    add("--sample-rate", type=int, default=16000, help="Hz (default: 16000)")
    add("--workers", type=int, default=1, help="processes that render a corpus")
    add("--overwrite", action="store_true", help="make existing results again")


def _synthesize(options: argparse.Namespace) -> int:
    from mt3.synthesis import command

    values = {**vars(options)}
    del values["run"], values["log_json"]

    def log(line: str) -> None:
        failed = line.removeprefix("mt3: error: ")
        terminal.say(line) if failed == line else terminal.fail(failed)

    result = command.synthesize(**values, log=log)
    terminal.print_result(
        f"{len(result.written)} written, {len(result.skipped)} there already"
    )
    return 1 if result.failures else 0


def _add_serve(commands) -> None:
    parser = commands.add_parser(
        "serve",
        help="a page in the browser to transcribe with, and an interface for programs",
        description="Serves a page on which recordings are dropped and notes appear, "
        "and an HTTP interface (its description: /openapi.json). Prints its address; "
        "Ctrl-C ends it. Nothing is kept. Needs pip install "
        "'mt3-transcription[serve]'.",
    )
    parser.set_defaults(run=_serve)
    add = parser.add_argument
    add(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="address to listen on; with any but the default others can reach it, "
        "without a password and without encryption",
    )
    add(
        "--allow-host",
        dest="names",
        action="append",
        default=[],
        metavar="NAME",
        help="another name under which browsers reach it; repeat for several",
    )
    add(
        "--port",
        type=int,
        default=8000,
        metavar="N",
        help="port to listen on; 0 for any that is free (default: 8000)",
    )
    add("--model", default="default", help="name (see mt3 models) or checkpoint path")
    add("--device", choices=("cpu", "gpu"), help="what to compute on")
    _add_num_heads(parser)
    add(
        "--max-megabytes",
        type=_at_least_one,
        default=512,
        metavar="N",
        help="largest recording that is taken (default: 512)",
    )
    add(
        "--max-minutes",
        type=_at_least_one,
        default=240,
        metavar="N",
        help="longest recording that is transcribed (default: 240)",
    )


def _serve(options: argparse.Namespace) -> int:
    from mt3.serve import command

    return command.run(options)


def _prepare(arguments: Sequence[str]) -> int:
    from mt3.prepare import command

    return command.main(arguments)


def _launch(mode: str, arguments: Sequence[str]) -> int:
    from mt3.engine import launch

    return launch.main(arguments, mode=mode)


if __name__ == "__main__":
    sys.exit(main())
