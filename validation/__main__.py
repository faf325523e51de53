"""`python -m validation`: measure every law on every model, plant the faults, calibrate, spoil the input, write the evidence.

Writes ``evidence.json`` and ``manifest.json``; `python -m reports` turns them into the book and the verdict. Exit status
0 if every check that ran passed, every fault was caught, every row of the studies kept its bound and every situation of
bad input ended as promised, 1 otherwise, 2 for a wrong command line, 4 for a model that cannot be loaded.
"""

import argparse
import hashlib
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from qkov import checks, escaping, hub, reproducibility
from qkov.errors import QKOVError

from . import (
    bad_input,
    committed,
    committed_state,
    determinism,
    faults,
    independent_evidence,
    induction,
    models,
    mutant_record,
    offline,
    prediction_evidence,
    proven,
    remedies_evidence,
    statistics_evidence,
    suite,
    tasks,
    trained,
)
from .bench import record as bench_record
from .store import evidence as store_evidence

ROOT = Path(__file__).resolve().parent.parent
FORMAT = "qkov-evidence-1"
STUDIES = {
    "statistics": statistics_evidence,
    "prediction": prediction_evidence,
    "remedies": remedies_evidence,
    "head_types": induction,
    "store": store_evidence,
}
"""What is measured in two lengths, the long one committed; head types have one length, made every time. The name is also that
of the stage and of its rows."""


def parse_arguments(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m validation", description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", action="append", default=[], metavar="NAME_OR_PATH",
                        help="also measure this causal language model: a hub name or a local folder")  # fmt: skip
    parser.add_argument("--revision", help="branch, tag or commit of the name on the hub that --model gives")
    parser.add_argument("--trust-remote-code", action="store_true",
                        help="run the code that comes with it; needs a commit, 40 digits, as --revision")  # fmt: skip
    parser.add_argument("--device", default="cpu", help="where --model runs, for example cuda (default: cpu)")
    parser.add_argument("--require-gpu", action="store_true",
                        help="end with status 1, before anything runs, where there is no CUDA device")  # fmt: skip
    parser.add_argument("--output", type=Path, default=ROOT / "_build" / "validation", help="folder to write")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="processes of one thread each")
    parser.add_argument("--long", action="store_true",
                        help="make the studies in full, and write the evidence that is committed")  # fmt: skip
    return parser.parse_args(arguments)


def say(text):
    """Print one line at once, so that a log shows what is running."""
    print(escaping.for_terminal(text), flush=True)


def hub_options(options):
    """What :func:`qkov.hub.loading_options` is asked for every --model."""
    return {"revision": options.revision, "trust_remote_code": options.trust_remote_code}


def why_online(options):
    """Why sockets are not blocked, or an empty string."""
    hub_names = [name for name in options.model if not Path(name).is_dir()]
    return f"--model {' '.join(hub_names)} needs the network" if hub_names else ""


def stay_offline(options):
    """Block sockets, unless a name on the hub was given, and try to leave all the same; rows, with "open" for not blocked."""
    if reason := why_online(options):
        return [{"where": "every process", "status": "open", "said": reason}]
    offline.block_sockets()
    with suite.process_pool(1) as pool:
        in_worker = pool.submit(offline.try_to_leave, "a worker process").result()
    return [offline.try_to_leave("the main process"), in_worker]


