"""What a mutant changed, and when it is only the words of a message."""

import pytest

from validation import mutant_diffs

SOURCE = '''def f(x):
    """Do it."""
    if x < 0:
        raise ValueError(
            f"x is {x}; "
            "expected more."
        )
    return "word" + x
'''


def test_changed_lines_are_those_that_differ():
    found = mutant_diffs.change("f", SOURCE, SOURCE.replace("x < 0", "x <= 0"))
    assert found.as_row() == {"function": "f", "before": "if x < 0:", "after": "if x <= 0:", "wording": False}


def test_a_line_that_is_gone_or_new_is_shown_on_one_side():
    assert mutant_diffs.changed_lines(["a", "b", "b"], ["a", "b"]) == ("b", "")
    assert mutant_diffs.changed_lines(["a", "c"], ["a", "  b", "c"]) == ("", "b")


@pytest.mark.parametrize("words", ["XXexpected more.XX", "EXPECTED MORE."])
def test_other_words_of_an_error_are_wording(words):
    assert mutant_diffs.change("f", SOURCE, SOURCE.replace("expected more.", words)).wording


def test_other_words_of_a_warning_are_wording():
    text = "def f(x):\n    warnings.warn('so')\n    print('so')"
    assert mutant_diffs.is_wording(text, text.replace("warn('so')", "warn('SO')"))
    assert not mutant_diffs.is_wording(text, text.replace("print('so')", "print('SO')"))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("x < 0", "x <= 0"),
        ('"word"', '"WORD"'),
        ("{x}", "{x + 1}"),
        ("ValueError", "TypeError"),
    ],
)
def test_anything_else_is_more_than_wording(old, new):
    assert not mutant_diffs.is_wording(SOURCE, SOURCE.replace(old, new))
    assert not mutant_diffs.is_wording(SOURCE, "def f(x):\n    raise ValueError(None)")


def test_methods_are_read_as_they_are_indented():
    method = "    def put(self):\n        return 1\n"
    assert mutant_diffs.change("Frame.put", method, method.replace("1", "2")).after == "return 2"
