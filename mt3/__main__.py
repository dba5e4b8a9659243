"""`python -m mt3` is the command `mt3`."""

import sys

from mt3 import cli

if __name__ == "__main__":
    sys.exit(cli.main())
