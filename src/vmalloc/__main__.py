"""``python -m vmalloc`` is the ``vmalloc`` command."""

import sys

from vmalloc.cli import main

if __name__ == "__main__":
    sys.exit(main())
