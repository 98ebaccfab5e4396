"""``python -m piclip``: the command ``piclip``, also where its script is not on the PATH."""

from __future__ import annotations

import sys

from piclip.cli import main

if __name__ == "__main__":
    sys.exit(main())
