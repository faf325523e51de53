"""Evidence that takes too long for every run: measured by a long run, committed, and refused when its sources have changed.

A file names the hash of every source that made it, of what the source does and not of how it is worded (`source_hash`). Where
one of them has changed since, the file is evidence about other code: `read` says so instead of handing out old numbers as if
they were new.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from qkov import reproducibility

from .source_hash import source_hash

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "validation" / "evidence"
COMMAND = "nox -s validate -- --long"


@dataclass(frozen=True)
class CommittedEvidence:
    """One committed file of rows.

    A row holds study, procedure, data, sets (data sets, splits, slices), value, low and high (95 % interval), bound,
    direction ("at most", "at least", "must exceed" for a procedure that must be seen failing, "shown") and status.

    Attributes:
        path: The file. format: What it must name itself.
        sources: Patterns of the sources that the rows depend on, relative to the root.
    """

    path: Path
    format: str
    sources: tuple[str, ...]

    def source_hashes(self, root=ROOT):
        """Hash of what every source that the evidence depends on does, by path."""
        paths = sorted(path for pattern in self.sources for path in root.glob(pattern))
        return {path.relative_to(root).as_posix(): source_hash(path) for path in paths}

    def write(self, rows, seconds, root=ROOT):
        """Write the rows of a full run with what made them."""
        document = {
            "format": self.format,
            "seconds": round(seconds, 1),
            "environment": reproducibility.environment_record(),
            "sources": self.source_hashes(root),
            "rows": [{key: rounded(value) for key, value in row.items()} for row in rows],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(written(document), encoding="utf-8")
        os.replace(temporary, self.path)

    def read(self, root=ROOT):
        """Read the committed rows.

        Returns:
            ``{"rows": [...], "seconds": number or None, "environment": dict, "complaints": [...]}``: sentences that say why
            the evidence does not speak for the present sources; none if it does.
        """
        shown = self.path.relative_to(root) if self.path.is_relative_to(root) else self.path
        again = f"Run `{COMMAND}` and commit the file."
        nothing = {"rows": [], "seconds": None, "environment": {}}
        try:
            document = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return nothing | {"complaints": [f"{shown} does not exist. {again}"]}
        except json.JSONDecodeError as error:
            return nothing | {"complaints": [f"{shown} is not JSON ({error}). {again}"]}
        if document.get("format") != self.format:
            found = document.get("format")
            return nothing | {"complaints": [f"{shown} has format {found!r}; expected {self.format!r}. {again}"]}
        complaints = []
        made_by, present = document["sources"], self.source_hashes(root)
        changed = sorted(name for name in made_by.keys() | present.keys() if made_by.get(name) != present.get(name))
        if changed:
            complaints.append(f"{shown} was made by other sources; changed since: {', '.join(changed)}. {again}")
        if not document["rows"]:
            complaints.append(f"{shown} holds no row. {again}")
        complaints += [f"{shown}: {sentence(row)}" for row in document["rows"] if row["status"] != "passed"]
        return {name: document[name] for name in ("rows", "seconds", "environment")} | {"complaints": complaints}


def written(document):
    """Write a document as JSON with one row a line: short, and a change of a row is a changed line."""
    head = json.dumps({**document, "rows": []}, indent=1, allow_nan=False).removesuffix("[]\n}")
    rows = ",\n".join(f"  {json.dumps(row, allow_nan=False)}" for row in document["rows"])
    return f"{head}[\n{rows}\n ]\n}}\n"


def rounded(value):
    """Six digits after the point are more than a thousand data sets can tell."""
    return round(value, 6) if isinstance(value, float) else value


def sentence(row):
    """Say what a row found, for a log."""
    bound = "" if row["bound"] is None else f", {row['direction']} {row['bound']:.3f}"
    return f"{row['status']}: {row['study']} of {row['procedure']} on {row['data']}: {row['value']:.3f}{bound}"
