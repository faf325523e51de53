"""Tables of the book, as MyST text, made from the evidence.

Pages take them in by ``{include}``; nothing that is a measurement is typed by hand.
"""

import math
import re

from qkov import escaping


def cell(value):
    """Write one value into a cell of a Markdown table: numbers short, text escaped and on one line.

    Example:
        >>> cell(1.23456e-9), cell(None), cell(12), cell("a|b")
        ('1.2e-09', '–', '12', 'a\\\\|b')
    """
    if value is None or value == "":
        return "–"
    if isinstance(value, bool | int):
        return str(value)
    if isinstance(value, float):
        return number(value)
    if isinstance(value, list | tuple):
        return ", ".join(cell(item) for item in value) or "–"
    return escaping.for_markdown(" ".join(str(value).split()))


def number(value):
    """Write a float with two digits of an exponent, or plainly where that is shorter."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.1e}" if abs(value) < 1e-2 or abs(value) >= 1e5 else f"{value:.3g}"


def table(header, rows, *, align=None):
    """Build a Markdown table; `align` holds "l" or "r" for each column."""
    marks = {"l": ":--", "r": "--:"}
    lines = [list(map(cell, header)), [marks[side] for side in (align or "l" * len(header))]]
    lines += [list(map(cell, row)) for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def unique(values):
    """Distinct values in the order of their first appearance."""
    return list(dict.fromkeys(values))


def laws_table(evidence):
    """One line for each check: models, worst error, the bound there, and how many numbers were compared."""
    rows = []
    for check in unique(result["check"] for result in evidence["results"]):
        results = [result for result in evidence["results"] if result["check"] == check]
        ran = [result for result in results if result["status"] != "not run"]
        worst = max(ran, key=share_of_bound, default={"error": None, "bound": None, "model": None})
        rows.append(
            [
                check,
                sum(result["status"] == "passed" for result in ran),
                sum(result["status"] == "failed" for result in ran),
                len(results) - len(ran),
                worst["error"],
                worst["bound"],
                worst["model"],
                f"{sum(result['compared'] for result in ran):,}",
            ]
        )
    header = ["check", "passed", "failed", "not run", "worst error", "bound", "on model", "compared"]
    return table(header, rows, align="lrrrrrlr")


def share_of_bound(result):
    """Error over bound, for ranking; a missing or non-finite error ranks worst."""
    error, bound = result["error"], result["bound"]
    if error is None or bound is None or not math.isfinite(error):
        return math.inf
    return error / bound if bound else (math.inf if error else 0.0)


def results_by_check(evidence):
    """Every single result, folded away check by check."""
    header = ["model", "status", "error", "bound", "compared", "seconds", "remark"]
    parts = []
    for check in unique(result["check"] for result in evidence["results"]):
        results = [result for result in evidence["results"] if result["check"] == check]
        rows = [
            [result[name] for name in ("model", "status", "error", "bound", "compared", "seconds", "reason")]
            for result in results
        ]
        passed = sum(result["status"] == "passed" for result in results)
        body = table(header, rows, align="llrrrrl")
        parts.append(f":::{{dropdown}} {cell(check)} ({passed} of {len(results)} passed)\n{body}:::\n")
    return "\n".join(parts)


def models_table(evidence):
    """The models that were measured, with what is to be known of each: held-out losses, precision."""
    rows = [
        [
            model["name"],
            model["kind"],
            f"{model['parameters']:,}",
            "; ".join(filter(None, [model["description"], model["notes"]])),
            str(model["fingerprint"])[:12],
        ]
        for model in evidence["models"]
    ]
    return table(["model", "kind", "parameters", "what it is", "fingerprint"], rows, align="llrll")


def families_table(evidence):
    """The families of transformers whose heads were found and proved, packing by packing."""
    parts = []
    for packing in unique(row["packing"] for row in evidence.get("families", [])):
        rows = [
            [
                row["family"],
                row["attention_class"],
                f"{row['num_heads']} / {row['num_kv_heads']}",
                f"{row['head_dim']} / {row['k_head_dim']} / {row['v_head_dim']}",
                f"{row['status']}, {row['checks_passed']} of {row['checks_passed'] + len(row['checks_not_run'])} laws",
            ]
            for row in evidence["families"]
            if row["packing"] == packing
        ]
        body = table(["family", "attention", "heads / kv", "d_q / d_k / d_v", "verdict"], rows, align="llrrl")
        parts.append(f":::{{dropdown}} {cell(packing)} ({len(rows)})\n{body}:::\n")
    return "\n".join(parts) or "No family was measured.\n"


def exceptions_table(evidence):
    """The laws that do not cover a family, with the reason; they count as not run."""
    families = evidence.get("families", [])
    laws = {}  # (families, reason) -> laws, so that a reason is read once
    for check, reason in unique(pair for row in families for pair in row["checks_not_run"].items()):
        outside = ", ".join(row["family"] for row in families if row["checks_not_run"].get(check) == reason)
        laws.setdefault((outside, reason), []).append(check)
    rows = [[outside, ", ".join(checks), reason] for (outside, reason), checks in laws.items()]
    return table(["family", "outside of", "because"], rows) if rows else "Every law covers every family.\n"


def refused_table(evidence):
    """The families that are refused, with what the error says."""
    rows = [[row["family"], row["status"], row["reason"]] for row in evidence.get("refused", [])]
    return table(["family", "verdict", "the error"], rows) if rows else "No family was refused.\n"


def head_types_table(evidence):
    """What the heads of the model that was trained for induction are and do, with the bounds."""
    rows = [
        [row["procedure"], row["sets"], row["value"], "" if row["bound"] is None else f"{row['direction']} {row['bound']:g}",
         row["status"]]
        for row in evidence.get("head_types", [])
    ]  # fmt: skip
    header = ["measured", "heads or sets of heads", "value", "bound", "status"]
    return table(header, rows, align="lrrrl") if rows else "No head was measured.\n"


def not_run_table(evidence):
    """What did not run and why: named, never green by omission."""
    rows = [
        (f"{result['check']} on {result['model']}", result["reason"])
        for result in evidence["results"]
        if result["status"] == "not run"
    ]
    rows += [(entry["what"], entry["reason"]) for entry in evidence.get("not_run", [])]
    return table(["not run", "reason"], rows) if rows else "Everything ran.\n"


def manifest_tables(manifest):
    """The provenance of the run: single values in one table, each group of values in its own."""
    single = {name: value for name, value in manifest.items() if not is_nested(value)}
    parts = [table(["property", "value"], list(single.items()))]
    for name, value in manifest.items():
        if is_nested(value):
            parts.append(f"**{cell(name)}**\n\n{nested_table(value)}")
    return "\n".join(parts)


def is_nested(value):
    """Whether a value of the manifest needs a table of its own."""
    return bool(value) and (isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict)))


def nested_table(value):
    """A table of a list of records, or of a dictionary whose own dictionaries are written with dots."""
    if isinstance(value, list):
        header = unique(name for record in value for name in record)
        return table(header, [[record.get(name) for name in header] for record in value])
    return table(["property", "value"], flatten(value))


def flatten(value, prefix=""):
    """Pairs of dotted name and value.

    Example:
        >>> flatten({"a": {"b": 1}, "c": 2})
        [('a.b', 1), ('c', 2)]
    """
    pairs = []
    for name, item in value.items():
        pairs += flatten(item, f"{prefix}{name}.") if isinstance(item, dict) and item else [(f"{prefix}{name}", item)]
    return pairs


def notebooks_table(comparisons):
    """The notebooks that were executed twice."""
    rows = [[c.name, c.num_cells, "identical" if c.identical else "different", c.sha256[:12]] for c in comparisons]
    return table(["notebook", "cells", "two executions", "SHA-256"], rows, align="lrll")


def controls_table(controls):
    """The planted notebooks, and what the comparison said about them."""
    # An address differs from run to run, and the book must not.
    said = [re.sub(r"0x[0-9a-f]{6,}", "0x...", c.said.splitlines()[0]) for c in controls]
    rows = [[c.name, "as it must be" if c.passed else "wrong", line] for c, line in zip(controls, said, strict=True)]
    return table(["planted notebook", "judged", "first line of the judgement"], rows)


def substitutions(evidence, counts, comparisons):
    """Numbers for the prose of the pages, as in ``{{ num_faults }}``."""
    ran = [result for result in evidence["results"] if result["status"] != "not run"]
    return {
        "num_checks": len(unique(result["check"] for result in ran)),
        "num_results": len(ran),
        "num_passed": counts["checks"][0],
        "num_failed": counts["checks"][1],
        "num_not_run": counts["checks"][2],
        "num_compared": f"{sum(result['compared'] for result in ran):,}",
        "num_models": len({result["model"] for result in ran} & {model["name"] for model in evidence["models"]}),
        "num_families": len(evidence.get("families", [])),
        "num_families_whole": sum(not row["checks_not_run"] for row in evidence.get("families", [])),
        "num_refused": len(evidence.get("refused", [])),
        "num_faults": len(evidence["faults"]),
        "num_faults_caught": sum(fault["status"] == "caught" for fault in evidence["faults"]),
        "num_faults_equivalent": sum(fault["status"] == "equivalent" for fault in evidence["faults"]),
        "num_checks_alone": sum(row["alone"] > 0 for row in evidence.get("redundancy", [])),
        "num_checks_never_alone": sum(row["alone"] == 0 for row in evidence.get("redundancy", [])),
        "num_notebooks": len(comparisons),
        "num_notebooks_identical": sum(comparison.identical for comparison in comparisons),
    }


def write_tables(folder, evidence, manifest, comparisons, controls, **others):
    """Write every table into `folder`, one file each, named as the pages include them; `others` are texts by name."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "laws": laws_table(evidence),
        "results": results_by_check(evidence),
        "models": models_table(evidence),
        "families": families_table(evidence),
        "exceptions": exceptions_table(evidence),
        "refused": refused_table(evidence),
        "head_types": head_types_table(evidence),
        "not_run": not_run_table(evidence),
        "manifest": manifest_tables(manifest),
        "notebooks": notebooks_table(comparisons),
        "controls": controls_table(controls),
        **others,
    }
    for name, text in texts.items():
        (folder / f"{name}.md").write_text(text, encoding="utf-8")
    return sorted(texts)
