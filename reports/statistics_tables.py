"""Tables of the calibration: what was promised, what the long run found, what the short run of this build found beside it.

Rows of both runs belong together by study, procedure and data. The long one is committed with the hash of its sources;
where they have changed since, the table says so instead of showing old numbers as if they were new.
"""

from .tables import cell, table, unique

# Tables by name, with the studies that each shows. What belongs to none is listed last: a study cannot be left out.
TABLES = {
    "statistics_rates": ("type I", "FWER"),
    "statistics_power": ("power", "FDR", "decoys"),
    "statistics_coverage": ("coverage",),
    "statistics_real": ("real null",),
}
OTHERS = "statistics_others"
INVALID = "invalid"


def statistics_tables(evidence):
    """Every table of the calibration as MyST text, by name."""
    taken = {study for studies in TABLES.values() for study in studies} | {INVALID}
    others = tuple(study for study in unique(row["study"] for row in every_row(evidence)) if study not in taken)
    return {
        **{name: rates_table(evidence, studies) for name, studies in TABLES.items()},
        OTHERS: rates_table(evidence, others),
        "statistics_invalid": invalid_table(evidence),
        "statistics_why": why_table(evidence),
        "statistics_state": state_of(evidence, "statistics_long"),
    }


def every_row(evidence):
    """Rows of the long run, and those of this build's own."""
    return [*long_rows(evidence), *evidence.get("statistics", [])]


def long_rows(evidence):
    """Rows of the committed long run."""
    return evidence.get("statistics_long", {}).get("rows", [])


def key(row):
    """What makes rows of two runs the same question."""
    return row["study"], row["procedure"], row["data"]


def both_runs(evidence, studies):
    """Pairs of rows (long, of this build), either of them None where it was not asked, in the order of the studies."""
    long = {key(row): row for row in long_rows(evidence)}
    short = {key(row): row for row in evidence.get("statistics", [])}
    keys = sorted(unique([*long, *short]), key=lambda one: studies.index(one[0]) if one[0] in studies else -1)
    return [(long.get(one), short.get(one)) for one in keys if one[0] in studies]


def rates_table(evidence, studies):
    """One line per question: the bound, and what both runs measured."""
    rows = []
    for long, short in both_runs(evidence, studies):
        row = long or short
        rows.append(
            [
                row["study"],
                row["procedure"],
                row["data"],
                bound(row),
                measured(long),
                measured(short),
                verdict(long, short),
            ]
        )
    header = ["study", "procedure", "data", "bound", "long run", "this build", "verdict"]
    return table(header, rows, align="lllrrrl") if rows else "Nothing of this was measured.\n"


def invalid_table(evidence):
    """The procedures that must be seen failing, ours on the same data sets beside them."""
    rows = []
    for long, short in both_runs(evidence, (INVALID,)):
        row = long or short
        ours = row.get("ours")
        rows.append(
            [
                row["procedure"],
                row["data"],
                measured(long),
                measured(short),
                "–" if ours is None else f"{ours:.3f}",
                verdict(long, short, "seen failing", "NOT SEEN FAILING"),
            ]
        )
    header = ["procedure", "data", "long run", "this build", "ours, same data", "verdict"]
    return table(header, rows, align="llrrrl") if rows else "Nothing of this was measured.\n"


def why_table(evidence):
    """Each invalid procedure and why it fails."""
    reasons = {}  # reason -> the procedure without what was measured of it
    for row in every_row(evidence):
        if row.get("why"):
            reasons.setdefault(row["why"], row["procedure"].split(":")[0])
    rows = [[name, why] for why, name in reasons.items()]
    return table(["procedure", "why it fails"], rows) if rows else "Nothing of this was measured.\n"


def bound(row):
    """The bound in words."""
    if row["bound"] is None:
        return "shown"
    return f"{row['direction']} {row['bound']:.3f}"


def measured(row):
    """A value with its interval and the number of data sets."""
    if row is None:
        return "–"
    return f"{row['value']:.3f} ({row['low']:.3f} to {row['high']:.3f}; {row['sets']:,})"


def verdict(long, short, good="kept", bad="NOT KEPT"):
    """Whether every run that asked the question kept the bound."""
    return good if all(row["status"] == "passed" for row in (long, short) if row) else bad


def state_of(evidence, name):
    """What there is to know of a committed long run before its numbers are read."""
    long = evidence.get(name, {"rows": [], "complaints": ["no long run was read"]})
    if long["complaints"]:
        said = "\n".join(f"- {cell(complaint)}" for complaint in long["complaints"])
        return f":::{{warning}}\nThe long run does not speak for this build:\n\n{said}\n:::\n"
    minutes = long["seconds"] / 60
    return (
        f"The long run took {minutes:.0f} minutes{made_with(long.get('environment'))}; the sources that made it are those of "
        "this build.\n"
    )


def made_with(environment):
    """The versions and the machine that a long run names, for a sentence."""
    if not environment:
        return ""
    versions = ", ".join(
        f"{name} {environment['versions'][name]}" for name in ("torch", "transformers", "numpy", "scipy")
    )
    place = f"{environment['platform']} ({environment['cpu_capability']})"
    return " " + cell(f"with Python {environment['python']}, {versions} on {place}")


def statistics_numbers(evidence):
    """Numbers for the prose: ``{{ stat_... }}``, of the long run where it asked the question, else of this build's."""
    rows = {key(row): row for row in [*evidence.get("statistics", []), *long_rows(evidence)]}
    found = {
        "num_statistics": len(evidence.get("statistics", [])),
        "num_statistics_kept": sum(row["status"] == "passed" for row in evidence.get("statistics", [])),
        "num_statistics_long": len(long_rows(evidence)),
        "num_statistics_long_kept": sum(row["status"] == "passed" for row in long_rows(evidence)),
    }
    for name, wanted in PROSE.items():
        values = [
            row["value"]
            for one, row in rows.items()
            if all(part in text for part, text in zip(wanted, one, strict=True))
        ]
        found[name] = spread(values)
    return found


PROSE = {
    "stat_source_type_I": ("type I", "test_source", ""),
    "stat_exchange_type_I": ("type I", "test_exchange", ""),
    "stat_contrast_holm": ("FWER", "head_contrast", ""),
    "stat_power_light": ("power", "test_source", "light, kappa 2"),
    "stat_power_heavy": ("power", "test_source", "heavy, kappa 2"),
    "stat_power_12": ("power", "test_source", "12 units"),
    "stat_layers_power_light": ("power", "test_layers", "light, kappa 2"),
    "stat_layers_power_12": ("power", "test_layers", "12 units"),
    "stat_contrast_coverage": ("coverage", "head_contrast", ""),
    "stat_mean_coverage": ("coverage", "mean, jackknife", ""),
    "stat_lift_coverage": ("coverage", "lift, jackknife", ""),
}
"""Parts of study, procedure and data that a row must contain for a number of the prose."""


def spread(values):
    """Write one value, or the smallest and the largest of several."""
    if not values:
        return "(not measured)"
    low, high = f"{min(values):.3f}", f"{max(values):.3f}"
    return low if low == high else f"{low} to {high}"
