"""`mt3 prepare`: from its arguments to an archive, and on to its records."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from mt3 import terminal
from mt3.errors import TRAIN_EXTRA, ConfigError

if TYPE_CHECKING:
    from mt3.prepare.items import Archive, Settings

DESCRIPTION = (
    "Turns the unpacked archive of a data set into the records that training and "
    "evaluation read. Shards that are finished stay, so a run that was interrupted "
    "goes on where it stopped."
)
_ARCHIVES = {
    "maestro": "MAESTRO version 1 or 3 (the folder with maestro-v*.csv)",
    "guitarset": "GuitarSet (annotation/, audio_mono-mic/, audio_mono-pickup_mix/)",
    "urmp": "URMP (the folder with 01_Jupiter_vn_vc/ and so on)",
    "musicnet": "MusicNet (train_data/, train_labels/, test_data/, test_labels/)",
    "musicnet_em": "MusicNet's audio with the labels of MusicNetEM",
    "slakh": "Slakh2100, original or redux (train/, validation/, test/)",
    "cerberus4": "quartets of bass, drums, guitar and piano from Slakh2100",
    "folder": "one's own recordings with their MIDI files",
    "synthetic": "songs rendered from random notes or MIDI files",
    "monophonic": "5-second clips of recordings that have one line of notes, which are "
    "inferred",
}
# What opens each: module, class and method, below this package.
_OPENERS = {
    "maestro": "maestro.Maestro.open",
    "guitarset": "guitarset.GuitarSet.open",
    "urmp": "urmp.Urmp.open",
    "musicnet": "musicnet.MusicNet.open",
    "musicnet_em": "musicnet.MusicNet.open_em",
    "slakh": "slakh.Slakh.open",
    "cerberus4": "slakh.Slakh.open",
    "folder": "folder.Folder.open",
    "synthetic": "synthetic.Synthetic.open",
    "monophonic": "monophonic.Monophonic.open",
}


def main(arguments: Sequence[str]) -> int:
    """Runs the command; returns the exit code.

    Args:
      arguments: what follows `mt3 prepare`.

    Returns:
      0 if all songs were prepared, 1 if some failed.

    Raises:
      MT3Error: the run cannot begin or go on.
    """
    options = _parser().parse_args(list(arguments))
    if options.quiet:
        terminal.only_warnings()
    data_root = options.output or os.environ.get("MT3_DATA_DIR")
    if not data_root:
        raise ConfigError("prepare: where to? Name a data root (-o, or MT3_DATA_DIR)")
    _quieten()
    # These are slow to import, and --help does not need them.
    running = _imported("running")
    from mt3.prepare.items import Settings

    settings = Settings(
        sample_rate=options.sample_rate,
        max_mismatch=options.max_mismatch,
        seed=options.seed,
    )
    settings.validate()
    run_options = running.Options(
        splits=tuple(_words(options.split)),
        num_shards=options.shards,
        jobs=options.jobs,
        limit=options.limit,
        overwrite=options.overwrite,
    )
    archive = open_archive(options, settings)
    report = running.prepare(
        archive,
        data_root,
        source=getattr(options, "source", None) or options.dataset,
        options=run_options,
        log=None if options.quiet or terminal.logs_json() else terminal.say,
    )
    terminal.print_result(report.table())
    return report.exit_code


def open_archive(options: argparse.Namespace, settings: Settings) -> Archive:
    """Opens what the arguments name.

    Raises:
      DataError: it is not there, or something else.
      ConfigError: options that make no sense.
    """
    module, archive, method = _OPENERS[options.dataset].split(".")
    opener = getattr(getattr(_imported(module), archive), method)
    values = {**vars(options), "settings": settings}
    known = inspect.signature(opener).parameters
    return opener(**{name: values[name] for name in known if name in values})


def _imported(module: str) -> ModuleType:
    """Imports a module of this package; says what to install where it cannot."""
    try:
        return importlib.import_module(f"mt3.prepare.{module}")
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"prepare: needs the package {error.name}, which is not installed; "
            f"install {TRAIN_EXTRA}"
        ) from error


def _parser() -> argparse.ArgumentParser:
    parser = terminal.ArgumentParser(prog="mt3 prepare", description=DESCRIPTION)
    commands = parser.add_subparsers(
        title="data sets", metavar="DATASET", dest="dataset", required=True
    )
    parsers = {}
    for name, text in _ARCHIVES.items():
        parsers[name] = commands.add_parser(name, help=text, description=text)
        if name != "synthetic":
            text = "the folder that it was unpacked to"
            if name in ("folder", "monophonic"):
                text = "the folder of recordings"
            parsers[name].add_argument("source", metavar="SOURCE", help=text)
        _add_common(parsers[name])
    parsers["guitarset"].add_argument(
        "--recordings",
        type=lambda text: _words([text]),
        default=[],
        metavar="LIST",
        help="mic, mix or both (default: those that are there)",
    )
    parsers["musicnet_em"].add_argument(
        "--labels",
        metavar="FOLDER",
        help="the MIDI files (default: musicnet_em/ in SOURCE or beside it)",
    )
    _add_slakh(parsers["slakh"], parsers["cerberus4"])
    _add_own(parsers["folder"], parsers["synthetic"])
    _add_monophonic(parsers["monophonic"])
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "-o",
        "--output",
        metavar="DATA_ROOT",
        help="the records go to DATA_ROOT/datasets/... (default: MT3_DATA_DIR)",
    )
    add(
        "--split",
        action="append",
        default=[],
        metavar="LIST",
        help="only these: train, validation, test",
    )
    add("--shards", type=int, metavar="N", help="files of each split")
    add("--jobs", type=int, default=1, metavar="N", help="processes (default: 1)")
    add("--limit", type=int, metavar="N", help="only N songs of each split")
    add(
        "--sample-rate",
        type=int,
        default=16000,
        metavar="HZ",
        help="of the audio in the records (default: 16000); 0 keeps the recordings'",
    )
    add(
        "--max-mismatch",
        type=float,
        metavar="SECONDS",
        help="skip songs whose audio and notes differ more in length (default: 10; "
        "in published data sets only notes after the audio's end count)",
    )
    add("--seed", type=int, default=0, help="of everything that is drawn")
    add("--overwrite", action="store_true", help="make what is there again")
    add("-q", "--quiet", action="store_true", help="no progress")
    add("--log-json", action=terminal.LogJson)


def _add_slakh(
    slakh: argparse.ArgumentParser, cerberus4: argparse.ArgumentParser
) -> None:
    for parser in (slakh, cerberus4):
        parser.add_argument(
            "--stems",
            dest="with_stems",
            action="store_true",
            help="store each stem's audio, too: several times the size, for no task",
        )
    slakh.add_argument(
        "--subsets",
        type=int,
        default=10,
        metavar="N",
        help="mixes of some of a song's stems, for training (default: 10)",
    )
    slakh.add_argument(
        "--min-stems",
        type=int,
        default=4,
        metavar="N",
        help="stems that such a mix has at least (default: 4)",
    )
    cerberus4.add_argument(
        "--combinations",
        type=int,
        default=0,
        metavar="N",
        help="at most N quartets of a song (default: all)",
    )


def _add_own(
    folder: argparse.ArgumentParser, synthetic: argparse.ArgumentParser
) -> None:
    folder.add_argument("--name", help="of the data set (default: SOURCE's)")
    for parser in (folder, synthetic):
        for split in ("validation", "test"):
            parser.add_argument(
                f"--{split}",
                type=float,
                default=0.1,
                metavar="SHARE",
                help=f"share of the songs for {split} (default: 0.1)",
            )
    add = synthetic.add_argument
    add("--songs", type=int, metavar="N", help="how many (default: all of --midi)")
    add(
        "--seconds",
        type=float,
        metavar="S",
        help="length of a random song (default: 30), or the most of a MIDI file",
    )
    add(
        "--soundfont",
        dest="soundfonts",
        action="append",
        default=[],
        metavar="SF2",
        help="soundfont; repeat for several (default: the one of pretty_midi)",
    )
    add("--midi", metavar="FOLDER", help="render these MIDI files, not random notes")


def _add_monophonic(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--tracker",
        default="pyin",
        metavar="NAME",
        help="what finds the pitch: pyin (default), or praat (praat-parselmouth)",
    )
    add(
        "--confidence",
        type=float,
        default=0.95,
        metavar="C",
        help="from which on a frame's pitch is sure (default: 0.95)",
    )
    add(
        "--sure-frames",
        type=float,
        default=0.2,
        metavar="SHARE",
        help="share of such frames that a clip must have (default: 0.2)",
    )
    add(
        "--log-likelihood",
        type=float,
        default=0.3,
        metavar="L",
        help="least log-likelihood of a frame as one line of notes (default: 0.3)",
    )
    add(
        "--program",
        default="0",
        metavar="P",
        help="General MIDI number or name of the notes (default: 0), or 'folder' for "
        "that of the folder that a recording lies in",
    )
    add(
        "--validation",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="share of the recordings for validation (default: 0.1)",
    )


def _quieten() -> None:
    """Silences a warning of note_seq, in this process and in those it starts.

    It is about ffmpeg for a library that is not used here.
    """
    message = "Couldn't find ffmpeg or avconv"
    warnings.filterwarnings("ignore", message, RuntimeWarning)
    os.environ.setdefault("PYTHONWARNINGS", f"ignore:{message}:RuntimeWarning")


def _words(texts: Sequence[str]) -> list[str]:
    return [word.strip() for text in texts for word in text.split(",") if word.strip()]