def gather(options):
    """Train what is missing, measure the models, plant the faults; ``(evidence, seconds by stage)``."""
    seconds = {}

    def timed(stage, function, *arguments, **keywords):
        say(f"{stage} ...")
        started = time.perf_counter()
        result = function(*arguments, **keywords)
        seconds[stage] = round(time.perf_counter() - started, 1)
        say(f"{stage}: {seconds[stage]} s")
        return result

    records = timed("training", train)
    extra = [(name, options.device, hub_options(options)) for name in options.model]
    results, rows, not_run = timed("checks", suite.run_suite, list(models.CASES), jobs=options.jobs, extra=extra)
    repeated = timed("determinism", determinism.measure_determinism, jobs=options.jobs)
    results += repeated.pop("results")
    planted = timed("faults", faults.run_faults, processes=options.jobs)
    of_text, misread = timed("independent", independent_evidence.measure_independent)
    results += of_text
    spoiled = timed("bad input", bad_input.run_cases)
    of_statistics, wrong_statistics = timed("statistics faults", faults.run_statistics, processes=options.jobs)
    results, planted = results + of_statistics, planted + wrong_statistics
    families, refused = timed("families", proven.run_architectures, jobs=options.jobs)
    studies = {name: timed(name, measure_study, name, options) for name in STUDIES}
    mutants, speed = mutant_record.read(), bench_record.read()
    measured = {name: committed_state.read(name) for name in committed_state.RECORDS}
    for row in rows:
        row["notes"] = "; ".join(filter(None, [row["notes"], records.get(row["name"], "")]))
    evidence = {
        "format": FORMAT,
        "results": results,
        "faults": planted,
        "redundancy": faults.redundancy.count(planted, [*checks.CHECKS, *faults.statistics_checks.CHECKS]),
        "models": rows,
        "families": families,
        "refused": refused,
        "bad_input": spoiled,
        "misreadings": misread,
        "determinism": repeated,
        **studies,
        **{f"{name}_long": module.EVIDENCE.read() for name, module in STUDIES.items()},
        "mutants": mutants,
        "bench": speed,
        **measured,
        "not_run": [
            *not_run,
            *determinism.omissions(repeated),
            *omissions(options),
            *mutant_record.omissions(mutants),
            *bench_record.omissions(speed),
            *itertools.chain(*(committed_state.omissions(name, one) for name, one in measured.items())),
        ],
    }
    evidence["summary"] = summarise(evidence)
    return evidence, seconds


def measure_study(name, options):
    """Make one of :data:`STUDIES`: briefly, or in full and for the record."""
    if options.long:
        return STUDIES[name].make_long(options.jobs)
    return STUDIES[name].measure(False, jobs=options.jobs)


def train():
    """Train what is not cached; ``{case name: held-out losses in words}``.

    Raises:
        RuntimeError: If a training ended without its model.
    """
    if status := trained.main([]):
        raise RuntimeError(f"training ended with status {status}; its own message is above.")
    induction.main([])
    records = {family: trained.load_record(family) for family in trained.FAMILIES}
    return {
        f"trained-{family}": "held out, nats per byte: "
        + ", ".join(f"{task} {loss:.3f}" for task, loss in record["held_out"].items())
        for family, record in records.items()
    }


def omissions(options):
    """Name what this run leaves out, so that nothing is green by omission."""
    left_out = []
    if not torch.cuda.is_available():
        left_out.append(("models on a GPU", "torch finds no CUDA device"))
    if not options.model:
        left_out.append(("a causal language model of your own", "--model was not given"))
    if reason := why_online(options):
        left_out.append(("without the network", reason))
    return [{"what": what, "reason": reason} for what, reason in left_out]


def summarise(evidence):
    """Count outcomes."""
    statuses = [result["status"] for result in evidence["results"]]
    return {
        "passed": statuses.count("passed"),
        "failed": statuses.count("failed"),
        "not_run": statuses.count("not run") + len(evidence["not_run"]),
        "compared": sum(result["compared"] for result in evidence["results"]),
        "faults": len(evidence["faults"]),
        "faults_caught": sum(fault["status"] == "caught" for fault in evidence["faults"]),
        "faults_equivalent": sum(fault["status"] == "equivalent" for fault in evidence["faults"]),
        "families": len(evidence["families"]),
        "families_failed": sum(row["status"] == "failed" for row in evidence["families"] + evidence["refused"]),
        "bad_input": len(evidence["bad_input"]),
        "bad_input_failed": sum(row["status"] not in ("passed", "not run") for row in evidence["bad_input"]),
        "bad_input_not_run": sum(row["status"] == "not run" for row in evidence["bad_input"]),
        **{name: len(evidence[name]) for name in STUDIES},
        "studies_failed": sum(row["status"] != "passed" for name in STUDIES for row in evidence[name]),
        "studies_complaints": sum(len(evidence[f"{name}_long"]["complaints"]) for name in STUDIES),
        "measured_complaints": [
            complaint for name in committed_state.RECORDS for complaint in evidence[name]["complaints"]
        ],
        "checks_without_a_fault": faults.unexercised(evidence["faults"]),
        "redundancy_complaints": faults.redundancy.complaints(evidence["redundancy"], evidence["faults"]),
    }


