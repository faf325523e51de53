"""Block sockets when Python starts; this folder is on the path of processes started by one that is blocked."""

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

HERE = Path(__file__).resolve().parent


def run(spec):
    """Execute a module that nothing needs to find by its name."""
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


run(spec_from_file_location("offline_at_startup", HERE.parent / "offline.py")).block_sockets()

# Python takes the first module of this name on its path; the next one, a distribution's or a site's, has its turn too.
if (found := PathFinder.find_spec("sitecustomize", [place for place in sys.path if place != str(HERE)])) is not None:
    run(found)
