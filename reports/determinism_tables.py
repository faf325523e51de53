"""Tables of determinism: the worst that each tier saw, every setting beside it, and the hashes of what was repeated."""

from .tables import cell, number, table, unique

PROMISES = {
    "D0": "decisions exactly; floats 1e-12",
    "D1": "every bit of what is named",
    "D2": "gradients 1e-5, scores 1e-4, ranks 0.9999, the same top pairs up to ties",
    "D3": "1e-3 in float32; float64 loops 1e-9",
    "D4": "none",
}
REFERENCES = ("reference_D3", "reference_float64")


def determinism_tables(evidence, manifest):
    """Every table of determinism as MyST text, by name."""
    found = evidence.get("determinism", {})
    return {
        "determinism_tiers": tiers_table(evidence),
        "determinism_settings": settings_table(found.get("settings", [])),
        "determinism_reference": reference_table(evidence),
        "determinism_arrays": arrays_table(manifest.get("arrays", [])),
    }


def tiers_table(evidence):
    """One line for each tier: its promise, the worst error and where it was seen, and what did not run and why."""
    found, rows = evidence.get("determinism", {}), []
    for tier, promise in PROMISES.items():
        ran = [row for row in found.get("settings", []) if row["tier"] == tier and row["status"] != "not run"]
        worst = worst_of(ran)
        if tier == "D3":
            ran = reference_rows(evidence)
            errors = [row for row in ran if row["error"] is not None]
            at = max(errors, key=lambda row: row["error"] / row["bound"], default=None)
            worst = {"error": f"{cell(at['error'])} ({at['check']}, {at['model']})"} if at else {}
        failed = sum(row["status"] == "failed" for row in ran)
        state = f"{len(ran) - failed} passed, {failed} failed" if ran else "not run"
        rows.append([tier, promise, state, *(worst.get(kind, "") for kind in ("error", "gradients", "scores")),
                     found.get("tiers_not_run", {}).get(tier, "")])  # fmt: skip
    header = ["tier", "promise", "measured", "worst error", "of gradients", "of scores", "left out"]
    return table(header, rows) if found else "Determinism was not measured.\n"


def worst_of(rows):
    """The largest error of each kind, with the setting and model that it was seen on."""
    worst = {}
    for kind, key in (("error", "bits_error"), ("gradients", "gradients_error"), ("scores", "scores_error")):
        measured = [row for row in rows if row[key] is not None]
        if measured:
            at = max(measured, key=lambda row: row[key])
            where = f" ({at['setting']}, {at['model']})" if at[key] else ""
            worst[kind] = f"{number(float(at[key]))}{where}"
    return worst


def settings_table(rows):
    """Every setting, tier by tier: the worst of the models on which it was tried."""
    lines = []
    for tier, setting in unique((row["tier"], row["setting"]) for row in rows):
        mine = [row for row in rows if (row["tier"], row["setting"]) == (tier, setting)]
        errors = [
            max((row[key] for row in mine if row[key] is not None), default=None)
            for key in ("bits_error", "gradients_error", "scores_error")
        ]
        ranks = min((row["ranks"] for row in mine if row["ranks"] is not None), default=None)
        status = ", ".join(unique(row["status"] for row in mine))
        bits = ", ".join(unique(row["bits"] for row in mine if row["bits"]))
        compared = f"{sum(row['compared'] for row in mine):,}"
        lines.append([tier, setting, bits, *errors, "" if ranks is None else f"{ranks:.6f}", compared, status])
    header = [
        "tier",
        "setting",
        "the same bits",
        "error of bits",
        "of gradients",
        "of scores",
        "ranks",
        "compared",
        "status",
    ]
    return table(header, lines, align="lllrrrrrl") if lines else "No setting was tried.\n"


def reference_rows(evidence):
    """Comparisons with committed values that were made."""
    return [row for row in evidence["results"] if row["check"] in REFERENCES and row["status"] != "not run"]


def reference_table(evidence):
    """Committed values beside those of this build."""
    rows = [row for row in evidence["results"] if row["check"] in REFERENCES]
    names = ("check", "model", "error", "bound", "compared", "status", "reason")
    lines = [[row[name] for name in names] for row in rows]
    return table(list(names), lines, align="llrrrll") if lines else "No committed value was compared.\n"


def without_arrays(manifest):
    """The manifest for its own table: the record of arrays is long and has one of its own."""
    return {name: value for name, value in manifest.items() if name != "arrays"}


def arrays_table(arrays):
    """Shape, dtype and the first digits of the hash of every recorded array, with three of its values; model by model."""
    parts = []
    for model in unique(row["model"] for row in arrays):
        lines = [
            [row["array"], " x ".join(map(str, row["shape"])), row["dtype"], row["sha256"][:12],
             ", ".join(f"{value:.6g}" for value in row["values"])]
            for row in arrays if row["model"] == model
        ]  # fmt: skip
        body = table(["array", "shape", "dtype", "SHA-256", "first, middle and last value"], lines)
        parts.append(f":::{{dropdown}} {cell(model)} ({len(lines)})\n{body}:::\n")
    return "\n".join(parts) or "No array was recorded.\n"
