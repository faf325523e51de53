"""Read what the validation wrote, and check that its verdicts follow from its numbers.

The file formats are the interface between the two packages:

`evidence.json`, format "qkov-evidence-1"
    results   check, model, status ("passed", "failed", "not run"), error, bound, compared, seconds, reason
    faults    fault, area, description, expected (a check), caught_by (checks), ratio of error to bound or null,
              status ("caught", "missed"), seconds
    models    name, kind, parameters, description, fingerprint, notes
    families  family, attention_class, packing, sizes, checks_passed, checks_not_run {check: reason},
              status ("proved", "failed"), reason
    refused   family, status ("refused", "failed"), reason
    statistics       study, procedure, data, sets, value, low, high, bound or null, direction ("at most", "at least",
                     "must exceed", "shown"), status ("passed", "failed"); ours, for procedures that must be seen failing
    statistics_long  rows of the committed long run, in the same form; seconds; complaints (sentences: it does not speak
                     for the present sources)
    remedies, remedies_long  the same of freezing slices and of merging models; rows have further keys, described in
                     `validation/freezing.py` and `validation/merging_models.py`
    head_types       what heads of the model trained for them are and do, rows of the form of statistics
    mutants   files (file, mutants, killed, survived, wording, wording_survived, seconds, survivors), stale (files whose rows
              are of other sources), complaints (sentences about the others): what `validation.mutant_record` reads
    not_run   what, reason
    summary   numbers of the run as a whole

`manifest.json`
    versions, commit, machine, threads, seeds, hashes of models and data: everything that a repetition needs
"""

import json
import math
from collections import Counter
from pathlib import Path

FORMAT = "qkov-evidence-1"
STUDIES = ("statistics", "prediction", "remedies", "head_types")
"""What is measured in two lengths: rows of this build under the name, the committed ones under the name with "_long"."""

# A fault is caught with certainty when the check's error is this many times its bound.
MARGIN = 10


class EvidenceError(ValueError):
    """Evidence that is missing, unreadable, or of another format."""


def load_evidence(folder):
    """Read `evidence.json` and `manifest.json` of one validation run.

    Returns:
        Two dictionaries, evidence and manifest.

    Raises:
        EvidenceError: If a file is missing, is not JSON, or has another format.
    """
    evidence, manifest = (read_json(Path(folder) / name) for name in ("evidence.json", "manifest.json"))
    if evidence.get("format") != FORMAT:
        seen = evidence.get("format")
        raise EvidenceError(f"{folder}: evidence has format {seen!r}; expected {FORMAT!r}. Run `python -m validation`.")
    return evidence, manifest


def read_json(path):
    """Read one JSON file, or say what to do."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise EvidenceError(f"{path} does not exist. Run `python -m validation` first.") from error
    except json.JSONDecodeError as error:
        raise EvidenceError(f"{path} is not JSON ({error}). Run `python -m validation` again.") from error


def audit(evidence):
    """List verdicts that do not follow from the numbers beside them, and runs in which nothing ran.

    A result passes only if something was compared and a finite error is within its bound; a fault is caught only if
    the check meant for it is among those that caught it, by the margin.
    """
    wrong = []
    results, faults = evidence.get("results", []), evidence.get("faults", [])
    if not any(result["status"] == "passed" for result in results):
        wrong.append("no check passed: nothing ran")
    if not faults:
        wrong.append("no fault was planted: nothing shows that the checks can fail")
    for result in results:
        if result["status"] == "passed" and (reason := objection(result)):
            wrong.append(f"{result['check']} on {result['model']} is called passed, but {reason}")
    for row in (row for name in STUDIES for row in study_rows(evidence, name)):
        if row["status"] == "passed" and (reason := rate_objection(row)):
            wrong.append(f"{row['study']} of {row['procedure']} on {row['data']} is called passed, but {reason}")
    for fault in faults:
        if fault["status"] != "caught":
            continue
        if fault["expected"] not in fault["caught_by"]:
            wrong.append(f"fault {fault['fault']} is called caught, but not by {fault['expected']}")
        elif fault["ratio"] is not None and not fault["ratio"] >= MARGIN:
            wrong.append(f"fault {fault['fault']} is called caught, but by {fault['ratio']:.3g} times the bound only")
    return wrong


def study_rows(evidence, name):
    """Rows of a study, those of this build and the committed ones."""
    return [*evidence.get(name, []), *evidence.get(f"{name}_long", {}).get("rows", [])]


def objection(result):
    """Why a result cannot have passed, or an empty string."""
    error, bound = result["error"], result["bound"]
    if not result["compared"] > 0:
        return "nothing was compared"
    if error is None or bound is None or not math.isfinite(error):
        return f"its error is {error} and its bound {bound}"
    return "" if error <= bound else f"its error {error:.3g} exceeds its bound {bound:.3g}"


def rate_objection(row):
    """Why a rate of the statistics cannot have kept its bound, or an empty string."""
    value, bound, direction = row["value"], row["bound"], row["direction"]
    if not row["sets"] > 0:
        return "no data set was drawn"
    if value is None or not math.isfinite(value):
        return f"its value is {value}"
    if direction == "shown":
        return ""
    kept = {"at most": lambda: value <= bound, "at least": lambda: value >= bound, "must exceed": lambda: value > bound}
    if bound is None or direction not in kept:
        return f"its bound is {bound} and its direction {direction!r}"
    if kept[direction]():
        return ""
    return f"{value:.3g} is not {'above' if direction == 'must exceed' else direction} {bound:.3g}"


def count(evidence):
    """Count results and faults by outcome.

    Returns:
        `{"checks": (passed, failed, not_run), "faults": (caught, missed, 0), "families": (proved, failed, not_run),
        "statistics": (passed, failed, 0), ...}`, for each of `STUDIES` over this build's rows, those of the long run and
        complaints about it. `"mutants": (files as promised, complaints, 0)`, where any figure is of the present sources;
        files that are stale are among the things not run.
        Things that the run names as not run count among the checks, so that leaving something out shows; a law that
        does not cover a family counts as not run among the families.
    """
    results = Counter(result["status"] for result in evidence["results"])
    faults = Counter(fault["status"] for fault in evidence["faults"])
    families = [*evidence.get("families", []), *evidence.get("refused", [])]
    return {
        "checks": (
            results["passed"],
            sum(results.values()) - results["passed"] - results["not run"],
            results["not run"] + len(evidence.get("not_run", [])),
        ),
        "faults": (faults["caught"], sum(faults.values()) - faults["caught"], 0),
        "families": (
            sum(row["status"] in ("proved", "refused") for row in families),
            sum(row["status"] == "failed" for row in families),
            sum(len(row.get("checks_not_run", ())) for row in families),
        ),
        **{name: count_study(evidence, name) for name in STUDIES},
        **count_mutants(evidence.get("mutants", {})),
    }


def count_mutants(mutants):
    """Files whose tests notice as much as promised; nothing where no figure is of the present sources."""
    stale = set(mutants.get("stale", ()))
    current = [row["file"] for row in mutants.get("files", ()) if row["file"] not in stale]
    poor = {name for name in current if any(name in complaint for complaint in mutants["complaints"])}
    return {"mutants": (len(current) - len(poor), len(mutants["complaints"]), 0)} if current else {}


def count_study(evidence, name):
    """(passed, failed, 0) of the rows of a study; a complaint about its long run is a failure."""
    kept = [row["status"] == "passed" for row in study_rows(evidence, name)]
    complaints = evidence.get(f"{name}_long", {}).get("complaints", [])
    return sum(kept), len(kept) - sum(kept) + len(complaints), 0
