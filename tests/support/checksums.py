"""Checksums of damaged files made right, so that what lies behind them is reached."""

from __future__ import annotations

import itertools
import re

from mt3.audio import flac, ogg


def repair_ogg(data: bytes) -> bytes:
    """Makes the checksum of every page right that is there to its end."""
    data = bytearray(data)
    position = data.find(b"OggS")
    while 0 <= position <= len(data) - 27:
        count = data[position + 26]
        end = position + 27 + count + sum(data[position + 27 : position + 27 + count])
        if end <= len(data):
            checksum = ogg._checksum(bytes(data[position:end]))
            data[position + 22 : position + 26] = checksum.to_bytes(4, "little")
        position = data.find(b"OggS", position + 4)
    return bytes(data)


def repair_flac(data: bytes) -> bytes:
    """Makes the checksums of what looks like frames right, headers' and data's."""
    data = bytearray(data)
    frames = []
    for match in re.finditer(rb"\xff[\xf8\xf9][^\x0f\x1f]", bytes(data)):
        start = match.start()
        first = (data[start + 4 : start + 5] or b"\0")[0]
        size = 5 if first < 0x80 else 4 + max(1, 8 - (first ^ 0xFF).bit_length())
        size += {6: 1, 7: 2}.get(data[start + 2] >> 4, 0)
        size += {12: 1, 13: 2, 14: 2}.get(data[start + 2] & 15, 0)
        if start + size < len(data):
            checksum = 0
            for byte in data[start : start + size]:
                checksum = flac._CRC[checksum ^ byte]
            data[start + size] = checksum
            frames.append(start)
    for start, end in itertools.pairwise([*frames, len(data)]):
        if end - start > 8:
            checksum = 0
            for byte in data[start : end - 2]:
                checksum = (checksum << 8 ^ _CRC16[checksum >> 8 ^ byte]) & 0xFFFF
            data[end - 2 : end] = checksum.to_bytes(2, "big")
    return bytes(data)


def _crc16_table() -> list[int]:
    table = []
    for value in range(256):
        value <<= 8
        for _ in range(8):
            value = value << 1 ^ (0x8005 if value & 0x8000 else 0)
        table.append(value & 0xFFFF)
    return table


_CRC16 = _crc16_table()
