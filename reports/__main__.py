"""`python -m reports`: execute the notebooks twice, build the book from the evidence, and end with a verdict.

Reads what `python -m validation` wrote. Exit status 0 only if everything in the evidence passed, its verdicts follow
from its numbers, every notebook repeated bit for bit, the planted notebooks were refused, and the book was built
without a warning; 1 otherwise; 3 if there is no usable evidence.
"""

import argparse
import os
import sys
import time
from pathlib import Path

from qkov import escaping
from validation import offline

from . import (
    bench_pictures,
    bench_tables,
    book,
    controls,
    determinism_tables,
    evidence,
    fault_tables,
    independent_tables,
    measured_tables,
    mutant_tables,
    notebooks,
    prediction_pictures,
    prediction_tables,
    program_pages,
    real_size_tables,
    reliability_tables,
    remedies_pictures,
    remedies_tables,
    statistics_tables,
    status,
    store_tables,
    tables,
)
from .appendix import __main__ as appendix_program
from .appendix import build as appendix
from .appendix import page as appendix_page

ROOT = Path(__file__).resolve().parent.parent


def parse_arguments(arguments):
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m reports", description=__doc__.split("\n\n")[0])
    parser.add_argument("--evidence", type=Path, default=ROOT / "_build" / "validation", help="folder of the evidence")
    parser.add_argument("--book", type=Path, default=ROOT / "book", help="folder of the pages")
    parser.add_argument("--output", type=Path, default=ROOT / "_build" / "book", help="folder to write")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="notebooks at a time")
    parser.add_argument("--timeout", type=int, default=600, help="seconds that one cell may take")
    return parser.parse_args(arguments)


def say(text):
    """Print one line at once, so that a log shows what is running."""
    print(escaping.for_terminal(text), flush=True)


def name_outcomes(found):
    """Name everything that failed, was missed, or did not run."""
    for result in found["results"]:
        if result["status"] != "passed":
            say(f"{result['status']}: {result['check']} on {result['model']}: {result['reason']}")
    for fault in found["faults"]:
        if fault["status"] not in ("caught", "equivalent"):
            say(f"{fault['status']}: fault {fault['fault']} was not caught by {fault['expected']}")
    for row in [*found.get("families", []), *found.get("refused", [])]:
        if row["status"] == "failed":
            say(f"failed: family {row['family']}: {row['reason']}")
    for row in found.get("bad_input", []):
        if row["status"] != "passed":
            say(f"{row['status']}: bad input {row['case']}: {row['reason']}")
    for study in evidence.STUDIES:
        for row in found.get(study, []):
            if row["status"] != "passed":
                say(f"failed: {row['study']} of {row['procedure']} on {row['data']}: {row['value']:.3f}")
        for complaint in found.get(f"{study}_long", {}).get("complaints", []):
            say(f"failed: {complaint}")
    for complaint in [*found.get("mutants", {}).get("complaints", []), *found.get("bench", {}).get("complaints", [])]:
        say(f"failed: {complaint}")
    for complaint in (one for name in evidence.MEASURED for one in found.get(name, {}).get("complaints", [])):
        say(f"failed: {complaint}")
    for entry in found.get("not_run", []):
        say(f"not run: {entry['what']}: {entry['reason']}")


def run_notebooks(options):
    """Execute the notebooks of the book twice; write the executed ones; return the comparisons."""
    sources = sorted((options.book / "notebooks").glob("*.md"))
    executed = options.output / "notebooks"
    executed.mkdir(parents=True, exist_ok=True)
    comparisons = []
    say(f"notebooks: {len(sources)}, each twice, {options.jobs} at a time")
    for comparison in notebooks.execute_twice(sources, jobs=options.jobs, timeout=options.timeout):
        (executed / f"{comparison.name}.ipynb").write_text(comparison.text, encoding="utf-8")
        outcome = "identical" if comparison.identical else "DIFFERENT"
        say(f"  {comparison.name}: {outcome}, {comparison.num_cells} cells, {comparison.seconds / 2:.1f} s each")
        for problem in filter(None, [*comparison.problems, comparison.difference]):
            say(f"    {problem}")
        comparisons.append(comparison)
    return comparisons


def run_controls(options):
    """Show that the comparison refuses what it must; return the controls."""
    planted = controls.run_controls(options.output / "controls", jobs=options.jobs)
    for control in planted:
        say(f"  planted {control.name}: {'as it must be' if control.passed else 'WRONGLY JUDGED: ' + control.said}")
    return planted


