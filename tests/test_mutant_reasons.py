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
        ('np.argsort(words, axis=1, kind="stable")', "np.argsort(words, axis=1, kind=None)", "equivalent"),
        ('np.argsort(x, axis=1, kind="stable")', "np.argsort(x, axis=1, kind=None)", "unexplained"),
        ('np.argsort(x, axis=1, kind="stable")', 'np.argsort(x, kind="stable")', "equivalent"),
        ("x.sum(axis=1)", "x.sum()", "unexplained"),
        ("a + b", "a - b", "unexplained"),
    ],
)
def test_rules_cover_what_they_say(before, after, kind):
    assert mutant_reasons.reason("qkov/x.py", survivor(before, after))["kind"] == kind


def test_words_of_a_message_need_no_entry():
    assert mutant_reasons.reason("qkov/x.py", survivor('"a"', '"A"', wording=True))["kind"] == "wording"


def test_a_rule_of_one_file_holds_there_only():
    case = survivor("a.shape[-1]", "a.shape[+1]")
    assert mutant_reasons.reason("qkov/formula.py", case)["kind"] == "equivalent"
    assert mutant_reasons.reason("qkov/layout.py", case)["kind"] == "unexplained"


def test_kinds_are_known_reasons_are_given_and_files_are_mutated():
    assert {rule.kind for rule in mutant_reasons.RULES} <= set(mutant_reasons.KINDS)
    assert all(rule.reason for rule in mutant_reasons.RULES)
    assert {rule.file for rule in mutant_reasons.RULES} <= {"", *mutant_record.sources()}


def test_every_rule_is_needed():
    record = mutant_record.read()
    left = [(row["file"], one) for row in record["files"] for one in row["survivors"]]
    for rule in mutant_reasons.RULES:
        used = any(rule.covers(file, one["before"], one["after"]) for file, one in left)
        assert used or not left or rule.file in record["stale"], rule
