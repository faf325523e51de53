"""How fast and how small qkov is, as ratios to the machine's own matrix product and to other routes: ``nox -s bench``."""
