"""The committed figures of the mutants: read them, or say why they do not speak for the present sources.

`validation/evidence/mutants.json` holds one row per mutated source with its SHA-256, and every mutant that its tests did not
kill, with the reason. A row of another version of its source is stale: shown with a note, counted as not run, no failure, as a
change of a source is no defect of it.
"""

import json
import os

from qkov import reproducibility

from . import mutant_reasons
from .committed import FOLDER, ROOT
from .source_hash import source_hash

FORMAT = "qkov-mutants-1"
PATH = FOLDER / "mutants.json"
COMMAND = "nox -s mutants"
PROMISED = 0.9  # share of killed mutants, in every file and altogether
PATTERNS = (
    "qkov/formula.py", "qkov/layout.py", "qkov/fisher.py", "qkov/interference.py", "qkov/score_attributes.py",
    "qkov/score_warnings.py", "qkov/statistics/*.py",
)  # fmt: skip
WITHOUT_FUNCTIONS = "qkov/statistics/__init__.py"


def sources(root=ROOT):
    """Paths of the sources that are mutated, relative to the root."""
    paths = [path.relative_to(root).as_posix() for pattern in PATTERNS for path in sorted(root.glob(pattern))]
    return [path for path in paths if path != WITHOUT_FUNCTIONS]


def current_sources(path=PATH, root=ROOT):
    """Names of the sources whose rows speak for what they are now."""
    stale = read(path, root)["stale"]
    return [name for name in sources(root) if name not in stale]


def share(row):
    """Share of the mutants of a row that were killed."""
    return row["killed"] / row["mutants"] if row["mutants"] else 0.0


def share_without_wording(row):
    """The same, of the mutants that change more than the words of a message."""
    other = row["mutants"] - row["wording"]
    return (other - row["survived"] + row["wording_survived"]) / other if other else 0.0


def update(row, path=PATH, root=ROOT):
    """Put the row of one source in, with its hash; the others keep their figures. All reasons are looked up again."""
    document = _load(path) or {"format": FORMAT, "environment": {}, "files": []}
    rows = {one["file"]: one for one in document["files"]}
    rows[row["file"]] = row | {"sha256": source_hash(root / row["file"])}
    rows = {name: explained(one) for name, one in rows.items()}
    order = {name: place for place, name in enumerate(sources(root))}
    document["files"] = sorted((one for one in rows.values() if one["file"] in order), key=lambda r: order[r["file"]])
    document["environment"] = reproducibility.environment_record()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(written(document), encoding="utf-8")
    os.replace(temporary, path)


def explained(row):
    """Give every survivor of a row its reason of today."""
    return row | {"survivors": [one | mutant_reasons.reason(row["file"], one) for one in row["survivors"]]}


def written(document):
    """JSON with a file, and each of its survivors, on a line of its own: a change of one is a changed line."""
    first = {name: value for name, value in document.items() if name != "files"} | {"files": []}
    head = json.dumps(first, indent=1).removesuffix("[]\n}")
    files = []
    for row in document["files"]:
        survivors = ",\n".join(f"   {json.dumps(one, ensure_ascii=False)}" for one in row["survivors"])
        rest = {name: value for name, value in row.items() if name != "survivors"}
        files.append(f'  {json.dumps(rest).removesuffix("}")}, "survivors": [\n{survivors}\n  ]}}')
    return f"{head}[\n" + ",\n".join(files) + "\n ]\n}\n"


def read(path=PATH, root=ROOT):
    """Read the record.

    Returns:
        ``{"files": rows, "stale": names, "complaints": sentences}``. Stale are sources that are not those measured, or not
        in the record at all. Complaints are about what is in it: a file below the promised share, a survivor without reason.
    """
    document = _load(path)
    if document is None:
        return {"files": [], "stale": sources(root), "complaints": []}
    rows = {row["file"]: row for row in document["files"]}
    stale = [name for name in sources(root) if name not in rows or rows[name]["sha256"] != source_hash(root / name)]
    current = [row for row in document["files"] if row["file"] not in stale]
    return {
        "files": document["files"],
        "stale": stale,
        "complaints": [one for row in current for one in complaints(row)],
    }


def omissions(record):
    """Name the sources whose figures are of other versions, as things that did not run."""
    reason = f"no committed figures are of its present version; `{COMMAND}` measures it"
    return [{"what": f"mutants of {name}", "reason": reason} for name in record["stale"]]


def complaints(row):
    """Sentences about a row: below the promised share, or survivors without a reason."""
    found = []
    if share(row) < PROMISED:
        found.append(f"{sentence(row)}; expected at least {PROMISED:.0%}.")
    unexplained = sum(one["kind"] == mutant_reasons.UNEXPLAINED for one in row["survivors"])
    if unexplained:
        found.append(f"{row['file']}: {unexplained} survivors have no reason in validation/mutant_reasons.py.")
    return found


def sentence(row):
    """Say what a row found, for a log."""
    return (
        f"{row['file']}: {row['killed']} of {row['mutants']} mutants killed ({share(row):.1%}; "
        f"{share_without_wording(row):.1%} without wording), {row['survived']} survived, {row['seconds']:.0f} s"
    )


def _load(path):
    """The document, or None where there is none of this format."""
    if not path.exists():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    return document if document.get("format") == FORMAT else None
