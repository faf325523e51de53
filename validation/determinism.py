"""The tiers of determinism in one stage of the validation: what ran, with which settings, and what did not and why.

D0 is :mod:`validation.decisions_evidence`, D1 and D2 :mod:`validation.repetition`, D3 :mod:`validation.reference_values`.
"""

from . import decisions_evidence, reference_values, repetition

D4 = "half precision and other kernels of attention: no promise, so nothing is compared"


def measure_determinism(*, jobs=2):
    """Measure all tiers.

    Returns:
        ``{"results", "settings", "arrays", "tiers_run", "tiers_not_run"}``: rows of the evidence; a row per setting; a
        record of arrays; words by tier.
    """
    results, settings = decisions_evidence.measure_decisions(jobs=jobs)
    repeated, of_models, arrays = repetition.measure_repetition(jobs=jobs)
    compared, differences = reference_values.measure_reference()
    settings += of_models
    tiers = {tier: describe(tier, settings) for tier in ("D0", "D1", "D2")}
    ran, not_run = tier_of_reference(compared, differences)
    return {
        "results": [*results, *repeated, *compared],
        "settings": settings,
        "arrays": arrays,
        "tiers_run": {tier: words for tier, words in tiers.items() if words} | ran,
        "tiers_not_run": {tier: "no setting ran" for tier, words in tiers.items() if not words} | not_run | {"D4": D4},
    }


def describe(tier, settings):
    """Say on what and how a tier ran; empty if it did not."""
    rows = [row for row in settings if row["tier"] == tier and row["status"] != "not run"]
    models, names = (list(dict.fromkeys(row[key] for row in rows)) for key in ("model", "setting"))
    return f"on {' and '.join(models)}: {'; '.join(names)}" if rows else ""


def tier_of_reference(rows, differences):
    """Words on D3, as ``(run, not run)``: values compared on the machine that made them say nothing of others."""
    if all(row["status"] == "not run" for row in rows):
        return {}, {"D3": "no committed value is of these weights"}
    names = (row["model"].partition(",")[0] for row in rows if row["status"] != "not run")
    models = ", ".join(dict.fromkeys(names))
    on_gpu = any(row["model"].endswith("on a GPU") for row in rows)
    if differences or on_gpu:
        return {"D3": f"committed values on {models}; {'; '.join(differences) or 'on a GPU'}"}, {}
    said = f"values on {models} were compared, but they were committed from the same versions and kind of processor"
    return {}, {"D3": f"needs a second machine or other versions: {said}"}


def omissions(found):
    """What did not run, as entries of the evidence: tiers, and settings that do nothing on this machine."""
    tiers = [(f"determinism tier {tier}", reason) for tier, reason in found["tiers_not_run"].items()]
    rows = [
        (f"determinism {row['tier']}, {row['setting']}, on {row['model']}", row["reason"])
        for row in found["settings"]
        if row["status"] == "not run"
    ]
    return [{"what": what, "reason": reason} for what, reason in (*tiers, *rows)]
