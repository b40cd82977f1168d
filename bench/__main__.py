"""`python -m alexkern.bench`: the same as `alexkern bench`."""

import sys
from functools import partial

from alexkern.bench.run import main
from alexkern.commands import guarded

if __name__ == "__main__":
    sys.exit(guarded("python -m alexkern.bench", partial(main, sys.argv[1:])))
