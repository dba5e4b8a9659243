"""Inputs out of good ones: bytes changed, added, taken away, headers made extreme.

Everything is drawn from the generator that is passed, so that an input can be made
again from its number.
"""

from __future__ import annotations

import pathlib
import random
import re
import shutil
from collections.abc import Callable

# Bytes from the start that hold the header, in most formats; they are drawn more often.
_HEADER_BYTES = 128
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?")
_BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
# In place of numbers in text.
_WORDS = (
    *(b"0", b"-1", b"1e12", b"1e308", b"-1e400", b"NaN", b"nan", b"Infinity", b"inf"),
    *(b"9" * 25, b"9" * 5000, b"-0.0", b"1_0", b"0x10", b"\xd9\xa3", b"1e-320"),
    *(
        b"4294967296",
        b"9223372036854775807",
        b"-9223372036854775808",
        b"18446744073709551616",
    ),
    *(
        b"",
        b"null",
        b"None",
        b"true",
        b'"a"',
        b"[]",
        b"{}",
        b"[" * 3000,
        b"\0",
        b"\n",
        b",",
    ),
)


def copy(source: pathlib.Path, path: pathlib.Path) -> None:
    """Copies a file or folder, in place of what was there."""
    remove(path)
    if source.is_dir():
        shutil.copytree(source, path)
    else:
        shutil.copyfile(source, path)


def remove(path: pathlib.Path) -> None:
    """Removes a file or folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def mutate_path(
    path: pathlib.Path,
    draw: random.Random,
    other: pathlib.Path,
    repair: Callable[[bytes], bytes] | None = None,
) -> None:
    """Mutates a file, or some of the files of a folder, in place.

    Args:
      path: the file or folder.
      draw: the generator.
      other: another good input, parts of which may come in.
      repair: see `Target`; half of the mutated files are repaired.
    """
    if not path.is_dir():
        _mutate_file(path, draw, other, repair)
        return
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        files = sorted(file for file in path.rglob("*") if file.is_file())
        if not files:
            return
        file = draw.choice(files)
        kind = draw.randrange(12)
        if kind == 0:
            file.unlink()
        elif kind == 1:
            # Perhaps its own, which copyfile refuses.
            draw.choice(files).write_bytes(file.read_bytes())
        elif kind == 2:
            file.unlink()
            file.mkdir()
        else:
            _mutate_file(file, draw, draw.choice(files), repair)


def _mutate_file(
    path: pathlib.Path,
    draw: random.Random,
    other: pathlib.Path,
    repair: Callable[[bytes], bytes] | None,
) -> None:
    data = path.read_bytes()
    same = other.read_bytes() if other.is_file() else data
    data = mutated(data, draw, same)
    if repair is not None and draw.random() < 0.5:
        data = repair(data)
    path.write_bytes(data)


def mutated(data: bytes, draw: random.Random, other: bytes = b"") -> bytes:
    """Returns bytes with one to a few changes.

    Args:
      data: the bytes of a good input.
      draw: the generator.
      other: another one's, parts of which may come in.
    """
    for _ in range(draw.choice((1, 1, 1, 2, 2, 3, 5, 12))):
        data = _changed(data, draw, other)
    return data


def _changed(data: bytes, draw: random.Random, other: bytes) -> bytes:
    size = len(data)
    if not size:
        return draw.randbytes(draw.randrange(40))
    place = draw.randrange(min(size, _HEADER_BYTES) if draw.random() < 0.4 else size)
    count = min(size - place, draw.choice((1, 1, 2, 4, 8, 30, 300, 3000)))
    ways = (
        _flip_bit,
        _set_byte,
        _set_number,
        _set_number,
        _set_number,
        _overwrite,
        _insert,
        _delete,
        _repeat,
        _move,
        _splice,
        _cut,
        _set_word,
        _set_word,
    )
    return draw.choice(ways)(data, place, count, draw, other)


def _flip_bit(data, place, count, draw, other):
    byte = data[place] ^ 1 << draw.randrange(8)
    return data[:place] + bytes([byte]) + data[place + 1 :]


def _set_byte(data, place, count, draw, other):
    byte = draw.choice((*_BYTES, draw.randrange(256)))
    return data[:place] + bytes([byte]) + data[place + 1 :]


def _set_number(data, place, count, draw, other):
    """Sets what may be a whole number of 1 to 8 bytes to an extreme, or one near it."""
    size = draw.choice((2, 3, 4, 4, 8))
    order = draw.choice(("little", "big"))
    found = int.from_bytes(data[place : place + size], order)
    most = 256**size - 1
    number = draw.choice(
        (
            *(0, 1, most, most - 1, most >> 1, (most >> 1) + 1, len(data)),
            *(found + 1, found - 1, 2 * found, 1 << draw.randrange(8 * size)),
        )
    )
    return data[:place] + (number & most).to_bytes(size, order) + data[place + size :]


def _overwrite(data, place, count, draw, other):
    new = draw.choice((bytes(count), b"\xff" * count, draw.randbytes(count)))
    return data[:place] + new + data[place + count :]


def _insert(data, place, count, draw, other):
    new = draw.choice((bytes(count), b"\xff" * count, draw.randbytes(count)))
    return data[:place] + new + data[place:]


def _delete(data, place, count, draw, other):
    return data[:place] + data[place + count :]


def _repeat(data, place, count, draw, other):
    times = draw.choice((1, 1, 2, 50 if count < 300 else 3))
    return data[:place] + data[place : place + count] * times + data[place:]


def _move(data, place, count, draw, other):
    """Puts a part of the data in another place, over what was there."""
    start = draw.randrange(len(data))
    part = data[start : start + count]
    return data[:place] + part + data[place + len(part) :]


def _splice(data, place, count, draw, other):
    """Goes on with the rest, or a part, of another input."""
    start = draw.randrange(len(other) + 1)
    if draw.random() < 0.5:
        return data[:place] + other[start:]
    return data[:place] + other[start : start + count] + data[place:]


def _cut(data, place, count, draw, other):
    return (
        data[draw.randrange(min(len(data), 64)) :]
        if draw.random() < 0.2
        else data[:place]
    )


def _set_word(data, place, count, draw, other):
    """Puts another word in place of a number in text; in other data flips a bit."""
    numbers = list(_NUMBER.finditer(data)) if data[:4096].isascii() else []
    if not numbers or b"\0" in data[:4096]:
        return _flip_bit(data, place, count, draw, other)
    start, end = draw.choice(numbers).span()
    return data[:start] + draw.choice(_WORDS) + data[end:]
