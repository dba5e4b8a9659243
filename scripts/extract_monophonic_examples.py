"""Finds monophonic clips in recordings, and infers their notes.

    python scripts/extract_monophonic_examples.py RECORDINGS -o data

The same as `mt3 prepare monophonic`; `mt3.prepare.monophonic` says what is done, and
docs/monophonic.md how well it works. The records are those of the tasks
`monophonic_notes_ties_...`, which `gin/ismir2022/pretrain.gin` trains on.
"""

# check: needs recordings

from __future__ import annotations

import sys
from collections.abc import Sequence

from mt3 import terminal
from mt3.prepare import command


def main(argv: Sequence[str] | None = None) -> int:
    """Parses arguments and runs; errors go to standard error.

    Returns:
      The exit status: 1 after an error, or if a recording could not be read.
    """
    arguments = ["monophonic", *(sys.argv[1:] if argv is None else argv)]
    name = "extract_monophonic_examples"
    return terminal.run_program(lambda: command.main(arguments), name)


if __name__ == "__main__":
    sys.exit(main())
