r"""Trains the velocity heads of a model anew; the rest of it stays as it is.

    mt3 synthesize MIDI --soundfont A.sf2 --soundfont B.sf2 --hours 3 -o CORPUS
    python scripts/train_velocity.py CORPUS -o new.safetensors

The heads read levels of the front end alone (`mt3/engine/velocity.py`), so this takes
minutes on a CPU. Soundfonts whose presets have several samples for soft and loud notes
teach more than those that have one; docs/recipe.md says what the default weights'
heads were trained on. `--validation` gives the rank correlation of velocities on
another corpus, best of another soundfont.
"""

# check: needs music, soundfonts and hours

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mt3 import checkpoints, frame_heads, terminal
from mt3.engine import velocity
from mt3.errors import CheckpointError

_DTYPES = {"F16": "float16", "BF16": "bfloat16"}


def main(argv: Sequence[str] | None = None) -> int:
    """Parses arguments, trains and writes the file.

    Returns:
      The exit status: 1 after an error.
    """
    options = _parser().parse_args(argv)

    def train() -> int:
        terminal.print_result(str(run(options)))
        return 0

    return terminal.run_program(train, "train_velocity")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Trains a model's velocity heads.", allow_abbrev=False
    )
    add = parser.add_argument
    add("corpus", nargs="+", type=Path, help="made by `mt3 synthesize --hours`")
    add("-o", "--output", type=Path, required=True, metavar="FILE.safetensors")
    add("--model", default="default", metavar="NAME|FILE", help="whose heads")
    add("--validation", type=Path, metavar="CORPUS")
    add("--passes", type=float, default=2.0, help="clips drawn for each that there is")
    add("--steps", type=int, default=1500)
    add("--seed", type=int, default=0)
    return parser


def run(options: argparse.Namespace) -> Path:
    """Trains as the arguments say, and returns the file.

    Raises:
      CheckpointError: the model has no frame heads, or is not a single file.
      DataError: a corpus cannot be used.
      OutputError: the file is there already.
    """
    source = Path(checkpoints.resolve(options.model))
    loaded = checkpoints.load(source)
    if frame_heads.HEADS not in loaded.params:
        raise CheckpointError(f"{source}: the model has no frame heads to train.")
    heads = dict(loaded.params[frame_heads.HEADS])
    heard = velocity.hear(
        options.corpus, loaded.config, passes=options.passes, seed=options.seed
    )
    for drums, notes in heard.items():
        heads |= velocity.train(
            notes,
            drums=drums,
            steps=options.steps,
            seed=options.seed,
            log=terminal.print_result,
        )
    if options.validation is not None:
        unseen = velocity.hear([options.validation], loaded.config, augment=False)
        for drums, notes in unseen.items():
            found = velocity.rank_correlation(heads, notes, drums=drums)
            what = "drums" if drums else "notes"
            terminal.print_result(f"{what}: rank correlation {found:.3f}")
    header = checkpoints.read_header(source)
    return checkpoints.save_safetensors(
        options.output,
        {**loaded.params, frame_heads.HEADS: heads},
        loaded.config,
        info=header.info,
        dtype=next((_DTYPES[x] for x in header.dtypes if x in _DTYPES), "float32"),
    )


if __name__ == "__main__":
    sys.exit(main())
