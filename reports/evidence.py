"""Read what the validation wrote, and check that its verdicts follow from its numbers.

The file formats are the interface between the two packages:

`evidence.json`, format "qkov-evidence-1"
    results   check, model, status ("passed", "failed", "not run"), error, bound, compared, seconds, reason
    faults    fault, area, description, expected (a check), caught_by (checks), ratio of error to bound or null,
              status ("caught", "missed", "equivalent"), seconds, proof of an equivalent one
    redundancy  check, caught (faults), alone (faults that no other check catches), reason to keep it if there is none
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
    offline   where, status ("refused": a connection tried from there was blocked, "reached", "open": not blocked), said
    bad_input        case, group, situation, behaviour, expected, error and warning (class names or "none"),
                     exit_status or null, message, unchanged (null where it did not run), status ("passed", "failed",
                     "not run"), reason, seconds
    misreadings      misreading, equation, noticed_by (comparisons), ratio of error to bound or null, status ("noticed",
                     "missed"): wrong readings of the methods appendix; what was reproduced from its text is among the results
    determinism      settings (tier, setting, model, bits, bits_error, gradients_error, scores_error, ranks, compared,
                     status, reason), arrays (a record of the first run's), tiers_run and tiers_not_run in words; its
                     verdicts are among the results
    store, store_long  what harnesses did to stores and found, and which noticed stores that are wrong on purpose; further
                     keys are described in `validation/store/evidence.py`
    mutants   files (file, mutants, killed, survived, wording, wording_survived, seconds, survivors), stale (files whose rows
              are of other sources), complaints (sentences about the others): what `validation.mutant_record` reads
    bench     rows (name, group, says, direction, hold, stretch, prototype, value, conditions, status ("held", "missed",
              "wrong", "not run"), reason, changed: sources other than those measured), groups (machine, seconds, details),
              complaints: what `validation.bench.record` reads
    real_size, memory_peaks, plans  rows (of the form of statistics), seconds, environment, stale (sources that have changed
              since), complaints (rows beyond their bound): the committed figures of the modules of these names
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
MEASURED = ("real_size", "memory_peaks", "plans")  # committed figures of one machine
STUDIES = ("statistics", "prediction", "remedies", "head_types", "store")
"""What is measured in two lengths: rows of this build under the name, the committed ones under the name with "_long"."""

# Of all faults, so many at most may be proved to be no fault.
EQUIVALENT_SHARE = 0.05

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
    if not evidence.get("offline") or any(row["status"] == "reached" for row in evidence["offline"]):
        wrong.append("offline: nothing shows that sockets were blocked, or that they were left open on purpose")
    for result in results:
        if result["status"] == "passed" and (reason := objection(result)):
            wrong.append(f"{result['check']} on {result['model']} is called passed, but {reason}")
    measured = (row for name in MEASURED for row in evidence.get(name, {}).get("rows", []))
    for row in (*(row for name in STUDIES for row in study_rows(evidence, name)), *measured):
        if row["status"] == "passed" and (reason := rate_objection(row)):
            wrong.append(f"{row['study']} of {row['procedure']} on {row['data']} is called passed, but {reason}")
    if not any(row["status"] == "passed" for row in evidence.get("bad_input", [])):
        wrong.append("no situation of bad input passed: nothing shows what happens then")
    for row in evidence.get("bad_input", []):
        if row["status"] == "passed" and (reason := situation_objection(row)):
            wrong.append(f"bad input {row['case']} is called passed, but {reason}")
    for fault in faults:
        if fault["status"] != "caught":
            continue
        if fault["expected"] not in fault["caught_by"]:
            wrong.append(f"fault {fault['fault']} is called caught, but not by {fault['expected']}")
        elif fault["ratio"] is not None and not fault["ratio"] >= MARGIN:
            wrong.append(f"fault {fault['fault']} is called caught, but by {fault['ratio']:.3g} times the bound only")
    wrong += [f"misreading {one['misreading']} is called noticed, but by nothing" for one in evidence.get("misreadings", [])
              if one["status"] == "noticed" and not one["noticed_by"]]  # fmt: skip
    return wrong + audit_equivalents(faults) + audit_redundancy(evidence)


def audit_equivalents(faults):
    """List faults that are called equivalent and are not, or without a proof, and too many of them."""
    equivalent = [fault for fault in faults if fault["status"] == "equivalent"]
    wrong = [f"fault {one['fault']} is called equivalent, but {', '.join(one['caught_by'])} caught it"
             for one in equivalent if one["caught_by"]]  # fmt: skip
    wrong += [
        f"fault {one['fault']} is called equivalent without a proof" for one in equivalent if not one.get("proof")
    ]
    if len(equivalent) > EQUIVALENT_SHARE * len(faults):
        wrong.append(f"{len(equivalent)} of {len(faults)} faults are called equivalent, more than 5 %")
    return wrong


def audit_redundancy(evidence):
    """List checks whose counts do not follow from the faults, and those kept without a reason or with one too many."""
    caught_by = [fault["caught_by"] for fault in evidence.get("faults", []) if fault["status"] != "equivalent"]
    wrong = []
    for row in evidence.get("redundancy", []):
        found = sum(row["check"] in one for one in caught_by), sum(one == [row["check"]] for one in caught_by)
        if found != (row["caught"], row["alone"]):
            wrong.append(
                f"check {row['check']} is said to catch {row['caught']} faults, {row['alone']} alone; counted {found}"
            )
        if bool(row["alone"]) == bool(row["reason"]):
            kept = "a reason to be kept, and needs none" if row["reason"] else "no reason to be kept"
            wrong.append(f"check {row['check']} catches {row['alone']} faults alone and has {kept}")
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


def situation_objection(row):
    """Why a situation cannot have ended as promised, or an empty string."""
    if row["unchanged"] is not True:
        return "what was collected before has changed"
    if row["error"] != row["expected"]:
        return f"{row['error']} came where {row['expected']} was expected"
    if (row["error"] == "none") != (row["exit_status"] is None):
        return f"its error is {row['error']} and its exit status {row['exit_status']}"
    if row["error"] != "none" and not row["message"]:
        return "its error says nothing"
    return ""


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
        "bad_input": (passed, failed, not_run), "statistics": (passed, failed, 0), ...}`, the last for each of `STUDIES` over
        this build's rows, those of the long run and complaints about it. `"mutants": (files as promised, complaints, 0)`,
        where any figure is of the present sources; files that are stale are among the things not run.
        `"bench": (goals held, complaints, 0)` likewise; a goal that is missed, with its reason, is in neither number and is
        named on its page. `"real_size"` and the others of `MEASURED`: as the mutants.
        Things that the run names as not run count among the checks, so that leaving something out shows; a law that
        does not cover a family counts as not run among the families.
    """
    results = Counter(result["status"] for result in evidence["results"])
    faults = Counter(fault["status"] for fault in evidence["faults"])
    families = [*evidence.get("families", []), *evidence.get("refused", [])]
    situations = Counter(row["status"] for row in evidence.get("bad_input", []))
    return {
        "checks": (
            results["passed"],
            sum(results.values()) - results["passed"] - results["not run"],
            results["not run"] + len(evidence.get("not_run", [])),
        ),
        "faults": (good := faults["caught"] + faults["equivalent"], sum(faults.values()) - good, 0),
        "families": (
            sum(row["status"] in ("proved", "refused") for row in families),
            sum(row["status"] == "failed" for row in families),
            sum(len(row.get("checks_not_run", ())) for row in families),
        ),
        "bad_input": (
            situations["passed"],
            sum(situations.values()) - situations["passed"] - situations["not run"],
            situations["not run"],
        ),
        **{name: count_study(evidence, name) for name in STUDIES},
        **count_mutants(evidence.get("mutants", {})),
        **count_bench(evidence.get("bench", {})),
        **{name: counted for name in MEASURED if (counted := count_measured(evidence.get(name, {})))},
    }


