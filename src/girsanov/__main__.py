"""``python -m girsanov``: the command line, where the package is importable and its command not on the path."""

__all__: list[str] = []

import os
import sys

from girsanov.cli import main

if __name__ == "__main__":
    code = main()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from girsanov.workers import leave

        leave(code)
    sys.exit(code)
