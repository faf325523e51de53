"""Make Python look like that of an image with torch, transformers, numpy, scipy, xarray, pytest and hypothesis alone.

A process that has this folder on its path finds neither the modules nor the distributions of :data:`ABSENT`: importing one
fails as where it is not installed, asking for it answers None, and no plugin of it is loaded.
"""

import re
import sys
from importlib.machinery import PathFinder

ABSENT = frozenset((
    "nox", "statsmodels", "patsy", "matplotlib", "typer", "h5py", "sklearn", "scikit_learn", "opacus", "kronfluence",
    "nbclient", "nbformat", "jupytext", "jupyter_book", "sphinx", "ipykernel", "IPython", "ipython",
    "pytest_timeout", "pytest_cov", "coverage", "xdist", "pytest_xdist", "mutmut", "ruff",
))  # fmt: skip


class Hiding(PathFinder):
    """Find what lies on the path, but for :data:`ABSENT`."""

    @classmethod
    def find_spec(cls, fullname, path=None, target=None):
        """Return None for what is absent."""
        return None if fullname.partition(".")[0] in ABSENT else super().find_spec(fullname, path, target)

    @classmethod
    def find_distributions(cls, *arguments, **options):
        """Leave out the distributions that are absent, and with them their entry points."""
        found = super().find_distributions(*arguments, **options)
        return [one for one in found if re.sub(r"[-.]", "_", one.metadata["Name"] or "") not in ABSENT]


sys.meta_path[:] = [Hiding if finder is PathFinder else finder for finder in sys.meta_path]
