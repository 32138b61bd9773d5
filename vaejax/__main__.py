"""The command `vaejax`, also as `python -m vaejax`."""

import sys


def main() -> int:
    """Run the command line; what is interrupted while it is being loaded ends in a line too."""
    try:
        from vaejax.cli import main as run  # it takes a second  # noqa: PLC0415
    except KeyboardInterrupt:
        print("vaejax: error: interrupted", file=sys.stderr)
        return 130
    return run()


if __name__ == "__main__":
    sys.exit(main())
