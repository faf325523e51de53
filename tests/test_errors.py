"""Every error is ours and the built-in that a caller would expect, and reads as a sentence."""

import inspect

import pytest

from qkov import errors

CLASSES = [one for _, one in inspect.getmembers(errors, inspect.isclass) if one.__module__ == errors.__name__]
RAISED = [one for one in CLASSES if issubclass(one, errors.QKOVError) and one is not errors.QKOVError]
WARNINGS = [one for one in CLASSES if issubclass(one, Warning)]


@pytest.mark.parametrize("error", RAISED, ids=lambda one: one.__name__)
def test_error_is_also_a_built_in(error):
    built_ins = {base for base in error.__mro__ if base.__module__ == "builtins"}
    assert built_ins - {Exception, BaseException, object}, f"{error.__name__} stands for no built-in exception"


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


def test_exit_statuses_are_those_of_the_table():
    found = {one.exit_status for one in RAISED}
    assert found == {1, 2, 3, 4, 5, 6, 7, 8, 130}
    assert errors.RunsDifferError.exit_status == 1
    assert errors.OptionError.exit_status == 2
    assert errors.BatchError.exit_status == 3
    assert errors.LayoutError.exit_status == 4
    assert (errors.StoreDamagedError.exit_status, errors.StoreBusyError.exit_status) == (5, 6)
    assert (errors.DiskError.exit_status, errors.MemoryLimitError.exit_status) == (7, 8)
    assert errors.CollectionInterrupted.exit_status == 130
