r"""Gathers free music and soundfonts, and renders a training corpus from them.

    python scripts/gather_music.py -o OUT --hours 100 --workers 8 \
      --local midi.tar.xz --local soundfonts.tar.xz

Sources: local folders and archives; soundfonts of real samples, `--exact`
(`gather/exact_banks.py`); soundfonts and drum samples from Debian packages;
music21's corpus from PyPI, converted by Verovio; songs made with the program MMA where
it is installed. Random notes and grooves over scores are drawn when the corpus is
rendered. The parts of this program are in the folder `gather`.

    OUT/midi/SOURCE/...     the music
    OUT/soundfonts/         the soundfonts, those of real samples in `exact`
    OUT/licences.txt        a line for each source: name, licence, origin
    OUT/manifest.json       each source with its licence, its files, its failures
    OUT/corpus/             the corpus (`mt3 synthesize --hours`)
    OUT/downloads/          packages; may be deleted

Everything in a folder named `test` and in `--held-out` is held out. These tunes are
recognised in all sources by their notes, also in other keys and tempos and under other
names; soundfonts by name and content. The same command resumes where it was stopped and
retries what failed. The exit code is 1 if a source failed entirely.
"""

# check: needs a network and days

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from gather import exact_banks, font_packages, score_sources
from gather.held_out import HeldOut, digest
from mt3 import terminal
from mt3.errors import DataError, MidiError, MT3Error, near_misses
from mt3.files import atomic_file, exists
from mt3.midi import reader as midi_reader
from mt3.synthesis import command

_TEST = "test"
_EXACT = "exact"
_FONT_SUFFIXES = exact_banks.SUFFIXES
_MMA_SONGS = 1000
# Licences by the names of collections of free music.
_LICENCES = {
    "blupi": "GPL-3+",
    "freedink": "free, per file",
    "freedoom": "BSD-3-Clause",
    "groove": "CC-BY-4.0",
    "mma": "generated with MMA",
    "nott": "GPL-3",
    "openmsx": "GPL-2",
    "openscore_lieder": "CC0",
    "openscore_quartets": "CC0",
    "simutrans": "Artistic-1.0",
    "TimGM6mb": "GPL-2",
    "sf_GMbank": "public domain",
    "FluidR3Mono_GM": "MIT",
}
_MUSIC21_LICENCE = (
    "composers' rights have expired; encodings as each file says, those that say they "
    "are restricted left out"
)


