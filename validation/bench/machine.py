"""The machine that numbers were taken on, in words that can be committed: processor, threads, versions, date."""

import os
import platform
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from qkov import reproducibility

OTHERS = ("opacus", "kronfluence", "accelerate")


def processor():
    """Name of the processor, as the system gives it."""
    path = Path("/proc/cpuinfo")
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def record():
    """Everything that a reader of the numbers may want to know of the machine, JSON-able."""
    found = reproducibility.environment_record()
    return {
        "processor": processor(),
        "date": date(),
        **found,
        "versions": {**found["versions"], **{name: version(name) for name in OTHERS}},
    }


def date():
    """The day of ``SOURCE_DATE_EPOCH``, or "none": a clock would make two equal runs differ."""
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    return datetime.fromtimestamp(int(epoch), UTC).date().isoformat() if epoch else "none"


def version(package):
    """Version of a package that is installed, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"
