"""`python -m alexkern` is `alexkern`."""

import sys

from alexkern.cli import main

if __name__ == "__main__":
    sys.exit(main())