class Gathering:
    """An output folder and the sources gathered in it.

    Args:
      output: the folder.
      local: folders and archives.
      held_out: further MIDI files, soundfonts and folders to hold out.
      say: called with each line of progress.
      exact: soundfonts of real samples, folders and archives of them.
    """

    def __init__(
        self,
        output: Path,
        local: Sequence[Path],
        held_out: Sequence[Path],
        say: Callable[[str], None],
        exact: Sequence[Path] = (),
    ):
        self.output = output
        self.say = say
        self.sources: dict[str, dict] = {}
        self.downloads = output / "downloads"
        roots = [self._open_local(path) for path in local]
        self._exact_roots = [self._open_local(path) for path in exact]
        kept_out = [*held_out, *_folders_named(_TEST, [*roots, *self._exact_roots])]
        midi = _files(kept_out, midi_reader.MIDI_SUFFIXES)
        songs = [midi_reader.read_song(path) for path in midi]
        self.held_out = HeldOut(songs)
        fonts = _files(kept_out, _FONT_SUFFIXES)
        self._held_out_fonts = {path.stem.lower() for path in fonts}
        self._held_out_hashes = {_hash(path) for path in fonts}
        # Songs are checked again only if other tunes are held out.
        self._stamp = hashlib.sha256(
            "".join(sorted(digest(song.notes) for song in songs)).encode()
        ).hexdigest()
        self._fresh = self._stamp != self._read_manifest().get("held_out_stamp")
        self._roots = roots
        self._kept_out = [path.resolve() for path in kept_out]
        say(f"held out: {len(songs)} tunes, {len(fonts)} soundfonts")

    def local_music(self) -> None:
        """Takes the MIDI files and soundfonts of the local folders."""
        groups: dict[Path, list[Path]] = {}
        for root in self._roots:
            for path in self._trainable(root, midi_reader.MIDI_SUFFIXES):
                groups.setdefault(_collection(path, root), []).append(path)
            for path in self._trainable(root, _FONT_SUFFIXES):
                licence = _LICENCES.get(path.stem, "not stated")
                self._attempt(
                    path.stem, "soundfont", str(root), licence, lambda p=path: [p]
                )
        for folder, paths in sorted(groups.items()):
            licence = _LICENCES.get(folder.name, "not stated")
            source = self._source(folder.name, "music", str(folder), licence)
            self._take_music(source, paths, folder)

    def exact_banks(self) -> None:
        """Takes the soundfonts of real samples, with exactly their own programs.

        Raises:
          DataError: a list of banks cannot be used, or two have one name.
        """
        found: dict[str, Path] = {}
        for root in self._exact_roots:
            for bank in exact_banks.find_banks(root):
                other = found.setdefault(bank.path.name, bank.path)
                if other != bank.path:
                    raise DataError(f"{other} and {bank.path}: rename one of them.")
                self._attempt(
                    bank.path.stem,
                    "exact soundfont",
                    bank.origin,
                    bank.licence,
                    lambda bank=bank: [bank.path],
                    write=bank.write,
                )

    def packages(self, names: Iterable[str]) -> None:
        """Takes the soundfonts of Debian packages."""
        known = {package.name: package for package in font_packages.FONT_PACKAGES}
        for name in names:
            package = known[name]

            def fonts(package=package) -> list[Path]:
                folder = self.downloads / "debian"
                unpacked = font_packages.download_debian(package.name, folder)
                return font_packages.make_fonts(
                    package, unpacked, self.downloads / "soundfonts"
                )

            self._attempt(name, "soundfont", f"Debian {name}", package.licence, fonts)

    def music21(self, died_before: int) -> None:
        """Takes the free part of music21's corpus."""
        source = self._source(
            "music21", "music", "PyPI music21, verovio", _MUSIC21_LICENCE
        )
        try:
            folder = self.downloads / "pypi"
            unpacked = font_packages.download_wheel(
                "music21", folder, "music21/corpus/"
            )
            verovio = font_packages.download_wheel("verovio", folder)
            corpus = unpacked / "music21" / "corpus"
            used, refused = score_sources.free_scores(corpus, died_before)
            converted = self.downloads / "converted"
            _, failures = score_sources.convert_scores(
                used, corpus, converted, verovio, progress=self.say
            )
        except MT3Error as error:
            self._failed(source, error)
            return
        source["refused"] += [
            f"{path.relative_to(corpus)}: {why}" for path, why in refused.items()
        ]
        source["failures"] += [f"{name}: {why}" for name, why in failures.items()]
        self._take_music(source, _files([converted], (".mid",)), converted)

    def mma(self, count: int, seed: int) -> None:
        """Makes songs with MMA, where it is installed."""
        program = shutil.which("mma")
        if program is None:
            self.say("mma: the program is not installed; no songs are made")
            return
        source = self._source("mma_songs", "music", "Debian mma", "generated with MMA")
        library = Path("/usr/share/mma/lib/stdlib")
        folder = self.downloads / "mma"
        try:
            _, failures = score_sources.make_songs(
                program, library, folder, count, seed
            )
        except MT3Error as error:
            self._failed(source, error)
            return
        source["failures"] += [f"{name}: {why}" for name, why in failures.items()]
        self._take_music(source, _files([folder], (".mid",)), folder)

    def soundfonts(self) -> list[Path]:
        """Returns the soundfonts gathered so far, without exact ones."""
        fonts = _files([self.output / "soundfonts"], _FONT_SUFFIXES)
        return [path for path in fonts if path.parent.name != _EXACT]

    def exact_soundfonts(self) -> list[Path]:
        """Returns the soundfonts of real samples gathered so far."""
        return _files([self.output / "soundfonts" / _EXACT], _FONT_SUFFIXES)

    def failed(self) -> list[str]:
        """Returns the names of sources that failed as a whole."""
        return [n for n, s in self.sources.items() if s["state"] == "failed"]

    def write_manifest(self) -> None:
        """Writes the lists of sources and of licences."""
        held_out = {"tunes": len(self.held_out), "names": sorted(self._held_out_fonts)}
        content = {
            "held_out": held_out,
            "held_out_stamp": self._stamp,
            # Sources of earlier calls that this call skipped are still in the folder.
            "sources": {**self._read_manifest().get("sources", {}), **self.sources},
        }
        with atomic_file(self.output / "manifest.json") as file:
            file.write(json.dumps(content, indent=2).encode() + b"\n")
        lines = [
            f"{source['kind']} {name}: {source['licence']}; {source['origin']}\n"
            for name, source in content["sources"].items()
            if source["files"]
        ]
        with atomic_file(self.output / "licences.txt") as file:
            file.write("".join(sorted(lines)).encode())

    def _read_manifest(self) -> dict:
        try:
            return json.loads((self.output / "manifest.json").read_text())
        except (OSError, ValueError):
            return {}

    def _open_local(self, path: Path) -> Path:
        """Returns a local folder or soundfont; unpacks an archive first."""
        if path.is_dir() or path.suffix.lower() in _FONT_SUFFIXES:
            return path
        name = path.name.partition(".")[0]
        folder = self.downloads / "local" / f"{name}_{_hash(path)[:8]}"
        if folder.is_dir():
            return folder
        partial = folder.with_name(f"{folder.name}.partial")
        try:
            with tarfile.open(path) as archive:
                archive.extractall(partial, filter="data")
        except (OSError, tarfile.TarError) as error:
            raise DataError(
                f"{path}: is neither a folder nor a readable archive: {error}."
            ) from error
        partial.replace(folder)
        return folder

    def _trainable(self, root: Path, suffixes: Sequence[str]) -> list[Path]:
        return [
            path
            for path in _files([root], suffixes)
            if not any(path.resolve().is_relative_to(k) for k in self._kept_out)
        ]

    def _source(self, name: str, kind: str, origin: str, licence: str) -> dict:
        source = {
            "kind": kind,
            "origin": origin,
            "licence": licence,
            "state": "done",
            "files": 0,
            "notes": 0,
            "refused": [],
            "failures": [],
        }
        # Two folders may have the same name.
        others = sum(n == name or n.startswith(f"{name}#") for n in self.sources)
        self.sources[f"{name}#{others + 1}" if others else name] = source
        return source

    def _failed(self, source: dict, error: MT3Error) -> None:
        source["state"] = "failed"
        source["failures"].append(str(error))
        self.say(f"failed: {error}")

    def _take_music(self, source: dict, paths: Sequence[Path], root: Path) -> None:
        """Copies MIDI files that may be trained on to the output folder."""
        name = next(n for n, s in self.sources.items() if s is source)
        folder = self.output / "midi" / name
        for path in paths:
            target = folder / path.relative_to(root)
            try:
                song = midi_reader.read_song(path)
            except MidiError as error:
                source["failures"].append(str(error))
                continue
            there = target.is_file() and target.stat().st_size == path.stat().st_size
            tune = None if there and not self._fresh else self.held_out.find(song)
            if tune is not None:
                target.unlink(missing_ok=True)
                source["refused"].append(f"{path}: is the held-out tune {tune}")
                continue
            if not there:
                with atomic_file(target) as file:
                    file.write(path.read_bytes())
            source["files"] += 1
            source["notes"] += len(song.notes)
        self.say(
            f"{name}: {source['files']} files, {source['notes']} notes; "
            f"{len(source['refused'])} refused, {len(source['failures'])} failed"
        )

    def _attempt(
        self,
        name: str,
        kind: str,
        origin: str,
        licence: str,
        fonts: Callable[[], list[Path]],
        write: Callable[[Path], None] | None = None,
    ) -> None:
        """Takes soundfonts that may be trained on, each name once.

        Args:
          name: of the source.
          kind: of the source.
          origin: where it comes from.
          licence: of the source.
          fonts: gets the soundfonts.
          write: writes an exact soundfont; without it, soundfonts are copied.
        """
        source = self._source(name, kind, origin, licence)
        try:
            paths = fonts()
        except MT3Error as error:
            self._failed(source, error)
            return
        folder = self.output / "soundfonts" / (_EXACT if write else "")
        for path in paths:
            target = folder / path.name
            held_out = path.stem.lower() in self._held_out_fonts
            if held_out or _hash(path) in self._held_out_hashes:
                target.unlink(missing_ok=True)
                source["refused"].append(f"{path}: is a held-out soundfont")
                continue
            if write:
                folder.mkdir(parents=True, exist_ok=True)
                try:
                    write(target)
                except DataError as error:
                    self._failed(source, error)
                    continue
            elif not target.is_file() or target.stat().st_size != path.stat().st_size:
                with atomic_file(target) as file, path.open("rb") as data:
                    shutil.copyfileobj(data, file)
            source["files"] += 1
        self.say(f"{name}: {source['files']} soundfonts")


