"""`python -m oncue FILE`: serves the function in a file to the host that has started this process."""

from __future__ import annotations

import sys

from oncue._serve import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
