"""`python -m alexkern.bench`: the same as `alexkern bench`."""

import sys

from alexkern.bench.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
