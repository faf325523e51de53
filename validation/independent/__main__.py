"""`python -m validation.independent [GRADIENTS]`: compute the published values from the text and print them as JSON."""

import json
import sys

from . import values


def main(arguments):
    """Print the values of the models, of the tests on a file of gradients if one is given, and of every misreading."""
    print(json.dumps(values.everything(arguments[0] if arguments else None), allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
