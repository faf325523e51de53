"""A rule covers its own family of survivors and nothing beside it."""

import pytest

from validation import mutant_reasons, mutant_record


def survivor(before, after, wording=False, function="f"):
    return {"function": function, "before": before, "after": after, "wording": wording}


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [
        ("zip(a, b, strict=True)", "zip(a, b, strict=False)", "guard"),
        ("zip(a, b, strict=True)", "zip(a, b, )", "guard"),
        ("zip(a, b, strict=True)", "zip(a, strict=True)", "unexplained"),
        ("zip(a, b, strict=True)", "zip(a, b + 1, strict=False)", "unexplained"),
        ('np.argsort(x, axis=1, kind="stable")', "np.argsort(x, axis=1, kind=None)", "equivalent"),
        ('np.argsort(x, axis=1, kind="stable")', 'np.argsort(x, kind="stable")', "equivalent"),
        ("x.sum(axis=1)", "x.sum()", "unexplained"),
        ("a + b", "a - b", "unexplained"),
    ],
)
def test_rules_cover_what_they_say(before, after, kind):
    assert mutant_reasons.reason("qkov/x.py", survivor(before, after))["kind"] == kind


def test_words_of_a_message_need_no_entry():
    assert mutant_reasons.reason("qkov/x.py", survivor('"a"', '"A"', wording=True))["kind"] == "wording"


def test_a_listed_survivor_has_its_own_reason(monkeypatch):
    monkeypatch.setattr(mutant_reasons, "LISTED", {"qkov/x.py": (("f", "a", "b", "speed", "because"),)})
    assert mutant_reasons.reason("qkov/x.py", survivor("a", "b")) == {"kind": "speed", "reason": "because"}
    assert mutant_reasons.reason("qkov/y.py", survivor("a", "b"))["kind"] == "unexplained"
    assert mutant_reasons.reason("qkov/x.py", survivor("a", "b", function="g"))["kind"] == "unexplained"


def test_kinds_are_known_and_reasons_are_given():
    entries = [entry for listed in mutant_reasons.LISTED.values() for entry in listed]
    assert {kind for *_, kind, _ in entries} | {rule.kind for rule in mutant_reasons.RULES} <= set(mutant_reasons.KINDS)
    assert all(text for *_, text in entries)
    assert set(mutant_reasons.LISTED) <= set(mutant_record.sources())
