"""How the results of a report were made: rows of words and values, from the record of the run and from the results."""

from .. import escaping


def rows(data):
    """Return ``(what, value)`` pairs: text only, names made visible."""
    return [(what, escaping.visible(value)) for what, value in (*_of_run(data.record), *_of_results(data))]


def not_run(data):
    """Return ``(what, reason)`` of everything that was not done, that the record names or that the data lacks."""
    found = [(str(one["what"]), str(one["reason"])) for one in data.record.get("not_run", ())]
    known = " ".join(what for what, _ in found)
    absent = {"statistics": data.statistics, "prediction": data.prediction, "head types": data.types}
    reason = "not among the results that this report was made from"
    found += [(what, reason) for what, one in absent.items() if one is None and what.replace(" ", "_") not in known]
    return [(escaping.visible(what), escaping.visible(why)) for what, why in found]


def _of_run(record):
    for name in ("format", "status", "started", "finished", "command", "device", "threads"):
        if record.get(name) is not None:
            yield name, _text(record[name])
    for name in ("model", "commit", "seeds", "versions", "seconds"):
        yield from _nested(name, record.get(name))
    for task, facts in (record.get("data") or {}).items():
        yield from _nested(f"data, task {task}", facts)
    for file, facts in (record.get("results") or {}).items():
        yield from _nested(file, facts)


def _of_results(data):
    results = {f"scores, {name}": one for one, name in zip(data.heatmaps, data.names, strict=True)}
    results |= {"statistics": data.statistics, "prediction": data.prediction, "top pairs": data.top_pairs}
    for name, one in results.items():
        if one is not None:
            yield f"fingerprint of {name}", one.fingerprint
    facts = data.first.attributes
    if "model_fingerprint" in facts:
        yield "fingerprint of the model’s weights", facts["model_fingerprint"]
    if not data.record:
        yield from _nested("versions", facts.get("versions"))


def _nested(name, facts):
    if isinstance(facts, dict):
        for key, value in facts.items():
            if value is not None:
                yield f"{name}: {key}", _text(value)
    elif facts is not None:
        yield name, _text(facts)


def _text(value):
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return f"{value:.6g}" if isinstance(value, float) else str(value)
