"""``python -m girsanov``: the command line, where the package is importable and its command not on the path."""

__all__: list[str] = []

import sys

from girsanov.cli import main

if __name__ == "__main__":
    sys.exit(main())
