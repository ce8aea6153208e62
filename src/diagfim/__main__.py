"""``python -m diagfim`` is the command ``diagfim``."""

import sys

from diagfim.cli import main

if __name__ == "__main__":
    sys.exit(main())
