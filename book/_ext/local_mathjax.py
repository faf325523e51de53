"""Sphinx extension: serve MathJax from the pages themselves; by default it comes from another machine."""

import importlib.util
from pathlib import Path

from sphinx.util.fileutil import copy_asset

SCRIPT = "tex-svg.js"  # draws with paths: the only bundle that needs no font files


def copy_script(app, exception):
    """Copy the script out of the package `sphinx-mathjax-offline`; the rest of that package is not needed."""
    if exception is None and app.builder.format == "html":
        package = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent
        copy_asset(package / "static" / "mathjax" / SCRIPT, Path(app.outdir, "_static", "mathjax"))


def setup(app):
    """Register with Sphinx."""
    app.config.mathjax_path = f"mathjax/{SCRIPT}"
    app.connect("build-finished", copy_script)
    return {"version": "1.0", "parallel_read_safe": True, "parallel_write_safe": True}