def _folders_named(name: str, roots: Iterable[Path]) -> list[Path]:
    return [
        path
        for root in roots
        for path in [root, *sorted(root.rglob("*"))]
        if path.is_dir() and path.name == name
    ]


def _files(paths: Iterable[Path], suffixes: Sequence[str]) -> list[Path]:
    """Returns the files with these suffixes among paths and in folders, sorted."""
    found = set()
    for path in paths:
        if not path.exists():
            continue
        inside = path.rglob("*") if path.is_dir() else [path]
        found.update(p for p in inside if p.suffix.lower() in suffixes and p.is_file())
    return sorted(found)


def _collection(path: Path, root: Path) -> Path:
    """Returns the folder that names a file's collection, below `midi` and `train`."""
    folder = root
    for part in path.relative_to(root).parts[:-1]:
        folder = folder / part
        if part not in ("midi", "train"):
            break
    return folder


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Gathers free music and soundfonts and renders a corpus.",
        epilog="Packages: " + ", ".join(p.name for p in font_packages.FONT_PACKAGES),
    )
    add = parser.add_argument
    add("-o", "--output", type=Path, required=True, metavar="DIR")
    add(
        "--local",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="a folder or archive (.tar.xz) of MIDI files or soundfonts; repeat",
    )
    add(
        "--exact",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="soundfonts of real samples, as files, folders or archives, which play "
        "only the programs that they have; repeat",
    )
    add(
        "--held-out",
        type=Path,
        action="append",
        default=[],
        metavar="PATH",
        help="MIDI files, soundfonts or folders never to train on; repeat",
    )
    add(
        "--skip",
        action="append",
        default=[],
        metavar="NAME",
        help="music21, mma, or a package; repeat",
    )
    add("--offline", action="store_true", help="local material and MMA only")
    add(
        "--died-before",
        type=int,
        default=1926,
        metavar="YEAR",
        help="composers of music21's corpus (default: 1926)",
    )
    add("--mma-songs", type=int, default=_MMA_SONGS, metavar="N")
    add("--hours", type=float, default=0.0, help="of the corpus; 0: gather only")
    add("--workers", type=int, default=1, help="processes that render")
    add("--seed", type=int, default=0)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the program; returns its exit code."""
    options = _parser().parse_args(arguments)
    return terminal.run_program(lambda: _run(options), "gather_music")


def _run(options: argparse.Namespace) -> int:
    names = [package.name for package in font_packages.FONT_PACKAGES]
    for name in options.skip:
        if name not in (*names, "music21", "mma"):
            raise DataError(
                f"--skip {name}: no such source."
                f"{near_misses(name, (*names, 'music21', 'mma'))}"
            )
    for path in (*options.local, *options.exact, *options.held_out):
        if not exists(path, DataError):
            raise DataError(f"{path}: there is no such file or folder.")
    gathering = Gathering(
        options.output, options.local, options.held_out, terminal.say, options.exact
    )
    try:
        gathering.local_music()
        gathering.exact_banks()
        if not options.offline:
            gathering.packages(n for n in names if n not in options.skip)
            if "music21" not in options.skip:
                gathering.music21(options.died_before)
        if "mma" not in options.skip and options.mma_songs:
            gathering.mma(options.mma_songs, options.seed)
    finally:
        gathering.write_manifest()
    failures = [f"{name}: see manifest.json" for name in gathering.failed()]
    if options.hours > 0:
        music = options.output / "midi"
        result = command.synthesize(
            [music] if _files([music], midi_reader.MIDI_SUFFIXES) else [],
            output=options.output / "corpus",
            hours=options.hours,
            soundfonts=gathering.soundfonts(),
            exact_soundfonts=gathering.exact_soundfonts(),
            seed=options.seed,
            workers=options.workers,
            log=terminal.say,
        )
        failures += result.failures
    for failure in failures:
        terminal.say(f"gather_music: error: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