def build_appendix(options, found, manifest):
    """Write the methods appendix beside the book, and say what is wrong with it."""
    written = appendix.build(found, manifest, options.output.parent / "appendix")
    appendix_program.say_what_was_made(written)
    return written


def build_book(options, found, manifest, comparisons, planted, written):
    """Write the tables, build the book, say what is wrong with it; `written` is the appendix that it links to."""
    sources = options.output / "sources"
    of_studies = statistics_tables.statistics_tables(found) | remedies_tables.remedies_tables(found)
    of_studies |= prediction_tables.prediction_tables(found) | reliability_tables.reliability_tables(found)
    of_studies |= determinism_tables.determinism_tables(found, manifest)
    of_studies |= fault_tables.fault_tables(found) | store_tables.store_tables(found)
    of_studies |= mutant_tables.mutant_tables(found) | bench_tables.bench_tables(found)
    of_studies |= real_size_tables.real_size_tables(found) | measured_tables.measured_tables(found)
    of_studies |= independent_tables.independent_tables(found) | appendix_page.appendix_tables(written)
    shown = determinism_tables.without_arrays(manifest)
    tables.write_tables(sources / "generated", found, shown, comparisons, planted, **of_studies)
    program_pages.write_program_pages(sources / "generated", ROOT / "examples")
    counts = evidence.count(found) | {"notebooks": outcome(comparisons), "planted notebooks": outcome(planted)}
    status.write_status(sources / "generated", found, manifest, counts, evidence.audit(found))
    for pictures in (prediction_pictures, remedies_pictures, bench_pictures):
        pictures.write_pictures(sources / "generated", found)
    numbers = tables.substitutions(found, evidence.count(found), comparisons)
    numbers |= statistics_tables.statistics_numbers(found) | remedies_tables.remedies_numbers(found)
    numbers |= prediction_tables.prediction_numbers(found) | reliability_tables.reliability_numbers(found)
    numbers |= store_tables.store_numbers(found) | mutant_tables.mutant_numbers(found)
    numbers |= bench_tables.bench_numbers(found)
    numbers |= real_size_tables.real_size_numbers(found) | independent_tables.independent_numbers(found)
    appendix_page.copy_files(written, sources / "generated")
    book.assemble(options.book, options.output / "notebooks", sources, numbers)
    started = time.perf_counter()
    built = book.build(sources, options.output / "pages")
    say(f"book: {built.num_pages} pages in {time.perf_counter() - started:.1f} s, {built.index}")
    for problem in built.problems:
        say(f"  {problem}")
    return built


def summarise(counts, audited, comparisons, planted, built, written):
    """Print the final table and return the exit status."""
    rows = {
        **counts,
        "verdicts": (int(not audited), len(audited), 0),
        "notebooks": outcome(comparisons),
        "planted": outcome(planted),
        "appendix": written.counts,
        "book": (int(not built.problems), len(built.problems), 0),
    }
    say(f"\n{'':<12}{'passed':>8}{'failed':>8}{'not run':>9}")
    for name, row in rows.items():
        say(f"{name:<12}{row[0]:>8}{row[1]:>8}{row[2]:>9}")
    passed, failed, skipped = (sum(column) for column in zip(*rows.values(), strict=True))
    # A part in which nothing passed did not run; nothing may be green by omission.
    empty = [name for name, row in rows.items() if row[0] == 0]
    if empty:
        say(f"nothing passed among: {', '.join(empty)}")
    say(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed or empty else 0


def outcome(items):
    """Count (passed, failed, not run) of comparisons or controls."""
    passed = sum(item.passed for item in items)
    return passed, len(items) - passed, 0


def main(arguments=None):
    """Run everything; return the exit status."""
    options = parse_arguments(arguments)
    offline.block_sockets()  # kernels and the build of the book too; the planted notebook "network" shows it
    try:
        found, manifest = evidence.load_evidence(options.evidence)
    except evidence.EvidenceError as error:
        say(f"reports: {error}")
        return 3
    audited = evidence.audit(found)
    for complaint in audited:
        say(f"verdict: {complaint}")
    name_outcomes(found)
    comparisons = run_notebooks(options)
    planted = run_controls(options)
    written = build_appendix(options, found, manifest)
    built = build_book(options, found, manifest, comparisons, planted, written)
    return summarise(evidence.count(found), audited, comparisons, planted, built, written)


if __name__ == "__main__":
    sys.exit(main())
