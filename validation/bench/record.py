"""The committed numbers of speed and memory: read them, or say that they are of other sources.

`validation/evidence/bench.json` holds, by group, the machine, the hashes of the sources, a row for each goal, and what is
behind it. A group whose sources have changed is stale: shown with a note and counted as not run, no failure, as a change of a
source is no defect of it. Verdicts follow from the numbers and the goals of today.
"""

import json
import math
import os

from .. import committed
from . import goals, reasons
from .sources import patterns

FORMAT = "qkov-bench-1"
PATH = committed.FOLDER / "bench.json"
COMMAND = "nox -s bench -- --commit-evidence"


def source_hashes(group, root=committed.ROOT):
    """SHA-256 of every source that a group depends on, by path."""
    return committed.CommittedEvidence(PATH, FORMAT, patterns(group)).source_hashes(root)


def update(found, machine, path=PATH):
    """Put groups in; the others keep their numbers, their machine and their hashes.

    Args:
        found: ``{group: {"sources": hashes, "seconds": ..., "rows": [...], "details": {...}}}``.
        machine: From :func:`validation.bench.machine.record`.
    """
    document = load(path) or {"format": FORMAT, "groups": {}}
    kept = document["groups"]
    for group, one in found.items():
        kept[group] = {"machine": machine, **one}
    document["groups"] = {group: kept[group] for group in goals.GROUPS if group in kept}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(written(document), encoding="utf-8")
    os.replace(temporary, path)


def written(document):
    """JSON with one fact of a group a line, and one row a line."""
    groups = []
    for name, group in document["groups"].items():
        facts = [f"   {json.dumps(key)}: {line(value)}" for key, value in group.items() if key != "rows"]
        rows = ",\n".join(f"    {line(row)}" for row in group["rows"])
        groups.append(f"  {json.dumps(name)}: {{\n" + ",\n".join([*facts, f'   "rows": [\n{rows}\n   ]']) + "\n  }")
    head = json.dumps({key: value for key, value in document.items() if key != "groups"}, indent=1).removesuffix("\n}")
    return f'{head},\n "groups": {{\n' + ",\n".join(groups) + "\n }\n}\n"


def line(value):
    """JSON on one line, floats to six digits; what is not finite has no place in it."""
    return json.dumps(shortened(value), allow_nan=False)


def shortened(value):
    """Round every float inside to six significant digits; None for one that is not finite."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): shortened(one) for key, one in value.items()}
    return [shortened(one) for one in value] if isinstance(value, list | tuple) else value


def load(path=PATH):
    """The document, or None where there is none of this format."""
    if not path.exists():
        return None
    document = json.loads(path.read_text(encoding="utf-8"))
    return document if document.get("format") == FORMAT else None


def read(path=PATH, root=committed.ROOT):
    """Read the record, judged by the goals of today.

    Returns:
        ``{"rows": [...], "groups": {...}, "complaints": [...]}``. A row holds name, group, says, direction, hold, stretch,
        prototype, value, status ("held", "missed", "wrong", "not run"), reason, conditions, changed (sources that are not
        those measured). Groups hold machine, seconds and details. Complaints are sentences about numbers of the present
        sources: two routes that disagree, or a goal that is missed without a reason.
    """
    document = load(path) or {"groups": {}}
    rows = []
    for goal in goals.GOALS:
        group = document["groups"].get(goal.group)
        said = {row["name"]: row for row in group["rows"]}.get(goal.name) if group else None
        rows.append(row_of(goal, said, changed(goal.group, group, root) if said else []))
    groups = {name: {key: group[key] for key in ("machine", "seconds", "details")}
              for name, group in document["groups"].items()}  # fmt: skip
    complaints = [sentence for row in rows for sentence in complaints_of(row)]
    return {"rows": rows, "groups": groups, "complaints": complaints}


def changed(name, group, root):
    """Sources of a group that are not the ones that were measured."""
    made_by, present = group["sources"], source_hashes(name, root)
    return sorted(path for path in made_by.keys() | present.keys() if made_by.get(path) != present.get(path))


def row_of(goal, said, other_sources):
    """One row as the page shows it."""
    row = {name: getattr(goal, name) for name in ("name", "group", "says", "direction", "hold", "stretch", "prototype")}
    if said is None:
        reason = f"it is not in the record: {COMMAND} measures it"
        return row | {"value": None, "status": goals.NOT_RUN, "reason": reason, "conditions": "", "changed": []}
    status, reason = said["status"], said["reason"]
    if said["value"] is not None and status in (goals.HELD, goals.MISSED):
        status = goals.judged(goal, said["value"])
    if status == goals.MISSED:
        reason = reasons.MISSED.get(goal.name, "")
    facts = {name: said[name] for name in ("value", "conditions")}
    return row | facts | {"status": status, "reason": reason, "changed": other_sources}


def complaints_of(row):
    """Sentences about a row of the present sources."""
    if row["changed"]:
        return []
    if row["status"] == goals.WRONG:
        return [f"bench, {row['name']}: {row['reason']}"]
    if row["status"] == goals.MISSED and not row["reason"]:
        said = f"{row['value']:.3g}, {row['direction']} {row['hold']:g} is the goal"
        return [f"bench, {row['name']}: {said}, and validation/bench/reasons.py gives no reason."]
    return []


def omissions(record):
    """Name the goals without a number of the present sources, as things that did not run."""
    left_out = []
    for row in record["rows"]:
        if row["changed"]:
            reason = f"its committed number is of other sources ({', '.join(row['changed'])}); `{COMMAND}` measures it"
            left_out.append({"what": f"bench: {row['says']}", "reason": reason})
        elif row["status"] == goals.NOT_RUN:
            left_out.append({"what": f"bench: {row['says']}", "reason": row["reason"]})
    return left_out
