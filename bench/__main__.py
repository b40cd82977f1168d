"""`python -m alexkern.bench`: the same as `alexkern bench`."""

import sys

from alexkern.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
