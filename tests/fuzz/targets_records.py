"""TFRecord files with songs: records, tf.Examples, NoteSequences, audio, to tokens.

TensorFlow and the data layer are imported when they are needed: most of the quick part
does without, and `tests/test_data_records.py` tries this target, which has them.
"""

from __future__ import annotations

import os
import pathlib

import numpy as np

from mt3 import configs, datasets
from mt3.errors import DataError
from mt3.tokenizer import NoteTokenizer
from tests.fuzz.target import Target

_DATA_SETS = ("urmp", "maestro_v3", "slakh", "guitarset", "musicnet", "monophonic")
_FRAME_SAMPLES = 128


def _seeds(folder: pathlib.Path) -> list[pathlib.Path]:
    # TensorFlow prints records that it cannot parse.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from tests.support import tiny_datasets

    known = [name for name in _DATA_SETS if name in datasets.DATASETS]
    root = tiny_datasets.write_all(
        folder, data_sets=known, splits=("train",), seconds=0.5
    )
    found = []
    for name in known:
        pattern = datasets.pattern(datasets.DATASETS[name], "train", str(root))
        first = sorted(pathlib.Path(p) for p in datasets._glob(pattern))[0]
        # The name says what the records hold.
        found.append(first.rename(folder / f"{name}.{name}"))
    return found


def _read(path: pathlib.Path) -> None:
    from mt3.data import adapters, records, tfrecords

    dataset = datasets.DATASETS[path.suffix[1:]]
    adapter = adapters.of(dataset)
    tokenizer = NoteTokenizer(configs.MT3)
    spans = tfrecords.scan(str(path))
    size = path.stat().st_size
    assert all(span.length <= size for span in spans)
    problem = None
    for span in spans[:50]:
        name = f"{path}#{span.index}"
        try:
            payload = tfrecords.read_payload(str(path), span)
            parsed = records.parse(payload, dataset.features, name)
            record = {key: value.numpy() for key, value in parsed.items()}
            record["record"] = name.encode()
            song = adapter(record, sample_rate=16000, training=True)
            frames = len(song.audio) // _FRAME_SAMPLES + 1
            encoded = tokenizer.encode_song(song.note_array, frames)
            assert np.isfinite(song.audio).all()
            assert all(np.asarray(part).size < 1 << 22 for part in encoded)
        except DataError as error:
            problem = error
    if problem is not None:
        assert str(path) in str(problem)
        raise problem


def _repair(data: bytes) -> bytes:
    """Makes the checksums of every record right, as far as lengths lead to one."""
    from mt3.data.tfrecords import masked_checksum

    data = bytearray(data)
    position = 0
    while position + 16 <= len(data):
        length = int.from_bytes(data[position : position + 8], "little")
        end = position + 12 + length
        if end + 4 > len(data):
            # Cut or spliced: the rest becomes one record.
            length = len(data) - position - 16
            data[position : position + 8] = length.to_bytes(8, "little")
            end = position + 12 + length
        header = masked_checksum(bytes(data[position : position + 8]))
        data[position + 8 : position + 12] = header.to_bytes(4, "little")
        payload = masked_checksum(bytes(data[position + 12 : end]))
        data[end : end + 4] = payload.to_bytes(4, "little")
        position = end + 4
    return bytes(data)


# Damage that TensorFlow's own parser notices, and no other.
_PRINTED = r"\Z|W\d+ \S+ +\d+ op_kernel.cc:\d+\] OP_REQUIRES failed at example_parsing"

TARGETS = (Target("records", _seeds, _read, repair=_repair, quick=0, printed=_PRINTED),)
