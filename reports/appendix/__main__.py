"""`python -m reports.appendix`: write the published methods appendix from the evidence of the last validation.

Exit status 0 if it was made, also where there is no pdflatex (then without a PDF, which counts as not run); 1 if the text
could not be typeset or two builds differ; 3 if there is no usable evidence.
"""

import argparse
import sys
from pathlib import Path

from qkov import escaping

from .. import evidence
from . import build

ROOT = Path(__file__).resolve().parent.parent.parent


def main(arguments=None):
    """Make it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m reports.appendix", description=__doc__.split("\n\n")[0])
    parser.add_argument("--evidence", type=Path, default=ROOT / "_build" / "validation", help="folder of the evidence")
    parser.add_argument("--output", type=Path, default=ROOT / "_build" / "appendix", help="folder to write")
    options = parser.parse_args(arguments)
    try:
        found, manifest = evidence.load_evidence(options.evidence)
    except evidence.EvidenceError as error:
        print(escaping.for_terminal(f"appendix: {error}"), flush=True)
        return 3
    made = build.build(found, manifest, options.output)
    say_what_was_made(made)
    return 1 if made.problems else 0


def say_what_was_made(made):
    """Print one line for what there is, and one for each problem."""
    said = f"appendix: {made.num_tables} tables, {made.num_numbers} numbers with their sources, {made.folder / 'appendix.tex'}"
    print(escaping.for_terminal(said), flush=True)
    for problem in made.problems:
        print(escaping.for_terminal(f"failed: appendix: {problem}"), flush=True)
    if made.pdf is not None:
        print(escaping.for_terminal(f"appendix: {made.pdf}, two builds are the same bytes"), flush=True)
    elif not made.problems:
        print("not run: appendix.pdf: not made: no pdflatex", flush=True)


if __name__ == "__main__":
    sys.exit(main())
