"""What committed figures of one machine are worth now: of which sources, whether within bounds; never a failure for being old.

Speed, memory and plans depend on a machine, so they are measured now and then and committed. Where a source has changed since,
that is said and counted as not run; a row beyond its bound is a complaint.
"""

import json
from dataclasses import dataclass, replace

from . import memory_peaks, plans, real_size
from .committed import ROOT, CommittedEvidence, sentence


@dataclass(frozen=True)
class Record:
    """One committed file: where it is, what makes it, and what it shows, in words."""

    evidence: CommittedEvidence
    command: str
    shows: str


RECORDS = {
    "real_size": Record(real_size.EVIDENCE, real_size.COMMAND, "a model of real size within its memory"),
    "memory_peaks": Record(
        memory_peaks.EVIDENCE, "python -m validation.memory_peaks --evidence", "peaks of memory beside budgets"
    ),
    "plans": Record(plans.EVIDENCE, "python -m validation.plans --commit", "plans beside what is measured"),
}


def read(name, path=None, root=ROOT):
    """Read the committed figures of one record.

    Returns:
        ``{"rows": [...], "seconds": number or None, "environment": dict, "stale": [names], "complaints": [sentences]}``. Stale
        are sources that have changed since, or the file itself where there is none; complaints are rows beyond their bound.
    """
    evidence = RECORDS[name].evidence
    evidence = evidence if path is None else replace(evidence, path=path)
    nothing = {"rows": [], "seconds": None, "environment": {}, "complaints": []}
    shown = evidence.path.relative_to(root).as_posix() if evidence.path.is_relative_to(root) else str(evidence.path)
    if not evidence.path.exists():
        return nothing | {"stale": [shown]}
    document = json.loads(evidence.path.read_text(encoding="utf-8"))
    if document.get("format") != evidence.format or not document["rows"]:
        return nothing | {"stale": [shown]}
    made_by, present = document["sources"], evidence.source_hashes(root)
    stale = sorted(path for path in made_by.keys() | present.keys() if made_by.get(path) != present.get(path))
    wrong = [] if stale else [row for row in document["rows"] if row["status"] != "passed"]
    return {key: document[key] for key in ("rows", "seconds", "environment")} | {
        "stale": stale,
        "complaints": [f"{shown}: {sentence(row)}" for row in wrong],
    }


def omissions(name, record):
    """Name a record as one that was not made, where its figures are of other sources."""
    if not record["stale"]:
        return []
    stale = ", ".join(record["stale"])
    reason = f"its committed figures are of other sources ({stale}); `{RECORDS[name].command}` measures it"
    return [{"what": RECORDS[name].shows, "reason": reason}]