def count_bench(bench):
    """Goals of speed and memory that are held by the present sources; nothing where no number is of them."""
    current = [row for row in bench.get("rows", ()) if not row["changed"] and row["status"] != "not run"]
    held = sum(row["status"] == "held" for row in current)
    return {"bench": (held, len(bench["complaints"]), 0)} if current else {}


def count_mutants(mutants):
    """Files whose tests notice as much as promised; nothing where no figure is of the present sources."""
    stale = set(mutants.get("stale", ()))
    current = [row["file"] for row in mutants.get("files", ()) if row["file"] not in stale]
    poor = {name for name in current if any(name in complaint for complaint in mutants["complaints"])}
    return {"mutants": (len(current) - len(poor), len(mutants["complaints"]), 0)} if current else {}


def count_measured(record):
    """Rows with a bound; None where the figures are of other sources, which is among the things not run."""
    bounded = [row["status"] == "passed" for row in record.get("rows", []) if row["bound"] is not None]
    if record.get("stale") or not bounded:
        return None
    return sum(bounded), len(bounded) - sum(bounded), 0


def count_study(evidence, name):
    """(passed, failed, 0) of the rows of a study; a complaint about its long run is a failure."""
    kept = [row["status"] == "passed" for row in study_rows(evidence, name)]
    complaints = evidence.get(f"{name}_long", {}).get("complaints", [])
    return sum(kept), len(kept) - sum(kept) + len(complaints), 0
