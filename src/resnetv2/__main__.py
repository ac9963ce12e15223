"""``python -m resnetv2`` and the ``resnetv2`` command."""

import sys


def run() -> None:
    """Run the command line and exit with its code."""
    from resnetv2.cli import main

    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
