"""Where the command starts: `cam-extras`, or `python -m cam_extras`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command and return the exit status; see `cam_extras.cli.main`."""
    try:
        from cam_extras.cli import main as run  # only here: the import takes seconds, in which it can be interrupted

        return run()
    except KeyboardInterrupt:
        sys.stderr.write("cam-extras: interrupted\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
