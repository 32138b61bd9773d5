"""The command `vaejax`, also as `python -m vaejax`."""

import sys


def main() -> int:
    """Run the command line, or say what the light installation lacks for it."""
    try:
        from vaejax import cli  # noqa: PLC0415
    except ModuleNotFoundError as error:
        print(f'vaejax: error: the command needs {error.name}: pip install "vaejax[train]"', file=sys.stderr)
        return 2
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
