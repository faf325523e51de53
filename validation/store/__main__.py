"""`python -m validation.store`: try in full to make a store lose samples, and write the evidence that is committed.

Exit status 0 if nothing was lost, wrong, silent or untold and every planted fault was noticed; 1 otherwise.
"""

import argparse
import sys

from .. import committed
from . import evidence


def main(arguments=None):
    """Run it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m validation.store", description=__doc__.split("\n\n")[0])
    parser.add_argument("--short", action="store_true", help="only what every validation runs; writes no file")
    options = parser.parse_args(arguments)
    rows = evidence.measure(False, progress=True) if options.short else evidence.make_long()
    for row in rows:
        print(committed.sentence(row), flush=True)
        for example in row.get("examples", ()):
            print(f"  {example}", flush=True)
    return 0 if rows and all(row["status"] == "passed" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
