"""Run the command line as `python -m everlearn`."""

import sys

from everlearn.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
