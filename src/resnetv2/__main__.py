"""``python -m resnetv2`` and the ``resnetv2`` command."""

import sys


def run() -> None:
    """Run the command line and exit with its code."""
    try:
        from resnetv2.cli import main

        code = main(sys.argv[1:])
    except KeyboardInterrupt:  # while it was loading; later ones are main's
        code = 130
    sys.exit(code)


if __name__ == "__main__":
    run()
