"""Every error is ours and the built-in that a caller would expect, and reads as a sentence."""

import inspect

import pytest

from qkov import errors

CLASSES = [one for _, one in inspect.getmembers(errors, inspect.isclass) if one.__module__ == errors.__name__]
RAISED = [one for one in CLASSES if issubclass(one, errors.QKOVError) and one is not errors.QKOVError]
WARNINGS = [one for one in CLASSES if issubclass(one, Warning)]


@pytest.mark.parametrize("error", RAISED, ids=lambda one: one.__name__)
def test_error_is_also_a_built_in(error):
    built_ins = [base for base in error.__mro__ if base.__module__ == "builtins"]
    assert built_ins[0] is not Exception, f"{error.__name__} stands for no built-in exception"


@pytest.mark.parametrize("error", RAISED, ids=lambda one: one.__name__)
def test_message_is_shown_as_written(error):
    message = "no task 'x' was collected; known tasks: none."
    assert str(error(message)) == message


@pytest.mark.parametrize("warning", WARNINGS, ids=lambda one: one.__name__)
def test_warning_can_be_filtered_as_one_of_ours(warning):
    assert issubclass(warning, errors.QKOVWarning)
    assert issubclass(warning, UserWarning)


def test_tree_holds_nothing_else():
    assert set(CLASSES) == {errors.QKOVError, *RAISED, *WARNINGS}
    assert len(RAISED) > 10
    assert len(WARNINGS) >= 3