def manifest(evidence, seconds):
    """Record everything that the numbers depend on."""
    return {
        "commit": commit(),
        "constraints_sha256": hashlib.sha256((ROOT / "constraints.txt").read_bytes()).hexdigest(),
        "environment": reproducibility.environment_record(),
        "data_fingerprint": tasks.corpus_fingerprint(),
        "models": {row["name"]: row["fingerprint"] for row in evidence["models"]},
        "offline": {
            "sockets other than loopback blocked": all(row["status"] == "refused" for row in evidence["offline"]),
            **{f"tried from {row['where']}": f"{row['status']}: {row['said']}" for row in evidence["offline"]},
        },
        **{name: evidence["determinism"][name] for name in ("tiers_run", "tiers_not_run", "arrays")},
        "seconds": seconds,
    }


def commit():
    """The commit that is checked out, marked when files differ from it; "unknown" outside a repository."""

    def git(*arguments):
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else ""

    head = git("rev-parse", "HEAD")
    return (head + (" with changes" if git("status", "--porcelain") else "")) if head else "unknown"


def write(path, content):
    """Write JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=1, allow_nan=False, sort_keys=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def main(arguments=None):
    """Run everything; return the exit status."""
    options = parse_arguments(arguments)
    torch.set_num_threads(1)
    if options.require_gpu and not torch.cuda.is_available():
        say("validation: --require-gpu: no CUDA device; nothing was run")
        return 1
    try:
        for name in options.model:  # refused before anything is measured or loaded
            hub.loading_options(name, **hub_options(options))
    except QKOVError as error:
        say(f"validation: {error}")
        return error.exit_status
    tried = stay_offline(options)
    if reached := [row for row in tried if row["status"] == "reached"]:
        say(f"validation: sockets are not blocked in {reached[0]['where']}: {reached[0]['said']}")
        return 1
    try:
        evidence, seconds = gather(options)
    except (QKOVError, OSError) as error:
        say(f"validation: {type(error).__name__}: {error}")
        return 4
    evidence["offline"] = tried
    write(options.output / "manifest.json", manifest(evidence, seconds))
    write(options.output / "evidence.json", evidence)
    for result in evidence["results"]:
        if result["status"] == "failed":
            say(f"FAILED {result['check']} on {result['model']}: {result['reason']}")
    for row in evidence["families"] + evidence["refused"]:
        if row["status"] == "failed":
            say(f"FAILED family {row['family']}: {row['reason']}")
    for fault in evidence["faults"]:
        if fault["status"] not in ("caught", "equivalent"):
            say(f"MISSED fault {fault['fault']}: {fault['expected']} did not catch it")
    for row in evidence["bad_input"]:
        if row["status"] != "passed":
            say(f"{'not run' if row['status'] == 'not run' else 'FAILED'}: bad input {row['case']}: {row['reason']}")
    for complaint in evidence["summary"]["redundancy_complaints"]:
        say(f"FAILED redundancy: {complaint}")
    for complaint in evidence["summary"]["measured_complaints"]:
        say(f"FAILED {complaint}")
    for name in STUDIES:
        for row in evidence[name]:
            if row["status"] != "passed":
                say(f"FAILED {name}: {committed.sentence(row)}")
        for complaint in evidence[f"{name}_long"]["complaints"]:
            say(f"FAILED {name}: {complaint}")
    found = evidence["summary"]
    say(f"{found['passed']} checks passed, {found['failed']} failed, {found['not_run']} not run; "
        f"{found['families']} families, {found['families_failed']} failed; "
        f"{found['bad_input']} situations of bad input, {found['bad_input_failed']} failed, {found['bad_input_not_run']} not "
        f"run; "
        f"{sum(found[name] for name in STUDIES)} rows of {' and '.join(STUDIES)}, {found['studies_failed']} failed; "
        f"{found['faults_caught']} of {found['faults']} faults caught; {found['compared']:,} numbers compared")  # fmt: skip
    wrong = found["failed"] or found["families_failed"] or found["checks_without_a_fault"]
    wrong = wrong or found["studies_failed"] or found["studies_complaints"] or found["bad_input_failed"]
    wrong = wrong or found["redundancy_complaints"] or found["measured_complaints"]
    tried = found["bad_input"] > found["bad_input_not_run"]
    caught = found["faults_caught"] + found["faults_equivalent"] == found["faults"] > 0
    return 0 if found["passed"] and all(found[name] for name in STUDIES) and caught and tried and not wrong else 1


if __name__ == "__main__":
    sys.exit(main())
