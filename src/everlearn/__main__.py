"""Run the command line: `everlearn`, or `python -m everlearn`."""

import sys


def main() -> int:
    """Run the command, and end quietly with 130 when Ctrl-C comes while it is still being imported."""
    try:
        from everlearn.cli.main import main as run

        return run()
    except KeyboardInterrupt:
        print("everlearn: interrupted", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
