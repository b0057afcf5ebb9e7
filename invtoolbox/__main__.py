"""``python -m invtoolbox`` is the command ``invtoolbox``."""

import sys

from invtoolbox.cli import main

if __name__ == "__main__":
    sys.exit(main())
