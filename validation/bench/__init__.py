"""How fast and how small qkov is, as ratios to the machine's own matrix product and to other routes: ``nox -s bench``.

One thread and process time: importing this package sets the thread counts that numerical libraries read when they load.
"""

import os

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"
